"""Taxonomy files: species, genera, families and groups with synonyms, as columns or as taxa with parents."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
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
from fossilray.labels.occurrence import genus_and_species

RANKS: tuple[TaxonRank, ...] = get_args(TaxonRank)
"""From fine to coarse."""
_COLUMNS = (*RANKS, "synonyms")
_PARENT_COLUMNS = ("taxon", "rank", "parent", "synonyms")
_MAX_BYTES = 16 * 2**20

Refusal = Callable[[str, str], FossilrayError]
"""Makes the error that names the file, the row and, of a sheet, the cell of a column, with a reason."""
Lineage = Mapping[TaxonRank, str]
"""Names by rank; ranks at which nothing is known are missing."""


@dataclass(frozen=True)
class TaxonRow:
    """One row of a taxonomy file: a species, or a genus or a family without finer taxa."""

    species: str = ""
    genus: str = ""
    family: str = ""
    group: str = ""
    synonyms: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The accepted name: that of the finest rank."""
        return self.species or self.genus or self.family or self.group

    @property
    def lineage(self) -> Lineage:
        """The names of the row by rank, from fine to coarse."""
        return {rank: name for rank in RANKS if (name := getattr(self, rank))}

    def at(self, rank: TaxonRank) -> str:
        """Return the name at a rank, or the next finer one if the row has none at that rank."""
        finer = RANKS[RANKS.index(rank) :: -1]
        return next((getattr(self, level) for level in finer if getattr(self, level)), self.name)


class Taxonomy:
    """Rows of a taxonomy file, indexed by accepted name and synonym."""

    def __init__(self, rows: Sequence[tuple[TaxonRow, Refusal]]) -> None:
        """Index rows, each with what refuses it.

        Raises:
            UsageError: names form a circle, have two ranks or two parents, or belong to two taxa.
        """
        self.rows = tuple(row for row, _ in rows)
        _refuse_circles(rows)
        _refuse_two_ranks(rows)
        self._row_of: dict[str, TaxonRow] = {}
        for row, refuse in rows:
            for column, name in ((_rank_of(row), row.name), *(("synonyms", name) for name in row.synonyms)):
                known = self._row_of.setdefault(taxon_key(name), row)
                if known != row:
                    raise refuse(
                        f"it gives {name!r} to {known.name} and to {row.name}; a name belongs to one taxon",
                        column,
                    )
        for key, row in _coarser_taxa(rows).items():
            self._row_of.setdefault(key, row)

    def find(self, label: str) -> TaxonRow | None:
        """Return the row whose name or synonym is this label, None if it is missing.

        A genus, family or group without a row of its own is known from the rows that name it.
        """
        return self._row_of.get(taxon_key(label))


def lineage_of(taxon: str, taxonomy: Taxonomy | None, *, rank: TaxonRank | None = None) -> Lineage:
    """Return the names of a taxon by rank: from the taxonomy, else by the form of its name; empty for no name.

    A species that the taxonomy lacks is of the genus that its name states. rank: the rank of a taxon that the taxonomy
    lacks, where it is known.
    """
    if not taxon:
        return {}
    row = None if taxonomy is None else taxonomy.find(taxon)
    if row is not None:
        return row.lineage
    if rank not in (None, "species"):
        return {rank: taxon}
    genus, species = genus_and_species(taxon)
    if not species:
        return {"genus": taxon} if rank is None else {rank: taxon}
    known = None if taxonomy is None else taxonomy.find(genus)
    lineage: dict[TaxonRank, str] = {"species": species, "genus": genus}
    if known is not None and known.genus:
        lineage.update({level: name for level, name in known.lineage.items() if level != "species"})
    return lineage


def read_taxonomy(path: Path) -> Taxonomy:
    """Read a table of species, genus, family, group and synonyms (`;` or `|` between names), or the same as YAML.

    A table of taxon, rank, parent and synonyms is read as well.

    Raises:
        UsageError: the file cannot be read, names a rank that is not known, or contradicts itself.
    """
    role = FileRole(str(path), "a taxonomy", f"give rows of {', '.join(_COLUMNS)}", UsageError)
    if path.suffix.lower() in {".yaml", ".yml"}:
        entries = _read_yaml(path, role)
    else:
        table = read_user_table(path, use=role.use, columns=(), remedy=role.remedy, max_bytes=_MAX_BYTES)
        columns = _PARENT_COLUMNS if table.has("taxon", "parent") else _COLUMNS
        for name in filter(None, table.header):
            if name.lower() not in columns:
                raise role.damaged(f"it has the column {name!r:.60}; known are {', '.join(columns)}")
        entries = [
            (row.error, {name: row[name] for name in columns if table.has(name)}) for row in table.rows
        ]
    if not entries:
        raise role.damaged("it contains no taxa")
    fields = [(_fields(entry, error), error) for error, entry in entries]
    if any("taxon" in entry for entry, _ in fields):
        return Taxonomy(_rows_of_parents(fields))
    return Taxonomy([(_row(entry, error), error) for entry, error in fields])


def taxon_key(name: str) -> str:
    """Return a name for comparison: without case, with a blank for an underscore."""
    return _plain(name.replace("_", " ")).casefold()


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
    return lambda reason, _: role.damaged(f"row {row}: {reason}")


def _fields(entry: Mapping[Any, Any], refuse: Refusal) -> dict[str, Any]:
    fields = {str(name).strip().lower(): value for name, value in entry.items() if name is not None}
    columns = _PARENT_COLUMNS if "taxon" in fields else _COLUMNS
    if unknown := sorted(set(fields) - set(columns)):
        raise refuse(f"it has {list_some(unknown)}, expected {', '.join(columns)}", unknown[0])
    listed = fields.get("synonyms") or ()
    synonyms = listed.replace("|", ";").split(";") if isinstance(listed, str) else listed
    if not isinstance(synonyms, list | tuple):
        raise refuse(f"its synonyms are {synonyms!r:.60}, expected a list of names", "synonyms")
    plain = {name: _plain(fields.get(name) or "") for name in columns}
    return {**plain, "synonyms": tuple(filter(None, map(_plain, synonyms)))}


