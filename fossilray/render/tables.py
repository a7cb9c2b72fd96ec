"""Results of queries: printed, or as CSV, JSON or Parquet."""

from __future__ import annotations

import datetime
import decimal
import io
import json
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from fossilray.core.atomic_files import write_atomically
from fossilray.core.config.choices import TableFormat
from fossilray.core.errors import UsageError
from fossilray.core.text import LIKE_A_FORMULA, counted, escape_formula, format_cell, strip_control_characters
from fossilray.core.text_table import PIPED_WIDTH, TextColumn, TextTable, text_width

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console

_GAP = 2
_PIPED_BATCH = 4096


def print_table(table: pa.Table, *, console: Console, most_rows: int = 200) -> None:
    """Print the result of a query.

    On a terminal only the first rows of a long result are printed, with the number of the others. Without a terminal
    every row is printed, on one line.
    """
    if not console.is_terminal and console.width >= PIPED_WIDTH:
        console.file.writelines(_piped_lines(table))
        return
    shown = TextTable(*_columns_of(table))
    for cells in _cells_of(table.slice(0, most_rows)):
        shown.add_row(*(Text(cell, style="dim" if cell == format_cell(None) else "") for cell in cells))
    console.print(shown)
    if table.num_rows > most_rows:
        console.print(
            f"… and {table.num_rows - most_rows:,} more rows; --format csv prints all of them",
            highlight=False,
        )
    else:
        console.print(counted(table.num_rows, "row"), style="dim", highlight=False)


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


def _piped_lines(table: pa.Table) -> Iterator[str]:
    """Yield the header, a line per row, and the number of rows. The table is formatted twice and never held whole."""
    columns = _columns_of(table)
    names = [strip_control_characters(column.name) for column in columns]
    widths = list(map(text_width, names))
    for cells in _cells_of(table):
        widths = [max(width, text_width(cell)) for width, cell in zip(widths, cells, strict=True)]

    def line(cells: Iterable[str]) -> str:
        padded = [
            f"{' ' * (width - text_width(cell))}{cell}"
            if column.is_number
            else f"{cell}{' ' * (width - text_width(cell))}"
            for column, width, cell in zip(columns, widths, cells, strict=True)
        ]
        return (" " * _GAP).join(padded).rstrip() + "\n"

    yield line(names)
    for cells in _cells_of(table):
        yield line(cells)
    yield counted(table.num_rows, "row") + "\n"


def _columns_of(table: pa.Table) -> list[TextColumn]:
    import pyarrow as pa

    kinds = [field.type for field in table.schema]
    numeric = [
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) for kind in kinds
    ]
    return [
        TextColumn(name, is_number=is_number)
        for name, is_number in zip(table.column_names, numeric, strict=True)
    ]


def _cells_of(table: pa.Table) -> Iterator[list[str]]:
    """Yield the cells of each row as text. Columns may share a name."""
    for batch in table.to_batches(max_chunksize=_PIPED_BATCH):
        for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield [format_cell(value) for value in values]


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
    return table.rename_columns([escape_formula(name) for name in table.column_names])
