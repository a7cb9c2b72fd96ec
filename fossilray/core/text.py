"""A query's result as CSV, JSON or Parquet, and values and text as a terminal shows them."""

from __future__ import annotations

import datetime
import decimal
import io
import json
import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fossilray.core.whole_files import write_whole

if TYPE_CHECKING:
    import pyarrow as pa

TableForm = Literal["csv", "json", "parquet"]

_LIKE_A_FORMULA = r"^('*[=+\-@\t\r])"


def write_table(table: pa.Table, *, form: TableForm, out: Path | None = None) -> None:
    """Write a result to a file, or to standard output.

    Raises:
        UsageError: the file cannot be written.
    """
    content = encode_table(table, form)
    if out is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    write_whole(out, content)


def encode_table(table: pa.Table, form: TableForm) -> bytes:
    """A result as the bytes of a CSV file, a JSON array of records, or a Parquet file."""
    if form == "json":
        return _to_json(table)
    sink = io.BytesIO()
    if form == "csv":
        from pyarrow import csv

        csv.write_csv(_flatten(table), sink)
    else:
        from pyarrow import parquet

        parquet.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def format_cell(value: Any) -> str:
    """A value as a person reads it: seven significant digits, no control characters."""
    if value is None:
        return "–"
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return f"{value:.0f}" if abs(value) >= 1e7 else f"{value:.7g}"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return strip_control_characters(str(value))


def strip_control_characters(text: str) -> str:
    """Text without the control characters by which a file's name could move a terminal's cursor."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 slide`, `1,200 slides`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_bytes(count: float) -> str:
    """A size as a person reads it, in powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"


def escape_formula(text: str) -> str:
    """Text that a spreadsheet takes for text: an apostrophe before what it would take for a formula.

    A slide named `=HYPERLINK(…)` would otherwise run in whoever opens the CSV. `from_spreadsheet` undoes it.
    """
    return re.sub(_LIKE_A_FORMULA, r"'\1", text)


def unescape_formula(text: str) -> str:
    """The text that `spreadsheet_safe` was given."""
    return text[1:] if text.startswith("'") and re.match(_LIKE_A_FORMULA, text) else text


def _to_json(table: pa.Table) -> bytes:
    rows = [{name: _plain(value) for name, value in row.items()} for row in table.to_pylist()]
    return json.dumps(rows, ensure_ascii=False, indent=1).encode() + b"\n"


def _plain(value: Any) -> Any:
    """The value in JSON's own types; JSON has no NaN."""
    match value:
        case float() | decimal.Decimal():
            plain: Any = float(value) if math.isfinite(value) else None
        case dict():
            plain = {str(key): _plain(inner) for key, inner in value.items()}
        case list() | tuple():
            plain = [_plain(inner) for inner in value]
        case datetime.date() | datetime.time():
            plain = value.isoformat()
        case bytes():
            plain = value.hex()
        case None | bool() | int():
            plain = value
        case _:
            plain = str(value)
    return plain


def _flatten(table: pa.Table) -> pa.Table:
    """CSV has no lists or structures: they become JSON; and a spreadsheet that opens it must meet no formula."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for index, field in enumerate(table.schema):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            safe = pc.replace_substring_regex(table[index], pattern=_LIKE_A_FORMULA, replacement=r"'\1")
            table = table.set_column(index, field.name, safe)
        if pa.types.is_nested(field.type):
            texts = [
                None if value is None else json.dumps(_plain(value)) for value in table[index].to_pylist()
            ]
            table = table.set_column(index, field.name, pa.array(texts, pa.string()))
    return table
