"""Writing of catalogs for users: CSV, Excel, OpenDocument or Parquet."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fossilray.core.atomic_files import write_atomically
from fossilray.core.errors import CatalogError
from fossilray.core.extra_columns import extra_names
from fossilray.core.formats.sheets import text_of
from fossilray.core.formats.xlsx import MAX_CELL_CHARACTERS
from fossilray.core.records import CatalogRow, Doubt, RejectedFile
from fossilray.core.schemas import CATALOG_SCHEMA
from fossilray.core.text import escape_formula
from fossilray.core.written_table import encode_sheet, to_csv
from fossilray.slides.catalog.table import Catalog

WRITTEN_SUFFIXES = (".csv", ".xlsx", ".ods", ".parquet")
"""Formats of `write_catalog`, by the name of the file."""

_COLUMNS = [name for name in CATALOG_SCHEMA.names if name != "extra"]
_MOST_DIGITS = 15
"""Significant digits that a spreadsheet keeps."""


def write_catalog(catalog: Catalog, out: Path) -> None:
    """Write the rows in the format that the name of the file states: .csv, .xlsx, .ods or .parquet.

    Raises:
        CatalogError: the name states none of these, or the file cannot be written.
    """
    check_catalog_name(out)
    if out.suffix.lower() == ".parquet":
        content = _to_parquet(catalog.rows)
    else:
        content = encode_sheet("catalog", _lines(catalog.rows), out, error=CatalogError)
    write_atomically(out, content)


def check_catalog_name(out: Path) -> None:
    """Check that the name of a file states a format of catalogs.

    Raises:
        CatalogError: it does not.
    """
    if out.suffix.lower() not in WRITTEN_SUFFIXES:
        raise CatalogError(
            f"{out} ends in none of {', '.join(WRITTEN_SUFFIXES)}, which state the format of a catalog; name another"
        )


def write_refused(catalog: Catalog, out: Path) -> None:
    """Write the files that look like slides and are not, as CSV: slide_id, path, reason.

    Raises:
        CatalogError: the file cannot be written.
    """
    lines = ([getattr(refused, field.name) for field in fields(RejectedFile)] for refused in catalog.refused)
    write_atomically(
        out,
        to_csv(
            [
                [field.name for field in fields(RejectedFile)],
                *([escape_formula(x) for x in line] for line in lines),
            ]
        ),
    )


def _extra_cells(row: CatalogRow, columns: Sequence[str]) -> list[str | None]:
    values = {extra.column.lower(): extra.value for extra in row.extra or ()}
    return [values.get(column.lower()) for column in columns]


def _lines(rows: Sequence[CatalogRow]) -> Iterable[list[str | int | float | None]]:
    """The header and the rows as cells of a sheet."""
    extra = extra_names(rows)
    yield [*_COLUMNS, *map(escape_formula, extra)]
    for row in rows:
        cells = [_cell(getattr(row, name)) for name in _COLUMNS]
        yield [*cells, *(_number_or_text(value) for value in _extra_cells(row, extra))]


def _cell(value: str | float | tuple[Doubt, ...] | None) -> str | int | float | None:
    if isinstance(value, tuple):
        value = "; ".join(f"{doubt.code}: {doubt.sentence}" for doubt in value)[:MAX_CELL_CHARACTERS]
    return escape_formula(value) if isinstance(value, str) else value


def _number_or_text(value: str | None) -> str | int | float | None:
    """A value of the user as a number where it reads the same in a spreadsheet: 66, but 007 and 1.50 as texts."""
    try:
        number = float(value or "")
    except ValueError:
        number = None
    is_short = value is not None and sum(map(str.isdigit, value)) <= _MOST_DIGITS
    return number if is_short and text_of(number) == value else _cell(value)


def _to_parquet(rows: Sequence[CatalogRow]) -> bytes:
    known = CATALOG_SCHEMA.remove(CATALOG_SCHEMA.get_field_index("extra"))
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=known)
    names = extra_names(rows)
    cells = [_extra_cells(row, names) for row in rows]
    for i, name in enumerate(names):
        table = table.append_column(name, pa.array([line[i] for line in cells], pa.string()))
    sink = io.BytesIO()
    pq.write_table(table, sink, write_page_checksum=True)
    return sink.getvalue()
