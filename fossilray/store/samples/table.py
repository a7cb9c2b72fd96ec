"""The table of samples that users edit: reading with checks of each row, and writing.

A row is a slide. Columns that the table has count as written, so an empty cell clears a value; columns that it lacks,
and slides that it lacks, stay as they are.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fossilray.core.atomic_files import write_atomically
from fossilray.core.errors import CatalogError, UsageError
from fossilray.core.plausible_values import why_no_depth
from fossilray.core.sample_terms import (
    SITE_KINDS,
    normalise_sample_type,
    normalise_site_kind,
    normalise_unit,
)
from fossilray.core.schemas import CATALOG_SCHEMA, SAMPLES_SCHEMA
from fossilray.core.site_names import normalise_well, well_key
from fossilray.core.slide_names import check_well
from fossilray.core.slide_sample import NUMBER_COLUMNS, SAMPLE_COLUMNS, SlideSample
from fossilray.core.table_rows import TableRow, UserTable
from fossilray.core.text import escape_formula, list_some, strip_control_characters
from fossilray.core.user_table import read_user_table
from fossilray.core.written_table import encode_sheet
from fossilray.store.samples.rounds import SampleValue

AS_OF = "as_of"
"""Column of an export that names the round on which it is based."""
SAMPLE_SUFFIXES = (".csv", ".xlsx", ".ods", ".parquet")

_METRES_PER_FOOT = 0.3048
_IN_UNIT = {"top_depth": "top_depth_m", "base_depth": "base_depth_m"}
"""Columns that give a depth in the unit of depth_unit."""
_POINT = "measured_depth_m"
_DEPTHS = ("top_depth_m", "base_depth_m")
_POSITIVE = ("sieve_um", "weight_g", "volume_ml", "marker_tablets", "grains_per_tablet")
_LONGEST_TEXT = 500


@dataclass(frozen=True)
class SampleRow:
    """A row of the user's table."""

    row: TableRow
    slide_id: str
    values: Mapping[str, SampleValue]
    """Values of the columns of SAMPLE_COLUMNS that the table gives; None for an empty cell."""
    as_of: str
    """Content of AS_OF; empty if the table was not exported."""


@dataclass(frozen=True)
class SampleTable:
    """The user's table, each row checked by itself."""

    rows: tuple[SampleRow, ...]
    not_read: tuple[str, ...]
    """Columns that are none of a table of samples or of a catalog."""


def read_sample_table(path: Path, *, wells: Iterable[str]) -> SampleTable:
    """Read a table with the column slide_id and any of SAMPLE_COLUMNS; a catalog is such a table.

    Depths may be given as top_depth and base_depth in the unit of depth_unit, or as measured_depth_m for both.

    wells: names of sites as the run spells them.

    Raises:
        UsageError: the file is no such table, a value is not what its column holds, or a slide is listed twice.
    """
    table = read_user_table(
        path, use="a table of samples", columns=("slide_id",), remedy="correct it and import it again"
    )
    names = {name.lower() for name in table.header if name}
    known = {"slide_id", AS_OF, _POINT, *SAMPLE_COLUMNS, *_IN_UNIT}
    if not names & (known - {"slide_id", AS_OF}):
        raise table.role.damaged(
            f"it has no column about samples; known are {list_some(SAMPLE_COLUMNS, most=30)}"
        )
    for name, other in _IN_UNIT.items():
        if {name, other} <= names:
            raise table.role.damaged(f"it has the columns {name} and {other}; leave one of them")
    spelling = {well_key(normalise_well(well)): well for well in wells}
    rows: list[SampleRow] = []
    seen: dict[str, str] = {}
    for row in table.rows:
        slide_id = row["slide_id"]
        if not slide_id:
            raise row.error("slide_id is empty; fill it or remove the line", "slide_id")
        if slide_id in seen:
            raise row.error(
                f"slide {slide_id} is in {seen[slide_id]} already; remove one of them", "slide_id"
            )
        seen[slide_id] = row.location
        rows.append(SampleRow(row, slide_id, _values(row, table, spelling), row[AS_OF]))
    not_read = [
        name for name in table.header if name and name.lower() not in known | set(CATALOG_SCHEMA.names)
    ]
    return SampleTable(tuple(rows), tuple(not_read))


