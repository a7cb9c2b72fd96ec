"""Decoding and splitting of CSV text, with bounds; tables of users are read by `user_table`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from fossilray.core.formats.file_role import FileRole

MAX_CSV_BYTES = 512 * 2**20
MAX_CSV_COLUMNS = 4096


def decode_text(content: bytes, role: FileRole) -> str:
    """Decode UTF-8 text, with or without a byte order mark.

    Raises:
        role.error: it is another encoding, or larger than MAX_CSV_BYTES.
    """
    if len(content) > MAX_CSV_BYTES:
        raise role.damaged(f"it has {len(content):,} bytes, more than {MAX_CSV_BYTES:,}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise role.damaged(
            f"it is not UTF-8 (byte {error.start}); a spreadsheet saves it as `CSV UTF-8`"
        ) from None


def read_rows(text: str, role: FileRole, *, delimiter: str = ",", strict: bool = False) -> list[list[str]]:
    """Return the rows of a CSV text, header included.

    Raises:
        role.error: it is not CSV, or has a cell of more than 131,072 characters, or more than MAX_CSV_COLUMNS columns.
    """
    return [row for _, row in numbered_rows(text, role, delimiter=delimiter, strict=strict)]


def numbered_rows(
    text: str, role: FileRole, *, delimiter: str = ",", strict: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a CSV text, each with the number of the line on which it ends.

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
        if len(row) > MAX_CSV_COLUMNS:
            raise role.damaged(f"line {reader.line_num} has {len(row):,} columns")
        yield reader.line_num, row
