"""Text tables as spreadsheets save them: their encoding, their separator, and their rows with line numbers."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from fossilray.core.formats.csv_text import numbered_rows
from fossilray.core.formats.file_role import FileRole

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SEPARATORS = ",;\t"
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?[,;\t]*', re.IGNORECASE)
_QUOTED = re.compile(r'"[^"]*"')
_UTF8_LETTER = re.compile(rb"[\xc2-\xf4][\x80-\xbf]+")


def decode_user_text(content: bytes, role: FileRole) -> tuple[str, str]:
    """Return the text of a file and its encoding: `utf-8`, `utf-16-le`, `utf-16-be` or `cp1252`.

    UTF-16 is known by its byte order mark. Text without a mark that is not UTF-8 is Windows-1252, as Excel saves `CSV`
    in western Europe; it is refused where it has letters in UTF-8 besides, or bytes that Windows-1252 lacks.

    Raises:
        role.error: it is in none of these encodings.
    """
    mark, encoding = next(((mark, name) for mark, name in _MARKS if content.startswith(mark)), (b"", "utf-8"))
    try:
        text = content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        if mark:
            raise role.damaged(
                f"it is not {encoding.upper()}, as it claims (byte {error.start + len(mark)})"
            ) from None
        text, encoding = _decode_windows(content, error.start, role), "cp1252"
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise role.damaged(
            f"line {line} has a NUL character, so it is no text, or UTF-16 without a byte order mark; save it as `CSV "
            "UTF-8`"
        )
    return text, encoding


def split_rows(text: str, role: FileRole) -> Iterator[tuple[int, list[str]]]:
    """Return the rows of a table that are not empty, each with the number of the line on which it ends.

    The separator is the one of comma, semicolon and tab that the header contains most often outside quotes; a line
    `sep=;` above the header decides instead.

    Raises:
        role.error: as `numbered_rows`; the rows raise it too.
    """
    first_line = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    stated = _SEPARATOR_LINE.fullmatch(first_line.strip(" "))
    if stated:
        separator = stated[1]
    else:
        unquoted = _QUOTED.sub("", first_line)
        separator = max(_SEPARATORS, key=unquoted.count)
    lines = numbered_rows(text, role, delimiter=separator, strict=True)
    rows = ((line, cells) for line, cells in lines if cells)
    if stated:
        next(rows)
    return rows


def _decode_windows(content: bytes, start: int, role: FileRole) -> str:
    line = content.count(b"\n", 0, start) + 1
    sequences = (letters for letters in _UTF8_LETTER.finditer(content) if _is_utf8(letters[0]))
    if other := next(sequences, None):
        utf8_line = content.count(b"\n", 0, other.start()) + 1
        raise role.damaged(
            f"line {line} is not UTF-8, and line {utf8_line} is; save the file as `CSV UTF-8` and see that all letters "
            "are right"
        )
    try:
        return content.decode("cp1252")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise role.damaged(
            f"line {line} has the byte {content[error.start]:02X}, which is neither UTF-8 nor Windows-1252; save the "
            "file as `CSV UTF-8`"
        ) from None


def _is_utf8(letters: bytes) -> bool:
    try:
        letters.decode()
    except UnicodeDecodeError:
        return False
    return True
