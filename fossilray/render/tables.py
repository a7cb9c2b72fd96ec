"""Tables for the terminal, and as CSV, JSON or Parquet."""

from __future__ import annotations

import datetime
import decimal
import io
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fossilray.core.config.choices import TableFormat
from fossilray.core.whole_files import write_whole

if TYPE_CHECKING:
    import pyarrow as pa
from fossilray.core.text import LIKE_A_FORMULA


def write_table(table: pa.Table, *, form: TableFormat, out: Path | None = None) -> None:
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


def encode_table(table: pa.Table, form: TableFormat) -> bytes:
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
            safe = pc.replace_substring_regex(table[index], pattern=LIKE_A_FORMULA, replacement=r"'\1")
            table = table.set_column(index, field.name, safe)
        if pa.types.is_nested(field.type):
            texts = [
                None if value is None else json.dumps(_plain(value)) for value in table[index].to_pylist()
            ]
            table = table.set_column(index, field.name, pa.array(texts, pa.string()))
    return table
