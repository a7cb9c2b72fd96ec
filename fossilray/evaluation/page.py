"""The files of an evaluation: tables that spreadsheets take, JSON, and how they come into a folder."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fossilray.core.text import escape_formula
from fossilray.core.whole_files import write_whole

Rows = Iterable[Sequence[object]]


def write_files(out: Path, files: Mapping[str, bytes]) -> None:
    """Write files by their names into a folder, which is made.

    Raises:
        UsageError: the folder cannot be written.
    """
    for name, content in files.items():
        write_whole(out / name, content)


def csv_file(header: Sequence[str], rows: Rows) -> bytes:
    """A table in UTF-8; numbers to six digits, what is not known empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([escape_formula(name) for name in header])
    for row in rows:
        writer.writerow([_cell(value) for value in row])
    return buffer.getvalue().encode()


def json_file(content: Mapping[str, Any]) -> bytes:
    """JSON to read, its keys in the order given."""
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _cell(value: object) -> object:
    if isinstance(value, str):
        return escape_formula(value)
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return "" if value is None else value
