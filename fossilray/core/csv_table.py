"""CSV tables that people and spreadsheets make: one reader for catalogs, labels, depths, taxonomies and confusions.

Accepted: UTF-8 with or without a byte order mark; columns separated by commas, semicolons or tabs; any line ends. The
separator is the one that the header contains most often outside quotes; a line `sep=;` above the header decides
instead. Where it is not the comma, numbers may have a decimal comma, as Excel writes them in many countries. An
apostrophe that protects a cell from being run as a formula is removed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fossilray.core.errors import FossilrayError, UsageError
from fossilray.core.formats.csv_text import decode_text, numbered_rows
from fossilray.core.formats.file_role import FileRole
from fossilray.core.formats.regular_file import read_regular
from fossilray.core.text import list_some, unescape_formula

MAX_BYTES = 512 * 2**20
"""Far above any table that a person makes; a table of 5 million labels has about 300 MB."""

_SEPARATORS = ",;\t"
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
_QUOTED = re.compile(r'"[^"]*"')


@dataclass(frozen=True, slots=True)
class CsvRow:
    """A row that is not empty, with as many cells as the table has columns."""

    line: int
    """Line of the file on which the row ends, counted from 1."""
    cells: tuple[str, ...]
    """As written, blanks included; cells that the row lacks are empty."""
    written_cells: int
    """Number of cells in the file, which may be smaller or larger than the number of columns."""
    table: CsvTable

    def __getitem__(self, column: str) -> str:
        """Text of a column without blanks around it; empty if the table lacks the column."""
        position = self.table.position(column)
        return "" if position is None else self.cells[position].strip()

    def number(self, column: str) -> float | None:
        """Number of a column; None if the cell is empty.

        Raises:
            FossilrayError: the cell holds something else; NaN and infinity are refused too.
        """
        text = self[column]
        return self.parse_number(text, column) if text else None

    def whole_number(self, column: str) -> int | None:
        """Whole number of a column, as 12 or 12.0; None if the cell is empty.

        Raises:
            FossilrayError: the cell holds something else.
        """
        value = self.number(column)
        if value is not None and (not value.is_integer() or abs(value) >= 2**53):
            raise self.error(f"{column} is {self[column]!r:.40}, not a whole number")
        return None if value is None else int(value)

    def object_id(self, column: str) -> int:
        """Number of an object in a slide, from 0 to 2**31 - 1.

        Raises:
            FossilrayError: the cell is empty or holds something else.
        """
        text = self[column]
        if not text.isdecimal() or not text.isascii() or int(text[:11]) >= 2**31:
            raise self.error(f"{column} is {text!r:.40}, not a whole number as in the table objects")
        return int(text)

    def parse_number(self, text: str, column: str) -> float:
        """Number in a text of this row, by the table's decimal separator.

        Raises:
            FossilrayError: it is not a finite number.
        """
        number = text.strip()
        if self.table.separator != "," and "." not in number:
            number = number.replace(",", ".")
        try:
            value = math.nan if "_" in number else float(number)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            hint = " (with a decimal point)" if self.table.separator == "," and "," in number else ""
            raise self.error(f"{column} is {text!r:.40}, not a number{hint}")
        return value

    def error(self, reason: str) -> FossilrayError:
        """The error that names the file, this line and what is wrong in it."""
        return self.table.role.damaged(f"line {self.line}: {reason}")


class CsvTable:
    """Rows below a header. Columns are found by name, whatever the case of letters."""

    def __init__(self, header: tuple[str, ...], separator: str, role: FileRole) -> None:
        self.header = header
        """Names of columns as written, without blanks around them; a name may be empty."""
        self.separator = separator
        self.role = role
        self.rows: list[CsvRow] = []
        self._positions = {name.lower(): position for position, name in reversed([*enumerate(header)])}

    def position(self, column: str) -> int | None:
        """Index of a column, or None if the table lacks it."""
        return self._positions.get(column.lower())

    def has(self, *columns: str) -> bool:
        """Whether the table has all of these columns."""
        return all(self.position(column) is not None for column in columns)

    def first_of(self, columns: Collection[str]) -> str | None:
        """The first of these columns that the table has."""
        return next((column for column in columns if self.position(column) is not None), None)


def read_csv_table(
    path: Path,
    *,
    use: str,
    columns: Collection[str],
    optional: Collection[str] | None = None,
    remedy: str = "correct it, or save it again as `CSV UTF-8`",
    error: type[FossilrayError] = UsageError,
    max_bytes: int = MAX_BYTES,
) -> CsvTable:
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
    return parse_csv_table(content, role, columns=columns, optional=optional, max_bytes=max_bytes)


def parse_csv_table(
    content: bytes,
    role: FileRole,
    *,
    columns: Collection[str],
    optional: Collection[str] | None = None,
    extra_cells: bool = False,
    max_bytes: int = MAX_BYTES,
) -> CsvTable:
    """Read a table from the content of a file, as `read_csv_table` does.

    Args:
        content: the bytes of the file; a file longer than max_bytes needs to be here only up to one byte more.
        role: name and use of the file, and the class of errors.
        columns, optional, max_bytes: as of `read_csv_table`.
        extra_cells: allow rows with more cells than columns, and ignore what is beyond the last column.

    Raises:
        role.error: as `read_csv_table`.
    """
    if len(content) > max_bytes:
        raise _too_large(role, max_bytes)
    separator, lines = _split_lines(decode_text(content, role), role)
    _, names = next(lines, (0, []))
    table = CsvTable(tuple(unescape_formula(name.strip()) for name in names), separator, role)
    check_columns(table.header, role, columns=columns, optional=optional)
    width = len(table.header)
    nameless = [] if optional is None else [i for i, name in enumerate(table.header) if not name]
    for line, cells in lines:
        if not any(map(str.strip, cells)):
            continue
        if any(map(str.strip, cells[width:])) and not extra_cells:
            raise role.damaged(
                f"line {line}: {len(cells)} values for {width} columns; quote values that contain the separator"
            )
        if any(cells[i].strip() for i in nameless if i < len(cells)):
            raise role.damaged(f"line {line} has a value in a column without a name")
        padded = (*map(unescape_formula, cells[:width]), *[""] * (width - len(cells)))
        table.rows.append(CsvRow(line, padded, len(cells), table))
    return table


def check_columns(
    header: Sequence[str],
    role: FileRole,
    *,
    columns: Collection[str],
    optional: Collection[str] | None = None,
) -> None:
    """Compare the columns of a table with those that it must and may have; arguments as of `read_csv_table`.

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


def _too_large(role: FileRole, max_bytes: int) -> FossilrayError:
    return role.damaged(f"it has more than {max_bytes // 2**20:,} MiB, more than such a table takes")


def _split_lines(text: str, role: FileRole) -> tuple[str, Iterator[tuple[int, list[str]]]]:
    """The separator, and the header and rows with their line numbers."""
    first_line = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    stated = _SEPARATOR_LINE.fullmatch(first_line.strip())
    if stated:
        separator = stated[1]
    else:
        unquoted = _QUOTED.sub("", first_line)
        separator = max(_SEPARATORS, key=unquoted.count)
    lines = numbered_rows(text, role, delimiter=separator, strict=True)
    rows = ((line, cells) for line, cells in lines if cells)
    if stated:
        next(rows)
    return separator, rows
