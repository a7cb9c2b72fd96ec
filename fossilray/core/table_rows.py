"""Rows of a table that people make: texts and numbers by column, and errors that name line or cell and column."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from fossilray.core.errors import FossilrayError
from fossilray.core.formats.file_role import FileRole
from fossilray.core.formats.sheets import Cell, CellFault, cell_name, text_of
from fossilray.core.text import unescape_formula
from fossilray.core.written_numbers import NumberStyle, Reading, readings_of, style_of, write_number

_EVERY_NUMBER = (float("-inf"), float("inf"))


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row that is not empty, with as many cells as the table has columns."""

    line: int
    """Line of a text on which the row ends, or row of a sheet or of Parquet; counted from 1."""
    cells: tuple[Cell, ...]
    """Blanks included; cells that the row lacks are empty."""
    written_cells: int
    """Number of cells in the file, which may be smaller or larger than the number of columns."""
    table: UserTable

    def __getitem__(self, column: str) -> str:
        """Text of a column without blanks around it; empty if the table lacks the column.

        Raises:
            FossilrayError: the cell holds an error instead of a value.
        """
        position = self.table.position(column)
        return "" if position is None else self.text_at(position).strip()

    @property
    def location(self) -> str:
        """Where the row is, for messages: `line 3`, or `row 3 of sheet 'wells'`."""
        kind = "line" if self.table.kind == "text" else "row"
        return f"{kind} {self.line}{self.table.of_sheet}"

    def text_at(self, position: int) -> str:
        """Text of the cell at an index, blanks included.

        Raises:
            FossilrayError: the cell holds an error instead of a value.
        """
        cell = self.cells[position]
        if isinstance(cell, CellFault):
            raise self.error(f"{self._named(position)} is {cell.reason}", position)
        return text_of(cell)

    def no_date_at(self, position: int) -> str:
        """As `text_at`, for columns in which a date can only be a spreadsheet's guess.

        Raises:
            FossilrayError: the cell holds an error or a date.
        """
        text = self.text_at(position)
        if _is_date(self.cells[position]):
            raise self.error(
                f"{self._named(position)} is the date {text}, into which the spreadsheet turned what was typed; format "
                "the column as text and type it again",
                position,
            )
        return text

    def number_at(self, position: int, *, whole: bool = False) -> float | None:
        """Number of the cell at an index; None if it is empty. Arguments as of `number`."""
        return self._number_at(position, whole=whole, within=_EVERY_NUMBER)

    def number(
        self, column: str, *, whole: bool = False, within: tuple[float, float] = _EVERY_NUMBER
    ) -> float | None:
        """Number of a column; None if the cell is empty or the table lacks the column.

        whole: 12 or 12.0 only. within: what the column can hold; of two readings of a cell, the one within counts. A
        value outside is returned where it is the only reading.

        Raises:
            FossilrayError: the cell holds something else (NaN, infinity, a date), or has two readings.
        """
        position = self.table.position(column)
        return None if position is None else self._number_at(position, whole=whole, within=within)

    def object_id(self, column: str) -> int:
        """Number of an object in a slide, from 0 to 2**31 - 1.

        Raises:
            FossilrayError: the cell is empty or holds something else.
        """
        text = self[column]
        if not text.isdecimal() or not text.isascii() or int(text[:11]) >= 2**31:
            raise self.error(f"{column} is {text!r:.40}, not a whole number as in the table objects", column)
        return int(text)

    def error(self, reason: str, column: str | int | None = None) -> FossilrayError:
        """The error that names the file, this row, or of a sheet the cell of a column, and what is wrong in it."""
        position = self.table.position(column) if isinstance(column, str) else column
        location = self.location
        if position is not None and self.table.kind == "sheet":
            location = f"cell {cell_name(position + 1, self.line)}{self.table.of_sheet}"
        return self.table.role.damaged(f"{location}: {reason}")

    def _number_at(self, position: int, *, whole: bool, within: tuple[float, float]) -> float | None:
        cell = self.cells[position]
        text = self.text_at(position).strip()
        if not text:
            return None

        def is_possible(value: float) -> bool:
            is_whole = value.is_integer() and abs(value) < 2**53
            return (is_whole or not whole) and within[0] <= value <= within[1]

        named = f"{self._named(position)} is {text!r:.40}"
        if isinstance(cell, bool) or _is_date(cell):
            kind = "TRUE or FALSE" if isinstance(cell, bool) else "a date"
            raise self.error(f"{named}, {kind} and not a number", position)
        readings = (Reading(float(cell), ""),) if isinstance(cell, (int, float)) else readings_of(text)
        if len(readings) > 1:
            readings = tuple(reading for reading in readings if is_possible(reading.value)) or readings
        if len(readings) > 1:
            style = self.table.style(position, is_possible)
            chosen = style.choose(readings)
            if chosen is None:
                raise self.error(f"{named}, {_either(readings, style)}", position)
            return chosen.value
        if not readings or not math.isfinite(readings[0].value):
            raise self.error(f"{named}, not a number", position)
        if whole and not is_possible(readings[0].value):
            raise self.error(f"{named}, not a whole number", position)
        return readings[0].value

    def _named(self, position: int) -> str:
        return self.table.header[position] or f"column {position + 1}"


class UserTable:
    """Rows below a header."""

    def __init__(
        self, header: Sequence[str], role: FileRole, *, kind: str, sheet: str = "", encoding: str = ""
    ) -> None:
        self.header = tuple(unescape_formula(name.strip()) for name in header)
        """Names of columns as written, without blanks around them; a name may be empty."""
        self.role = role
        self.kind = kind
        """`text`, `sheet` or `parquet`."""
        self.of_sheet = f" of sheet {sheet!r:.60}" if kind == "sheet" else ""
        self.encoding = encoding
        """Encoding of a text, as `decode_user_text` names it."""
        self.rows: list[TableRow] = []
        self._positions = {name.lower(): position for position, name in reversed([*enumerate(self.header)])}
        self._styles: dict[int, NumberStyle] = {}

    def position(self, column: str) -> int | None:
        """Index of a column, or None if the table lacks it."""
        return self._positions.get(column.lower())

    def has(self, *columns: str) -> bool:
        """Return whether the table has all of these columns."""
        return all(self.position(column) is not None for column in columns)

    def first_of(self, columns: Collection[str]) -> str | None:
        """The first of these columns that the table has."""
        return next((column for column in columns if self.position(column) is not None), None)

    def style(self, position: int, is_possible: Callable[[float], bool]) -> NumberStyle:
        """How the numbers of a column are written; is_possible as of `style_of`, the same for all rows."""
        if position not in self._styles:
            cells = (row.cells[position] for row in self.rows)
            self._styles[position] = style_of((cell for cell in cells if isinstance(cell, str)), is_possible)
        return self._styles[position]


def _either(readings: Sequence[Reading], style: NumberStyle) -> str:
    """Return what is wrong with a number of two readings, and how to write each of them."""
    first, second = sorted((reading.value for reading in readings), key=abs, reverse=True)
    others = f" ({style.uncertain - 1:,} more such cells in the column)" if style.uncertain > 1 else ""
    remedy = f"write {write_number(first)} or {write_number(second)}{others}"
    return f"which can be read as {first:.12g} and as {second:.12g}; {remedy}"


def _is_date(cell: Cell) -> bool:
    return isinstance(cell, (datetime.date, datetime.time, datetime.timedelta))