def write_samples(samples: Sequence[SlideSample], out: Path, *, as_of: str) -> None:
    """Write a table that `read_sample_table` reads, in the format that the name of the file states.

    Raises:
        UsageError: the name states none of SAMPLE_SUFFIXES, or the file cannot be written.
    """
    if out.suffix.lower() not in SAMPLE_SUFFIXES:
        raise UsageError(
            f"{out} ends in none of {', '.join(SAMPLE_SUFFIXES)}, which state the format of the table; name another"
        )
    if out.suffix.lower() == ".parquet":
        table = pa.Table.from_pylist([vars(sample) for sample in samples], schema=SAMPLES_SCHEMA)
        table = table.append_column(AS_OF, pa.array([as_of] * len(samples), pa.string()))
        sink = io.BytesIO()
        pq.write_table(table, sink, write_page_checksum=True)
        content = sink.getvalue()
    else:
        lines = (
            [
                escape_formula(value) if isinstance(value, str) else value
                for value in (*(getattr(sample, name) for name in SAMPLES_SCHEMA.names), as_of)
            ]
            for sample in samples
        )
        content = encode_sheet("samples", [[*SAMPLES_SCHEMA.names, AS_OF], *lines], out)
    write_atomically(out, content)


def _values(row: TableRow, table: UserTable, spelling: Mapping[str, str]) -> dict[str, SampleValue]:
    values: dict[str, SampleValue] = {
        name: _number(row, name) if name in NUMBER_COLUMNS else _text(row, name, spelling)
        for name in SAMPLE_COLUMNS
        if table.has(name)
    }
    for name, in_metres in _IN_UNIT.items():
        if table.has(name):
            number = row.number(name)
            in_feet = number is not None and values.get("depth_unit") == "ft"
            metres = round(number * _METRES_PER_FOOT, 3) if number is not None and in_feet else number
            values[in_metres] = _depth(row, name, metres)
    if table.has(_POINT) and all(values.get(name) is None for name in _DEPTHS):
        values |= dict.fromkeys(_DEPTHS, _depth(row, _POINT, row.number(_POINT)))
    return values


def _text(row: TableRow, name: str, spelling: Mapping[str, str]) -> str | None:
    position = row.table.position(name)
    assert position is not None
    text = row.no_date_at(position) if name in ("well", "sample") else row[name]
    text = strip_control_characters(text).strip()
    if not text:
        return None
    if len(text) > _LONGEST_TEXT:
        raise row.error(f"{name} has {len(text):,} characters, more than {_LONGEST_TEXT}; shorten it", name)
    match name:
        case "well":
            well = normalise_well(text)
            try:
                return check_well(spelling.get(well_key(well), well))
            except CatalogError as error:
                raise row.error(str(error), name) from None
        case "sample_type":
            return normalise_sample_type(text)
        case "site_kind":
            kind = normalise_site_kind(text)
            if kind is None:
                raise row.error(f"site_kind is {text!r:.40}; write {', '.join(SITE_KINDS)}", name)
            return kind
        case "depth_unit":
            unit = normalise_unit(text)
            if unit is None:
                raise row.error(f"depth_unit is {text!r:.40}; write m or ft", name)
            return unit
    return text


def _number(row: TableRow, name: str) -> float | None:
    number = row.number(name)
    if number is None:
        return None
    if name in (*_DEPTHS, "tvd_m"):
        return _depth(row, name, number)
    if name in _POSITIVE and number <= 0:
        raise row.error(f"{name} is {number:g}, not above 0; correct it or leave it empty", name)
    if number < 0:
        raise row.error(f"{name} is {number:g}, below 0; correct it or leave it empty", name)
    return float(number)


def _depth(row: TableRow, name: str, metres: float | None) -> float | None:
    if metres is None:
        return None
    if why := why_no_depth(metres):
        raise row.error(f"{name} is {row[name]!r:.40}, {why}; correct it or leave it empty", name)
    return float(metres)
