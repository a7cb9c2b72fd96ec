"""Tables that people and spreadsheets make: one reader for catalogs, labels, depths, taxonomies and confusions.

The content decides on the format: an Excel workbook (.xlsx), an OpenDocument spreadsheet (.ods), Parquet, or text. Text
is UTF-8, UTF-16 with a byte order mark or Windows-1252; columns are separated by commas, semicolons or tabs. Of a
workbook the one visible sheet that has the columns is read. Columns are found by name, whatever the case of letters.
An apostrophe that protects a cell from being run as a formula is removed. `written_numbers` states which numbers are
read and which are refused.
"""

from __future__ import annotations

import datetime
import decimal
import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from fossilray.core.errors import FossilrayError, UsageError
from fossilray.core.formats.file_role import FileRole
from fossilray.core.formats.ods import ODS_MIMETYPE, read_ods
from fossilray.core.formats.parquet import read_table
from fossilray.core.formats.regular_file import read_regular
from fossilray.core.formats.sheets import Cell, CellFault, WorkbookSheet, text_of
from fossilray.core.formats.user_text import decode_user_text, split_rows
from fossilray.core.formats.xlsx import read_xlsx
from fossilray.core.table_rows import TableRow, UserTable
from fossilray.core.text import list_some, unescape_formula

MAX_BYTES = 512 * 2**20
"""Far above any table that a person makes; a table of 5 million labels has about 300 MB."""

_OLD_EXCEL = b"\xd0\xcf\x11\xe0"
"""Compound File Binary Format ([MS-CFB] 2.2): .xls, and .xlsx under a password."""
_PAIR = pa.struct([("column", pa.string()), ("value", pa.string())])


def read_user_table(
    path: Path,
    *,
    use: str,
    columns: Collection[str],
    optional: Collection[str] | None = None,
    remedy: str = "correct it and start the same command again",
    error: type[FossilrayError] = UsageError,
    max_bytes: int = MAX_BYTES,
) -> UserTable:
    """Read a table from a file.

    Args:
        path: a regular file; a pipe or a device, which may never end, is refused.
        use: what the table is for, as a noun phrase: `depths of slides`.
        columns: columns that the table must have.
        optional: columns that it may have besides; any other is refused. None: any column may be there.
        remedy: what to do about a table that is refused, as a clause in the imperative.
        error: class of errors to raise.
        max_bytes: largest file that is read.

    Raises:
        error: the file cannot be read, is too large, is not such a table, or lacks or repeats a column.
    """
    role = FileRole(str(path), use, remedy, error)
    try:
        is_too_large = path.stat().st_size > max_bytes
        content = b"" if is_too_large else read_regular(path, most_bytes=max_bytes)
    except OSError as caught:
        raise role.damaged(caught) from None
    if is_too_large:
        raise _too_large(role, max_bytes)
    return parse_user_table(content, role, columns=columns, optional=optional, max_bytes=max_bytes)


def parse_user_table(
    content: bytes,
    role: FileRole,
    *,
    columns: Collection[str],
    optional: Collection[str] | None = None,
    extra_cells: bool = False,
    max_bytes: int = MAX_BYTES,
) -> UserTable:
    """Read a table from the content of a file, as `read_user_table` does.

    Args:
        content: the bytes of the file; a file longer than max_bytes needs to be here only up to one byte more.
        role: name and use of the file, and the class of errors.
        columns, optional, max_bytes: as of `read_user_table`.
        extra_cells: allow rows with more cells than columns, and ignore what is beyond the last column.

    Raises:
        role.error: as `read_user_table`.
    """
    if len(content) > max_bytes:
        raise _too_large(role, max_bytes)
    if content.startswith(_OLD_EXCEL):
        raise role.damaged(
            "it is a workbook of old Excel (.xls) or under a password; save it as .xlsx without one"
        )
    if content.startswith(b"PAR1"):
        table, rows = _of_parquet(content, role)
    elif content.startswith(b"PK"):
        table, rows = _of_workbook(content, role, columns)
    else:
        text, encoding = decode_user_text(content, role)
        lines = split_rows(text, role)
        _, header = next(lines, (0, []))
        table, rows = UserTable(header, role, kind="text", encoding=encoding), lines
    _check_columns(table.header, role, columns=columns, optional=optional)
    _fill(table, rows, extra_cells=extra_cells, named_only=optional is not None)
    return table


