"""Excel workbooks (.xlsx) by openpyxl: the values of cells, of formulas the stored results."""

from __future__ import annotations

import datetime
import io
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from fossilray.core.errors import FossilrayError
from fossilray.core.formats.file_role import FileRole
from fossilray.core.formats.sheets import (
    MAX_CELLS,
    MAX_ROWS,
    Cell,
    CellFault,
    WorkbookSheet,
    open_workbook_archive,
)

if TYPE_CHECKING:
    from zipfile import ZipFile

MAX_CELL_CHARACTERS = 32_767
"""Longest text that Excel keeps in a cell."""

_WITH_CELLS = re.compile(r"xl/(worksheets/[^/]+|sharedStrings)\.xml", re.IGNORECASE)
_MERGED = re.compile(rb"<(?:\w+:)?mergeCell\b[^>]*?\bref=[\"']([A-Z0-9:]{1,30})[\"']")
_FORMULA = re.compile(rb"<(?:\w+:)?f[\s/>]")
_ESCAPED = re.compile(r"_x([0-9A-Fa-f]{4})_")
# What XML 1.0 cannot hold, the carriage return, which its readers replace, and a text that looks escaped.
_TO_ESCAPE = re.compile(r"[\x00-\x08\x0b-\x1f\ufffe\uffff]|_(?=x[0-9A-Fa-f]{4}_)")


def read_xlsx(content: bytes, role: FileRole) -> list[WorkbookSheet]:
    """Return the visible sheets of a workbook.

    Raises:
        role.error: it is not an .xlsx workbook, or is beyond the bounds of `sheets`. Rows raise it too.
    """
    import openpyxl

    archive = open_workbook_archive(content, role, large_parts=_WITH_CELLS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # extensions and styles that openpyxl does not know
            books = [
                openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=data_only)
                for data_only in (True, False)
            ]
        return [
            WorkbookSheet(sheet.title, partial(_rows, sheet, twin, archive, role))
            for sheet, twin in zip(books[0].worksheets, books[1].worksheets, strict=True)
            if sheet.sheet_state == "visible"
        ]
    except FossilrayError:
        raise
    except Exception as error:  # noqa: BLE001  openpyxl raises whatever a damaged part leads to
        raise role.damaged(f"it is no Excel workbook ({type(error).__name__}: {error})") from None


def write_xlsx(name: str, rows: Iterable[Sequence[str | int | float | None]]) -> bytes:
    """Return a workbook of one sheet, whose first row stays visible.

    Raises:
        ValueError: a text is longer than MAX_CELL_CHARACTERS.
    """
    return write_sheets({name: rows})


def write_sheets(sheets: Mapping[str, Iterable[Sequence[str | int | float | None]]]) -> bytes:
    """Return a workbook of sheets by name, whose first rows stay visible.

    Raises:
        ValueError: a text is longer than MAX_CELL_CHARACTERS.
    """
    import openpyxl
    from openpyxl.cell import WriteOnlyCell

    book = openpyxl.Workbook(write_only=True)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        sheet.freeze_panes = "A2"

        def cell(value: str | float, sheet: Any = sheet) -> WriteOnlyCell:
            # The type is set after the value, or `=1+1` would be a formula, and of a number 16 digits would be kept.
            made = WriteOnlyCell(sheet, value=_escape(value) if isinstance(value, str) else repr(value))
            made.data_type = "s" if isinstance(value, str) else "n"
            return made

        for row in rows:
            sheet.append([None if value is None or value == "" else cell(value) for value in row])
    sink = io.BytesIO()
    book.save(sink)
    return sink.getvalue()


def _rows(sheet: Any, twin: Any, archive: ZipFile, role: FileRole) -> Iterator[tuple[int, tuple[Cell, ...]]]:
    """Yield the rows of a sheet with their numbers. twin: the same sheet with formulas instead of results."""
    where = f"sheet {sheet.title!r:.60}"
    try:
        xml = archive.read(sheet._worksheet_path)
        if merged := _MERGED.search(xml):
            raise role.damaged(
                f"{where}: the cells {merged[1].decode()} are merged; unmerge them and fill in each of them"
            )
        has_formulas = _FORMULA.search(xml) is not None
        del xml
        for either in (sheet, twin):
            either.reset_dimensions()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # dates beyond the calendar, which come as errors
            filled = 0
            formulas = twin.iter_rows() if has_formulas else None
            for number, cells in enumerate(sheet.iter_rows(), 1):
                filled += len(cells)
                if number > MAX_ROWS or filled > MAX_CELLS:
                    raise role.damaged(f"{where} has more than {MAX_ROWS:,} rows or {MAX_CELLS:,} cells")
                others = cells if formulas is None else next(formulas)
                yield number, tuple(map(_value, cells, others))
    except FossilrayError:
        raise
    except Exception as error:  # noqa: BLE001  openpyxl raises whatever a damaged part leads to
        raise role.damaged(f"{where} cannot be read ({type(error).__name__}: {error})") from None


def _value(cell: Any, twin: Any) -> Cell:
    value, kind = cell.value, cell.data_type
    if kind == "e":
        return CellFault(f"the error {value}", str(value))
    if value is None:
        # An empty text that a formula gave is stored as a text.
        is_lost = twin.data_type == "f" and kind != "str"
        return CellFault("a formula without a stored result") if is_lost else None
    if isinstance(value, str):
        return _ESCAPED.sub(lambda escape: chr(int(escape[1], 16)), value)
    if isinstance(value, (int, float, datetime.date, datetime.time, datetime.timedelta)):
        return value
    return CellFault(f"a value of the type {type(value).__name__}")


def _escape(text: str) -> str:
    """Write characters as Excel does where XML cannot hold them: `_x000D_`."""
    if len(text) > MAX_CELL_CHARACTERS:
        raise ValueError(f"a text of {len(text):,} characters, more than a cell of Excel holds")
    return _TO_ESCAPE.sub(lambda letter: f"_x{ord(letter[0]):04X}_", text)
