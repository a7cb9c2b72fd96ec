"""CSV that people and spreadsheets write, read with bounds."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from fossilray.core.formats.file_role import FileRole

MOST_BYTES = 512 * 2**20
MOST_COLUMNS = 4096


def decode_text(content: bytes, role: FileRole) -> str:
    """Text in UTF-8, with or without a byte order mark.

    Raises:
        role.error: it is another encoding, or larger than MOST_BYTES.
    """
    if len(content) > MOST_BYTES:
        raise role.damaged(f"it has {len(content):,} bytes, more than {MOST_BYTES:,}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise role.damaged(
            f"it is not UTF-8 (byte {error.start}); a spreadsheet saves it as `CSV UTF-8`"
        ) from None


def read_rows(text: str, role: FileRole, *, delimiter: str = ",", strict: bool = False) -> list[list[str]]:
    """The rows of a CSV text, the header first if it has one.

    Raises:
        role.error: it is not CSV, or has a cell of more than 131,072 characters or more than MOST_COLUMNS columns.
    """
    return [row for _, row in numbered_rows(text, role, delimiter=delimiter, strict=strict)]


def numbered_rows(
    text: str, role: FileRole, *, delimiter: str = ",", strict: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """The same rows one after the other, each with the number of the line on which it ends.

    Raises:
        role.error: as read_rows.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=strict)
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise role.damaged(f"line {reader.line_num}: {error}") from None
        if row is None:
            return
        if len(row) > MOST_COLUMNS:
            raise role.damaged(f"line {reader.line_num} has {len(row):,} columns")
        yield reader.line_num, row


def read_records(text: str, role: FileRole, *, delimiter: str = ",") -> list[dict[str, str]]:
    """The rows after the header, by the header's names; what a short row lacks is empty, empty rows are left out.

    Raises:
        role.error: as read_rows; or the header names a column twice, or a row has more cells than the header.
    """
    rows = numbered_rows(text, role, delimiter=delimiter)
    _, names = next(rows, (0, []))
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise role.damaged(f"it has the column {twice[0]!r:.60} twice")
    found = []
    for line, cells in rows:
        if not any(cells):
            continue
        if len(cells) > len(names) and any(cells[len(names) :]):
            raise role.damaged(f"line {line} has {len(cells)} cells for {len(names)} columns")
        padded = [*cells, *[""] * (len(names) - len(cells))]
        found.append(dict(zip(names, padded, strict=False)))
    return found


def delimiter_of(text: str) -> str:
    """The separator that the first line has more of: a comma, or the semicolon of spreadsheets of many countries."""
    first = text.partition("\n")[0]
    return ";" if first.count(";") > first.count(",") else ","
