"""Tables for users to edit: CSV, Excel or OpenDocument, in the form that `user_table` reads again."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from fossilray.core.errors import FossilrayError, UsageError
from fossilray.core.formats.ods import write_ods
from fossilray.core.formats.xlsx import write_xlsx
from fossilray.core.written_numbers import write_number

SheetCell = str | int | float | None


def encode_sheet(
    name: str,
    lines: Iterable[Sequence[SheetCell]],
    out: Path,
    *,
    error: type[FossilrayError] = UsageError,
) -> bytes:
    """Encode a header and rows in the format that the name of a file states; CSV if it states none.

    name: of the sheet. Texts are written as they are: `escape_formula` comes before.

    Raises:
        error: a text is too long for the format, or holds a character that it cannot.
    """
    try:
        match out.suffix.lower():
            case ".xlsx":
                return write_xlsx(name, lines)
            case ".ods":
                return write_ods(name, lines)
            case _:
                return to_csv(lines)
    except ValueError as fault:
        raise error(f"{out} cannot be written: the table has {fault}; write .csv") from None


def to_csv(lines: Iterable[Sequence[SheetCell]]) -> bytes:
    """Encode rows as CSV that spreadsheets open with all letters and numbers as they are."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    for line in lines:
        writer.writerow(write_number(cell) if isinstance(cell, float) else cell for cell in line)
    # Without the byte order mark, Excel reads and saves all letters beyond ASCII as two or three others.
    return text.getvalue().encode("utf-8-sig")