def _fill(
    table: UserTable, rows: Iterable[tuple[int, Sequence[Cell]]], *, extra_cells: bool, named_only: bool
) -> None:
    width = len(table.header)
    nameless = [i for i, name in enumerate(table.header) if not name] if named_only else []
    for number, cells in rows:
        if all(map(_is_empty, cells)):
            continue
        padded = (
            *(unescape_formula(cell) if isinstance(cell, str) else cell for cell in cells[:width]),
            *[None] * (width - len(cells)),
        )
        row = TableRow(number, padded, len(cells), table)
        beyond = next((i for i in range(width, len(cells)) if not _is_empty(cells[i])), None)
        if beyond is not None and not extra_cells:
            hint = "; quote values that contain the separator" if table.kind == "text" else ""
            raise row.error(f"{len(cells)} values for {width} columns{hint}", beyond)
        unnamed = next((i for i in nameless if i < len(cells) and not _is_empty(cells[i])), None)
        if unnamed is not None:
            raise row.error("a value in a column without a name; name the column", unnamed)
        table.rows.append(row)


def _of_workbook(
    content: bytes, role: FileRole, columns: Collection[str]
) -> tuple[UserTable, Iterator[tuple[int, Sequence[Cell]]]]:
    """The header and the rows of the one visible sheet that has the columns."""
    is_ods = ODS_MIMETYPE.encode() in content[:200]
    sheets = read_ods(content, role) if is_ods else read_xlsx(content, role)
    filled = [(sheet, table) for sheet in sheets if (table := _header_of(sheet, role)) is not None]
    fitting = [(sheet, table) for sheet, table in filled if table.has(*columns)]
    if len(fitting) > 1:
        names = list_some((repr(sheet.name) for sheet, _ in fitting), most=8)
        raise role.damaged(f"its sheets {names} all hold such a table; leave one of them, or hide the others")
    sheet, table = next(
        iter(fitting or filled), (WorkbookSheet("", lambda: iter(())), UserTable((), role, kind="sheet"))
    )
    rows = (row for row in sheet.rows() if not all(map(_is_empty, row[1])))
    return table, itertools.islice(rows, 1, None)


def _header_of(sheet: WorkbookSheet, role: FileRole) -> UserTable | None:
    """The table without rows; None if the sheet is empty."""
    header = next((cells for _, cells in sheet.rows() if not all(map(_is_empty, cells))), None)
    if header is None:
        return None
    return UserTable([text_of(cell) for cell in header], role, kind="sheet", sheet=sheet.name)


def _of_parquet(content: bytes, role: FileRole) -> tuple[UserTable, Iterator[tuple[int, Sequence[Cell]]]]:
    """The columns of a Parquet table; one of pairs (column, value) stands for the columns that it names."""
    stored = read_table(content, role)
    columns: dict[str, list[Cell]] = {}
    for name, column in zip(stored.column_names, stored.columns, strict=True):
        if columns.get(name) is not None:
            raise role.damaged(f"it has the column {name!r:.60} twice")
        if column.type == pa.list_(_PAIR):
            for i, pairs in enumerate(column.to_pylist()):
                for pair in pairs or ():
                    columns.setdefault(str(pair["column"]), [None] * len(column))[i] = pair["value"]
        else:
            columns[name] = [_of_arrow(value) for value in column.to_pylist()]
    table = UserTable(tuple(columns), role, kind="parquet")
    return table, enumerate(zip(*columns.values(), strict=True), 1)


def _of_arrow(value: object) -> Cell:
    match value:
        case float() if math.isnan(value):  # as pandas writes what is missing
            return None
        case None | str() | int() | float() | datetime.date() | datetime.time() | datetime.timedelta():
            return value
        case decimal.Decimal():
            return float(value)
        case _:
            return CellFault(f"a value of the type {type(value).__name__}")


def _check_columns(
    header: Sequence[str], role: FileRole, *, columns: Collection[str], optional: Collection[str] | None
) -> None:
    """Compare the columns of a table with those that it must and may have; arguments as of `read_user_table`.

    Raises:
        role.error: a column is missing, unknown or there twice.
    """
    lower = [name.lower() for name in header]
    if missing := [column for column in columns if column not in lower]:
        existing = list_some(filter(None, header), most=12) or "none"
        raise role.damaged(f"it has no column {list_some(missing)}; its columns: {existing}")
    known = None if optional is None else [*columns, *(name for name in optional if name not in columns)]
    for name in filter(None, header):
        if known is not None and name.lower() not in known:
            raise role.damaged(f"it has the column {name!r:.60}; known are {list_some(known, most=20)}")
        is_known = name.lower() in (known or columns)
        if header.count(name) > 1 or (is_known and lower.count(name.lower()) > 1):
            raise role.damaged(f"it has the column {name!r:.60} twice")


def _is_empty(cell: Cell) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _too_large(role: FileRole, max_bytes: int) -> FossilrayError:
    return role.damaged(f"it has more than {max_bytes // 2**20:,} MiB, more than such a table takes")
