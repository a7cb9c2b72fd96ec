"""Catalog table that users may edit, as CSV or Parquet: writing, and reading with checks."""

from __future__ import annotations

import csv
import io
import math
import os
import posixpath
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fossilray.core.atomic_files import write_atomically
from fossilray.core.csv_table import CsvRow, check_columns, parse_csv_table
from fossilray.core.errors import CatalogError
from fossilray.core.formats import FileRole
from fossilray.core.formats.parquet import read_table
from fossilray.core.formats.regular_file import read_regular
from fossilray.core.records import CatalogRow, RejectedFile
from fossilray.core.schemas import CATALOG_SCHEMA
from fossilray.core.slide_names import check_slide_id, check_well
from fossilray.core.text import escape_formula
from fossilray.store.files.base import is_remote

CATALOG_SUFFIXES = (".csv", ".parquet")

_REQUIRED = ("slide_id", "path")
_READ = [field for field in CATALOG_SCHEMA if field.name not in ("mpp_from", "doubts", "extra")]
"""Columns that are read; what the others hold is found again when the slide is opened."""


@dataclass(frozen=True)
class Catalog:
    """Slides that can be opened, and refused files that only look like slides."""

    rows: list[CatalogRow]
    refused: list[RejectedFile]
    from_names: bool = field(default=False, compare=False)
    """Wells and depths were read from names of files and folders, not from a table."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """Sentences for the user: what was passed over, merged, or is there twice."""


def write_catalog(catalog: Catalog, out: Path) -> None:
    """Write the rows as Parquet if `out` ends in .parquet, else as CSV.

    Raises:
        CatalogError: the file cannot be written.
    """
    if out.suffix.lower() == ".parquet":
        sink = io.BytesIO()
        table = pa.Table.from_pylist([asdict(row) for row in catalog.rows], schema=CATALOG_SCHEMA)
        pq.write_table(table, sink, write_page_checksum=True)
        content = sink.getvalue()
    else:
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(name for name in CATALOG_SCHEMA.names if name != "extra")
        writer.writerows(_cells(row) for row in catalog.rows)
        content = text.getvalue().encode()
    write_atomically(out, content)


def write_refused(catalog: Catalog, out: Path) -> None:
    """Write the files that look like slides and are not, as CSV: slide_id, path, reason.

    Raises:
        CatalogError: the file cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(field.name for field in fields(RejectedFile))
    writer.writerows(_cells(refused) for refused in catalog.refused)
    write_atomically(out, text.getvalue().encode())


def _cells(row: CatalogRow | RejectedFile) -> list[object]:
    values = {name: value for name, value in vars(row).items() if name != "extra"}
    if values.get("doubts") is not None:
        values["doubts"] = "; ".join(f"{doubt.code}: {doubt.sentence}" for doubt in values["doubts"])
    return [escape_formula(value) if isinstance(value, str) else value for value in values.values()]


def read_catalog_file(path: Path) -> list[CatalogRow]:
    """Return the rows of a catalog; relative paths are resolved against its folder, URLs are kept.

    Semicolons as separators and decimal commas, as spreadsheets of many countries write them, are accepted too.

    Raises:
        CatalogError: a column is missing or unknown, a value is no number, or a slide is listed twice.
    """
    try:
        content = read_regular(path)
    except OSError as error:
        raise _unreadable(str(path), error) from None
    return _read_rows(content, str(path), lambda slide: os.path.abspath(path.parent / slide))  # noqa: PTH100


def read_remote_catalog(url: str, content: bytes) -> list[CatalogRow]:
    """Return the rows of the catalog at `url` in an object store; relative paths are resolved against its folder.

    Raises: as read_catalog_file.
    """
    protocol, _, path = url.partition("://")

    def resolve(slide: str) -> str:
        if slide.startswith("/"):
            return slide
        bucket, _, folder = path.rpartition("/")[0].partition("/")
        inside = posixpath.normpath(f"/{folder}/{slide}").lstrip("/")
        return f"{protocol}://{bucket}/{inside}"

    return _read_rows(content, url, resolve)


