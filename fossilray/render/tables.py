"""Results of queries as CSV, JSON or Parquet."""

from __future__ import annotations

import datetime
import decimal
import io
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fossilray.core.atomic_files import write_atomically
from fossilray.core.config.choices import TableFormat
from fossilray.core.errors import UsageError
from fossilray.core.text import LIKE_A_FORMULA

if TYPE_CHECKING:
    import pyarrow as pa


def write_table(table: pa.Table, *, form: TableFormat, out: Path | None = None) -> None:
    """Write a table to a file, or to standard output.

    Raises:
        UsageError: the file cannot be written, or two columns share a name and the format is JSON.
    """
    content = encode_table(table, form)
    if out is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    write_atomically(out, content)


def encode_table(table: pa.Table, form: TableFormat) -> bytes:
    """Return a table as the bytes of a CSV file, a JSON array of records, or a Parquet file.

    Raises:
        UsageError: two columns share a name and the format is JSON, whose records cannot hold both.
    """
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
    shared = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if shared:
        raise UsageError(
            f"two columns of the result are named {shared[0]}, and a JSON record holds one; rename one with AS, or "
            "write CSV"
        )
    rows = [{name: _plain(value) for name, value in row.items()} for row in table.to_pylist()]
    return json.dumps(rows, ensure_ascii=False, indent=1).encode() + b"\n"


def _plain(value: Any) -> Any:
    """Return a value in the types of JSON, which has neither NaN nor infinity. Whole decimals, as of sum(), are int."""
    match value:
        case decimal.Decimal() if value.is_finite() and value == value.to_integral_value():
            plain: Any = int(value)
        case float() | decimal.Decimal():
            plain = float(value) if math.isfinite(value) else None
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
    """Return the table with lists and structures as JSON, and texts escaped that a spreadsheet reads as formulas."""
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
