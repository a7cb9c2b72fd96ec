"""Tables of human counts: one line per sample and taxon, or a matrix of samples and taxa either way round."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fossilray.core.errors import FossilrayError
from fossilray.core.formats import FileRole
from fossilray.core.plausible_values import why_no_depth
from fossilray.core.sample_terms import SAMPLE_TYPES, normalise_sample_type, normalise_unit
from fossilray.core.table_rows import TableRow, UserTable
from fossilray.core.text import list_some
from fossilray.core.user_table import read_user_table

_POINT = ("measured_depth_m", "depth_m", "depth")
_TOP = ("top_depth_m", "top_m", "top_depth", "top")
_BASE = ("base_depth_m", "base_m", "base_depth", "base")
_TYPE = ("sample_type", "type")
_SAMPLE_COLUMNS = ("slide_id", "well", *_POINT, *_TOP, *_BASE, *_TYPE, "depth_unit")
_NOT_COUNTED = ("group", "sample", "remark", "remarks", "analyst")
"""Columns of a matrix that are neither a taxon nor state a sample."""
_HEADING = re.compile(r"(?P<top>\d+(?:\.\d+)?)(?: ?- ?(?P<base>\d+(?:\.\d+)?))?(?: ?m\b)?(?P<type>.*)")
_METRES_PER_FOOT = 0.3048


@dataclass(frozen=True)
class ExpertSample:
    """The sample of a count as the file states it; what it does not state is empty or None."""

    slide_id: str = ""
    well: str = ""
    top_m: float | None = None
    base_m: float | None = None
    sample_type: str | None = None

    def __str__(self) -> str:
        if self.slide_id or self.top_m is None:
            return self.slide_id
        ends = f"{self.top_m:g}" if self.top_m == self.base_m else f"{self.top_m:g}-{self.base_m:g}"
        return f"{ends} m {self.sample_type or ''}".strip()


@dataclass(frozen=True)
class ExpertCount:
    """Specimens of one taxon that the expert counted in one sample."""

    sample: ExpertSample
    taxon: str
    """As written, without blanks around it."""
    specimens: int
    row: TableRow
    column: int
    """Index of the column of the number."""

    def refuse(self, reason: str) -> FossilrayError:
        """The error that names the file and the line or cell."""
        return self.row.error(reason, self.column)


@dataclass(frozen=True)
class ExpertCounts:
    """All counts of a file."""

    role: FileRole
    counts: tuple[ExpertCount, ...]


def read_expert_counts(path: Path) -> ExpertCounts:
    """Read human counts: columns of a sample and of taxon and count, or a matrix of samples and taxa.

    A sample is stated by slide_id, or by measured_depth_m, or by top_depth_m and base_depth_m, with well and
    sample_type where they are needed. A matrix has taxa as columns beside these, or a column taxon and samples as other
    columns, under their slide_id or depth; an empty cell of a matrix is 0.

    Raises:
        UsageError: the file is no such table, a count is missing, negative or not whole, or a sample is not stated.
    """
    table = read_user_table(
        path,
        use="counts of an expert",
        columns=(),
        remedy="give numbers of specimens in the columns taxon and count beside slide_id, or beside well and "
        "measured_depth_m; or a matrix of samples and taxa",
    )
    if not table.rows:
        raise table.role.damaged("it has no counts")
    if not table.has("taxon"):
        counts = tuple(_samples_down(table))
    elif table.has("count"):
        counts = tuple(_long(table))
    else:
        counts = tuple(_taxa_down(table))
    if not counts:
        raise table.role.damaged("it has no counts")
    return ExpertCounts(table.role, counts)


def _long(table: UserTable) -> Iterator[ExpertCount]:
    column = table.position("count")
    assert column is not None
    for row in table.rows:
        taxon = row["taxon"]
        if not taxon:
            raise row.error("taxon is empty; fill it or remove the line", "taxon")
        specimens = _specimens(row, column)
        if specimens is None:
            raise row.error(f"the count of {taxon} is empty; write 0 if none was found", column)
        yield ExpertCount(_stated_sample(row), taxon, specimens, row, column)


def _samples_down(table: UserTable) -> Iterator[ExpertCount]:
    columns = _value_columns(table, (*_SAMPLE_COLUMNS, *_NOT_COUNTED))
    for row in table.rows:
        sample = _stated_sample(row)
        for column, taxon in columns:
            yield ExpertCount(sample, taxon, _specimens(row, column) or 0, row, column)


def _taxa_down(table: UserTable) -> Iterator[ExpertCount]:
    columns = _value_columns(table, ("taxon", *_NOT_COUNTED))
    for row in table.rows:
        taxon = row["taxon"]
        if not taxon:
            raise row.error("taxon is empty; fill it or remove the line", "taxon")
        for column, heading in columns:
            yield ExpertCount(_sample_of_heading(heading), taxon, _specimens(row, column) or 0, row, column)


def _value_columns(table: UserTable, others: tuple[str, ...]) -> list[tuple[int, str]]:
    columns = [(i, name) for i, name in enumerate(table.header) if name and name.lower() not in others]
    if not columns:
        raise table.role.damaged(
            f"it has no column of counts; its columns: {list_some(table.header, most=12)}"
        )
    return columns


def _specimens(row: TableRow, column: int) -> int | None:
    number = row.number_at(column, whole=True)
    if number is not None and number < 0:
        raise row.error(f"{row.table.header[column]} is {number:g}; a count is 0 or more", column)
    return None if number is None else int(number)


def _stated_sample(row: TableRow) -> ExpertSample:
    point, top, base = (_depth(row, names) for names in (_POINT, _TOP, _BASE))
    if (top is None) != (base is None):
        raise row.error("only one of top and base is given; give both, equal for a sample of one depth")
    top, base = (point, point) if top is None else (top, base)
    if top is not None and base is not None and top > base:
        raise row.error(f"the interval {top:g} to {base:g} m is upside down; top is the shallower one")
    slide_id = row["slide_id"]
    if not slide_id and top is None:
        raise row.error(
            "no sample is stated; give slide_id, measured_depth_m, or top_depth_m and base_depth_m"
        )
    kind = row.table.first_of(_TYPE)
    return ExpertSample(slide_id, row["well"], top, base, normalise_sample_type(row[kind]) if kind else None)


def _depth(row: TableRow, names: tuple[str, ...]) -> float | None:
    name = row.table.first_of(names)
    number = None if name is None else row.number(name)
    if name is None or number is None:
        return None
    if not name.endswith("_m") and row["depth_unit"]:
        unit = normalise_unit(row["depth_unit"])
        if unit is None:
            raise row.error(f"depth_unit is {row['depth_unit']!r:.40}; write m or ft", "depth_unit")
        number = round(number * _METRES_PER_FOOT, 3) if unit == "ft" else number
    if why := why_no_depth(number):
        raise row.error(f"{name} is {row[name]!r:.40}, {why}; correct it", name)
    return number


def _sample_of_heading(heading: str) -> ExpertSample:
    """The sample of a column: `2030`, `2030-2040`, `2030 core`, or a slide_id."""
    parts = _HEADING.fullmatch(heading)
    kind = normalise_sample_type(parts["type"]) if parts else None
    if parts is None or (kind is not None and kind not in SAMPLE_TYPES):
        return ExpertSample(slide_id=heading)
    top = float(parts["top"])
    return ExpertSample(heading, "", top, float(parts["base"] or top), kind)