def _read_rows(content: bytes, where: str, resolve: Callable[[str], str]) -> list[CatalogRow]:
    """Parse and check the rows. where: path or URL of the catalog. resolve: resolves a path of the table."""
    parse = _parquet_cells if where.lower().endswith(".parquet") else _csv_cells
    cells = parse(content, where)
    rows: list[CatalogRow] = []
    seen: dict[str, int] = {}
    for number, cell in cells:
        row = _to_row(cell, where, number, resolve)
        if row.slide_id in seen:
            raise CatalogError(
                f"{where}, line {number}: slide_id {row.slide_id} is in line {seen[row.slide_id]} already; give "
                "each slide an id of its own"
            )
        seen[row.slide_id] = number
        rows.append(row)
    return rows


def _unreadable(where: str, error: Exception) -> CatalogError:
    reason = " ".join(str(error).split())
    return CatalogError(f"cannot read the catalog {where}: {reason}; `fossilray catalog` writes a new one")


def _role(where: str) -> FileRole:
    return FileRole(where, "a catalog of slides", "`fossilray catalog` writes a new one", CatalogError)


def _csv_cells(content: bytes, where: str) -> Iterable[tuple[int, Mapping[str, object]]]:
    table = parse_csv_table(content, _role(where), columns=_REQUIRED, optional=CATALOG_SCHEMA.names)
    return [(row.line, _values(row)) for row in table.rows]


def _values(row: CsvRow) -> dict[str, object]:
    """Return cells by column with numbers parsed; texts keep their blanks, which file names may contain."""
    values: dict[str, object] = {}
    for column in _READ:
        position = row.table.position(column.name)
        if position is None:
            continue
        if pa.types.is_string(column.type):
            values[column.name] = row.cells[position]
        elif pa.types.is_integer(column.type):
            values[column.name] = row.whole_number(column.name)
        else:
            values[column.name] = row.number(column.name)
    return values


def _parquet_cells(content: bytes, where: str) -> Iterable[tuple[int, Mapping[str, object]]]:
    table = read_table(content, _role(where))
    check_columns(table.column_names, _role(where), columns=_REQUIRED, optional=CATALOG_SCHEMA.names)
    return list(enumerate(table.to_pylist(), start=1))


def _to_row(cell: Mapping[str, object], where: str, line: int, resolve: Callable[[str], str]) -> CatalogRow:
    values: dict[str, object] = {}
    for column in _READ:
        value = cell.get(column.name)
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            if not column.nullable:
                raise CatalogError(
                    f"{where}, line {line}: {column.name} is empty; fill it or remove the line"
                )
            values[column.name] = None
        elif pa.types.is_string(column.type):
            values[column.name] = str(value)
        else:
            values[column.name] = _number(value, column, where, line)
    slide_id = str(values["slide_id"])
    try:
        check_slide_id(slide_id)
    except CatalogError as error:
        raise CatalogError(f"{where}, line {line}: {error}") from None
    well = values["well"]
    values["well"] = (str(well).strip() or None) if well is not None else None
    try:
        check_well(str(values["well"] or ""))
    except CatalogError as error:
        raise CatalogError(f"{where}, line {line}: {error}") from None
    slide = str(values["path"]).removeprefix("file://")
    values["path"] = slide if is_remote(slide) else resolve(slide)
    return CatalogRow(**values)  # type: ignore[arg-type]  # each value was brought to its column's type


def _number(value: object, column: pa.Field, where: str, line: int) -> int | float:
    whole = pa.types.is_integer(column.type)
    text = f"{value:g}" if isinstance(value, float) else str(value)
    try:
        number = float(value)  # type: ignore[arg-type]  # what is no number raises
    except (TypeError, ValueError):
        number = math.nan
    if (
        not math.isfinite(number)
        or (whole and number != int(number))
        or (column.name == "mpp" and number <= 0)
    ):
        kind = "a whole number" if whole else "a number above 0" if column.name == "mpp" else "a number"
        raise CatalogError(
            f"{where}, line {line}: {column.name} is {text!r}, not {kind}; correct it or leave it empty"
        )
    return int(number) if whole else number
