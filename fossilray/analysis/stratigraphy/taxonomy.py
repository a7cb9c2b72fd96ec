"""Which labels are one taxon: species, genera and groups with their synonyms, from a file."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from fossilray.core.csv_table import read_csv_table
from fossilray.core.errors import FossilrayError, UsageError
from fossilray.core.formats import FileRole
from fossilray.core.formats.csv_text import decode_text
from fossilray.core.formats.regular_file import read_regular
from fossilray.core.formats.yaml_text import parse_yaml
from fossilray.core.text import list_some

Rank = Literal["species", "genus", "group"]
RANKS: tuple[Rank, ...] = get_args(Rank)
_COLUMNS = (*RANKS, "synonyms")
_MAX_BYTES = 16 * 2**20

Refusal = Callable[[str], FossilrayError]
"""Makes the error that names the file and the row with a reason."""


@dataclass(frozen=True)
class TaxonRow:
    """One line of the file: a species, or a genus alone."""

    species: str
    genus: str
    group: str
    synonyms: tuple[str, ...]

    @property
    def name(self) -> str:
        """The finest name that the line gives, which its synonyms stand for."""
        return self.species or self.genus

    def at(self, rank: Rank) -> str:
        """The name at a rank; the next finer one where the line gives none, for nothing is guessed."""
        if rank == "species":
            return self.name
        return (self.group if rank == "group" else "") or self.genus or self.species


@dataclass(frozen=True)
class TaxonGrouping:
    """Labels as taxa of one rank."""

    taxa: tuple[str, ...]
    groups: tuple[str, ...]
    """The group of each taxon, empty where none is given."""
    member_of: tuple[int, ...]
    """The taxon of each label; -1 for one that is left out."""
    merged: tuple[tuple[str, tuple[str, ...]], ...]
    """Taxa that stand for other labels than their own name, and these labels."""
    unknown: tuple[str, ...]
    """Labels that the file does not name; they stay as they are."""


class Taxonomy:
    """Rows of a taxonomy file, found by any name that they give."""

    def __init__(self, rows: Sequence[TaxonRow], *, source: str) -> None:
        """Raises UsageError if one name stands for two taxa."""
        self.rows = tuple(rows)
        self._row_of: dict[str, TaxonRow] = {}
        for row in rows:
            for name in (row.name, *row.synonyms):
                known = self._row_of.setdefault(_key(name), row)
                if known != row:
                    raise UsageError(
                        f"{source} gives {name!r} to {known.name} and to {row.name}; a name belongs to one taxon"
                    )
        # A genus that only its species name is known too, unless they disagree about its group.
        genera: dict[str, TaxonRow] = {}
        for row in rows:
            if row.genus and row.species:
                own = TaxonRow("", row.genus, row.group, ())
                if genera.setdefault(_key(row.genus), own) != own:
                    raise UsageError(
                        f"{source} puts the genus {row.genus} into {genera[_key(row.genus)].group!r} and into "
                        f"{row.group!r}; give it one group"
                    )
        for key, row in genera.items():
            self._row_of.setdefault(key, row)

    def find(self, label: str) -> TaxonRow | None:
        """The row that names a label, by any of its names."""
        return self._row_of.get(_key(label))


def read_taxonomy(path: Path) -> Taxonomy:
    """A CSV with the columns species, genus, group and synonyms (`;` or `|` between them), or the same as YAML.

    Raises:
        UsageError: it cannot be read, or gives one name to two taxa.
    """
    role = FileRole(str(path), "a taxonomy", f"give rows of {', '.join(_COLUMNS)}", UsageError)
    if path.suffix.lower() in {".yaml", ".yml"}:
        entries = _read_yaml(path, role)
    else:
        table = read_csv_table(
            path, use=role.use, columns=(), optional=_COLUMNS, remedy=role.remedy, max_bytes=_MAX_BYTES
        )
        entries = [(row.error, {name: row[name] for name in _COLUMNS}) for row in table.rows]
    if not entries:
        raise role.damaged("it contains no taxa")
    return Taxonomy([_row(entry, error) for error, entry in entries], source=str(path))


def group_taxa(
    labels: Sequence[str], taxonomy: Taxonomy | None, *, rank: Rank = "genus", leave_out: Sequence[str] = ()
) -> TaxonGrouping:
    """The taxa that labels are of; without a taxonomy each label is its own.

    leave_out: labels, taxa or groups that are not to be counted.

    Raises:
        UsageError: one of these is none.
    """
    rows = [None if taxonomy is None else taxonomy.find(label) for label in labels]
    names = [label if row is None else row.at(rank) for label, row in zip(labels, rows, strict=True)]
    groups = ["" if row is None else row.group for row in rows]
    wanted = {_key(name): name for name in leave_out}
    known = {_key(name) for name in (*labels, *names, *groups)}
    if missing := [name for key, name in wanted.items() if key not in known]:
        raise UsageError(
            f"{', '.join(missing)} is no label, taxon or group here, so it cannot be left out; there are "
            f"{', '.join(sorted(set(names))[:20])}"
        )
    out = [
        any(_key(part) in wanted for part in (label, name, group))
        for label, name, group in zip(labels, names, groups, strict=True)
    ]
    taxa = list(dict.fromkeys(name for name, gone in zip(names, out, strict=True) if not gone))
    members: dict[str, list[str]] = {}
    for label, name in zip(labels, names, strict=True):
        if label != name:
            members.setdefault(name, []).append(label)
    return TaxonGrouping(
        taxa=tuple(taxa),
        groups=tuple(groups[names.index(taxon)] for taxon in taxa),
        member_of=tuple(-1 if gone else taxa.index(name) for name, gone in zip(names, out, strict=True)),
        merged=tuple((taxon, tuple(own)) for taxon, own in sorted(members.items())),
        unknown=()
        if taxonomy is None
        else tuple(label for label, row in zip(labels, rows, strict=True) if row is None),
    )


def _read_yaml(path: Path, role: FileRole) -> list[tuple[Refusal, Mapping[Any, Any]]]:
    try:
        content = read_regular(path, most_bytes=_MAX_BYTES)
    except OSError as error:
        raise role.damaged(error) from None
    entries = parse_yaml(decode_text(content, role), role)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise role.damaged("it contains no list of taxa")
    return [
        (lambda reason, row=row: role.damaged(f"row {row}: {reason}"), entry)
        for row, entry in enumerate(entries, start=1)
    ]


def _row(entry: Mapping[Any, Any], error: Refusal) -> TaxonRow:
    given = {str(name).strip().lower(): value for name, value in entry.items() if name is not None}
    if unknown := sorted(set(given) - set(_COLUMNS)):
        raise error(f"it has {list_some(unknown)}, expected {', '.join(_COLUMNS)}")
    listed = given.get("synonyms") or ()
    parts = listed.replace("|", ";").split(";") if isinstance(listed, str) else listed
    if not isinstance(parts, list | tuple):
        raise error(f"its synonyms are {parts!r:.60}, expected a list of names")
    species, genus, group = (_plain(given.get(rank) or "") for rank in RANKS)
    row = TaxonRow(species, genus, group, tuple(filter(None, map(_plain, parts))))
    if not row.name:
        raise error("it names neither a species nor a genus")
    return row


def _plain(name: object) -> str:
    return " ".join(unicodedata.normalize("NFC", str(name)).split())


def _key(name: str) -> str:
    """Names are one whatever their case, and with a blank or an underscore between words."""
    return _plain(name.replace("_", " ")).casefold()
