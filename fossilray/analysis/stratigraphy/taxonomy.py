"""Taxonomy files: species, genera and groups with synonyms, and the grouping of labels by them."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from fossilray.core.config.choices import TaxonRank
from fossilray.core.errors import FossilrayError, UsageError
from fossilray.core.formats import FileRole
from fossilray.core.formats.csv_text import decode_text
from fossilray.core.formats.regular_file import read_regular
from fossilray.core.formats.yaml_text import parse_yaml
from fossilray.core.text import list_some
from fossilray.core.user_table import read_user_table

RANKS: tuple[TaxonRank, ...] = get_args(TaxonRank)
_COLUMNS = (*RANKS, "synonyms")
_MAX_BYTES = 16 * 2**20

Refusal = Callable[[str], FossilrayError]
"""Makes the error that names the file and the row with a reason."""


@dataclass(frozen=True)
class TaxonRow:
    """One row of a taxonomy file: a species, or a genus without species."""

    species: str
    genus: str
    group: str
    synonyms: tuple[str, ...]

    @property
    def name(self) -> str:
        """The accepted name: the species, or the genus of a row without species."""
        return self.species or self.genus

    def at(self, rank: TaxonRank) -> str:
        """Return the name at a rank, or the next finer one if the row has none at that rank."""
        if rank == "species":
            return self.name
        return (self.group if rank == "group" else "") or self.genus or self.species


@dataclass(frozen=True)
class TaxonGrouping:
    """Labels grouped into taxa of one rank."""

    taxa: tuple[str, ...]
    groups: tuple[str, ...]
    """The group of each taxon, empty if it has none."""
    taxon_of_label: tuple[int, ...]
    """Index of the taxon of each label; -1: left out."""
    merged: tuple[tuple[str, tuple[str, ...]], ...]
    """Each taxon that includes labels of other names, with these labels."""
    unknown: tuple[str, ...]
    """Labels that the taxonomy lacks; each is a taxon under its own name."""


class Taxonomy:
    """Rows of a taxonomy file, indexed by accepted name and synonym."""

    def __init__(self, rows: Sequence[TaxonRow], *, source: str) -> None:
        """Index rows. `source` names the file in messages.

        Raises:
            UsageError: a name belongs to two taxa, or a genus to two groups.
        """
        self.rows = tuple(rows)
        self._row_of: dict[str, TaxonRow] = {}
        for row in rows:
            for name in (row.name, *row.synonyms):
                known = self._row_of.setdefault(_key(name), row)
                if known != row:
                    raise UsageError(
                        f"{source} gives {name!r} to {known.name} and to {row.name}; a name belongs to one taxon"
                    )
        # A genus without a row of its own is known from its species, which must agree on its group.
        genera: dict[str, TaxonRow] = {}
        for row in rows:
            if row.genus and row.species:
                genus = TaxonRow("", row.genus, row.group, ())
                if genera.setdefault(_key(row.genus), genus) != genus:
                    raise UsageError(
                        f"{source} puts the genus {row.genus} into {genera[_key(row.genus)].group!r} and into "
                        f"{row.group!r}; give it one group"
                    )
        for key, row in genera.items():
            self._row_of.setdefault(key, row)

    def find(self, label: str) -> TaxonRow | None:
        """Return the row whose name or synonym is this label, None if it is missing."""
        return self._row_of.get(_key(label))


def read_taxonomy(path: Path) -> Taxonomy:
    """Read a CSV with the columns species, genus, group and synonyms (`;` or `|` between names), or the same as YAML.

    Raises:
        UsageError: the file cannot be read, or a name belongs to two taxa.
    """
    role = FileRole(str(path), "a taxonomy", f"give rows of {', '.join(_COLUMNS)}", UsageError)
    if path.suffix.lower() in {".yaml", ".yml"}:
        entries = _read_yaml(path, role)
    else:
        table = read_user_table(
            path, use=role.use, columns=(), optional=_COLUMNS, remedy=role.remedy, max_bytes=_MAX_BYTES
        )
        entries = [(row.error, {name: row[name] for name in _COLUMNS}) for row in table.rows]
    if not entries:
        raise role.damaged("it contains no taxa")
    return Taxonomy([_row(entry, error) for error, entry in entries], source=str(path))


def group_taxa(
    labels: Sequence[str],
    taxonomy: Taxonomy | None,
    *,
    rank: TaxonRank = "genus",
    leave_out: Sequence[str] = (),
    uncounted: Sequence[str] = (),
) -> TaxonGrouping:
    """Group labels into taxa of a rank. Without a taxonomy, each label is a taxon.

    Args:
        leave_out: labels, taxa or groups that are not counted.
        uncounted: labels that are not counted either, such as marker grains.

    Raises:
        UsageError: a name in `leave_out` is not a label, taxon or group.
    """
    rows = [None if taxonomy is None else taxonomy.find(label) for label in labels]
    names = [label if row is None else row.at(rank) for label, row in zip(labels, rows, strict=True)]
    groups = ["" if row is None else row.group for row in rows]
    wanted = {_key(name): name for name in leave_out}
    known = {_key(name) for name in (*labels, *names, *groups)}
    if missing := [name for key, name in wanted.items() if key not in known]:
        raise UsageError(
            f"{list_some(missing)} is not a label, taxon or group here and cannot be left out; the taxa are "
            f"{list_some(sorted(set(names)), most=20)}"
        )
    is_left_out = [
        label in uncounted or any(_key(part) in wanted for part in (label, name, group))
        for label, name, group in zip(labels, names, groups, strict=True)
    ]
    taxa = list(dict.fromkeys(name for name, out in zip(names, is_left_out, strict=True) if not out))
    members: dict[str, list[str]] = {}
    for label, name in zip(labels, names, strict=True):
        if label != name:
            members.setdefault(name, []).append(label)
    return TaxonGrouping(
        taxa=tuple(taxa),
        groups=tuple(groups[names.index(taxon)] for taxon in taxa),
        taxon_of_label=tuple(
            -1 if out else taxa.index(name) for name, out in zip(names, is_left_out, strict=True)
        ),
        merged=tuple((taxon, tuple(merged)) for taxon, merged in sorted(members.items())),
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
    return [(_refuse_row(role, row), entry) for row, entry in enumerate(entries, start=1)]


def _refuse_row(role: FileRole, row: int) -> Refusal:
    return lambda reason: role.damaged(f"row {row}: {reason}")


def _row(entry: Mapping[Any, Any], error: Refusal) -> TaxonRow:
    fields = {str(name).strip().lower(): value for name, value in entry.items() if name is not None}
    if unknown := sorted(set(fields) - set(_COLUMNS)):
        raise error(f"it has {list_some(unknown)}, expected {', '.join(_COLUMNS)}")
    listed = fields.get("synonyms") or ()
    synonyms = listed.replace("|", ";").split(";") if isinstance(listed, str) else listed
    if not isinstance(synonyms, list | tuple):
        raise error(f"its synonyms are {synonyms!r:.60}, expected a list of names")
    species, genus, group = (_plain(fields.get(rank) or "") for rank in RANKS)
    row = TaxonRow(species, genus, group, tuple(filter(None, map(_plain, synonyms))))
    if not row.name:
        raise error("it names neither a species nor a genus")
    return row


def _plain(name: object) -> str:
    return " ".join(unicodedata.normalize("NFC", str(name)).split())


def _key(name: str) -> str:
    """Return a name for comparison: without case, with a blank for an underscore."""
    return _plain(name.replace("_", " ")).casefold()
