"""Sheets of a workbook as rows of cells, and the bounds on the ZIP archives that hold workbooks."""

from __future__ import annotations

import datetime
import io
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from fossilray.core.formats.file_role import FileRole

MAX_INFLATED_BYTES = 512 * 2**20
"""Limit of all parts of a workbook together; a sheet of a million rows and twenty columns has about this."""
MAX_SMALL_PART_BYTES = 32 * 2**20
"""Limit of each part without cells: styles, settings, relations."""
MAX_PARTS = 10_000
MAX_ROWS = 2**20
MAX_CELLS = 50_000_000
"""Cells of a sheet, of which no more than its columns are kept."""

Date: TypeAlias = datetime.date | datetime.time | datetime.timedelta


@dataclass(frozen=True, slots=True)
class CellFault:
    """A cell without a usable value, and why: `the error #REF!`."""

    reason: str
    shown: str = ""
    """What the spreadsheet shows in the cell, if it is an error: `#REF!`."""


Cell: TypeAlias = str | int | float | Date | CellFault | None
"""A value of a table: bool is an int here; a text is never None, an empty cell of a sheet is."""


@dataclass(frozen=True, slots=True)
class WorkbookSheet:
    """A visible sheet of a workbook."""

    name: str
    rows: Callable[[], Iterator[tuple[int, tuple[Cell, ...]]]]
    """Opens the sheet's rows with their numbers, counted from 1; rows without cells may be left out."""


def text_of(cell: Cell) -> str:
    """A cell as text: 12.0 is `12`, a date is in ISO 8601, an empty cell and a fault are empty."""
    match cell:
        case None | CellFault():
            text = ""
        case bool():
            text = "TRUE" if cell else "FALSE"
        case float() if cell.is_integer() and abs(cell) < 1e15:
            text = str(int(cell))
        case datetime.datetime() if cell.time() == datetime.time.min:
            text = cell.date().isoformat()
        case datetime.date() | datetime.time():
            text = cell.isoformat()
        case _:
            text = str(cell)
    return text


def cell_name(column: int, row: int) -> str:
    """The name of a cell, such as C7; both are counted from 1."""
    letters = ""
    while column:
        column, rest = divmod(column - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return f"{letters}{row}"


def open_workbook_archive(content: bytes, role: FileRole, *, large_parts: re.Pattern[str]) -> zipfile.ZipFile:
    """Open the ZIP archive of a workbook after checking what it claims and that its XML declares no entities.

    large_parts: full match of the names of parts with cells; all others are small.

    Raises:
        role.error: the archive is damaged, encrypted, inflates too far, or holds a document type.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
        parts = archive.infolist()
        if len(parts) > MAX_PARTS or sum(part.file_size for part in parts) > MAX_INFLATED_BYTES:
            raise role.damaged(f"it inflates to more than {MAX_INFLATED_BYTES // 2**20:,} MiB")
        for part in parts:
            if part.flag_bits & 1:
                raise role.damaged("it is protected by a password; save it without one")
            if not part.filename.lower().endswith((".xml", ".rels")):
                continue
            if part.file_size > MAX_SMALL_PART_BYTES and not large_parts.fullmatch(part.filename):
                raise role.damaged(f"its part {part.filename!r:.60} has {part.file_size:,} bytes")
            # Entities let a small XML file fill the memory or read other files; spreadsheets write none.
            if re.search(rb"<!\s*(DOCTYPE|ENTITY)", archive.read(part).replace(b"\0", b""), re.IGNORECASE):
                raise role.damaged(
                    f"its part {part.filename!r:.60} declares entities, which no spreadsheet does"
                )
    # zipfile raises plain classes for what it does not support, and zlib its own.
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise role.damaged(f"it is no workbook ({error})") from None
    return archive