def _row(fields: Mapping[str, Any], refuse: Refusal) -> TaxonRow:
    row = TaxonRow(**fields)
    if not (row.species or row.genus or row.family):
        raise refuse("it names neither a species nor a genus nor a family", "genus")
    return row


def _rows_of_parents(entries: Sequence[tuple[Mapping[str, Any], Refusal]]) -> list[tuple[TaxonRow, Refusal]]:
    """Return a row for each taxon of (taxon, rank, parent), with the names of its parents."""
    taxa: dict[str, tuple[Mapping[str, Any], Refusal]] = {}
    for fields, refuse in entries:
        if not fields.get("taxon"):
            raise refuse("it names no taxon", "taxon")
        if fields["rank"] not in RANKS:
            raise refuse(f"its rank is {fields['rank']!r:.40}, expected {', '.join(RANKS)}", "rank")
        if taxa.setdefault(taxon_key(fields["taxon"]), (fields, refuse))[0] is not fields:
            raise refuse(f"{fields['taxon']} is there twice", "taxon")
    rows = []
    for fields, refuse in entries:
        lineage = {fields["rank"]: fields["taxon"]}
        below, trail = fields, [taxon_key(fields["taxon"])]
        while below["parent"]:
            key = taxon_key(below["parent"])
            if key not in taxa:
                raise taxa[trail[-1]][1](f"its parent {below['parent']} has no row", "parent")
            if key in trail:
                names = [taxa[name][0]["taxon"] for name in (*trail[trail.index(key) :], key)]
                raise refuse(f"its parents form a circle: {' -> '.join(names)}", "parent")
            parent, _ = taxa[key]
            if RANKS.index(parent["rank"]) <= RANKS.index(below["rank"]):
                raise taxa[trail[-1]][1](
                    f"{below['taxon']} is a {below['rank']}, and its parent {parent['taxon']} is a {parent['rank']}; "
                    f"the order of ranks is {', '.join(RANKS)}",
                    "parent",
                )
            lineage[parent["rank"]] = parent["taxon"]
            trail.append(key)
            below = parent
        rows.append((TaxonRow(**lineage, synonyms=fields["synonyms"]), refuse))
    return rows


def _refuse_circles(rows: Sequence[tuple[TaxonRow, Refusal]]) -> None:
    """Refuse names that lead back to themselves by parents and synonyms."""
    graph: dict[str, dict[str, tuple[str, str, Refusal]]] = {}
    for row, refuse in rows:
        steps = [(rank, below, over) for (rank, below), (_, over) in itertools.pairwise(row.lineage.items())]
        for column, below, over in (*steps, *(("synonyms", synonym, row.name) for synonym in row.synonyms)):
            if taxon_key(below) != taxon_key(over):
                graph.setdefault(taxon_key(below), {}).setdefault(taxon_key(over), (below, column, refuse))
    try:
        # It takes what comes before each node; a circle is listed from node to node.
        TopologicalSorter({below: list(over) for below, over in graph.items()}).prepare()
    except CycleError as error:
        keys = list(reversed(error.args[1]))
        edges = [graph[below][over] for below, over in itertools.pairwise(keys)]
        names = [name for name, _, _ in edges]
        _, column, refuse = edges[-1]
        raise refuse(f"its names form a circle: {' -> '.join([*names, names[0]])}", column) from None


def _refuse_two_ranks(rows: Sequence[tuple[TaxonRow, Refusal]]) -> None:
    """Refuse a name at two ranks, unless one row gives one name to both."""
    ranks: dict[str, set[TaxonRank]] = {}
    for row, _ in rows:
        of_row: dict[str, set[TaxonRank]] = {}
        for rank, name in row.lineage.items():
            of_row.setdefault(taxon_key(name), set()).add(rank)
        for key, levels in of_row.items():
            if len(levels) > 1:
                ranks.setdefault(key, set()).update(levels)
    for row, refuse in rows:
        for rank, name in row.lineage.items():
            known = ranks.setdefault(taxon_key(name), {rank})
            if rank not in known:
                others = " and a ".join(sorted(known))
                raise refuse(
                    f"{name} is a {rank} here and a {others} in another row; a name has one rank", rank
                )


def _coarser_taxa(rows: Sequence[tuple[TaxonRow, Refusal]]) -> dict[str, TaxonRow]:
    """Return the genera, families and groups that rows name; the rows must agree on what these belong to."""
    taxa: dict[str, TaxonRow] = {}
    for number, rank in enumerate(RANKS[1:], 1):
        for row, refuse in rows:
            name = getattr(row, rank)
            if not name:
                continue
            coarser = TaxonRow(**{level: getattr(row, level) for level in RANKS[number:]})
            known = taxa.setdefault(taxon_key(name), coarser)
            if getattr(known, rank) == "":
                continue  # the row of a name that stands for two ranks
            for over in RANKS[number + 1 :]:
                first, other = getattr(known, over), getattr(coarser, over)
                if first and other and first != other:
                    raise refuse(
                        f"it puts the {rank} {name} into {first!r} and into {other!r}; give it one {over}",
                        over,
                    )
                known = replace(known, **{over: first or other})
            taxa[taxon_key(name)] = known
    return taxa


def _rank_of(row: TaxonRow) -> TaxonRank:
    return next(iter(row.lineage))


def _plain(name: object) -> str:
    return " ".join(unicodedata.normalize("NFC", str(name)).split())
