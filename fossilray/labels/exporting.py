"""Export of a label set as one table that `labels import` reads back without loss."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fossilray.core.atomic_files import write_atomically
from fossilray.core.errors import UsageError
from fossilray.core.formats.ods import write_ods
from fossilray.core.formats.xlsx import write_xlsx
from fossilray.core.name_source import EXPERT, NAME_SOURCE
from fossilray.core.text import escape_formula
from fossilray.labels.label import Label
from fossilray.labels.label_set import Labels
from fossilray.labels.occurrence_cells import BOX_COLUMNS, CHOSEN_BY, SCAN_COLUMNS

EXPORT_SUFFIXES = (".csv", ".xlsx", ".ods", ".parquet")
"""Formats of `export_labels`, by the name of the file."""

EXPORT_COLUMNS = (
    *("slide_id", "object_id", "taxon", "qualifier", "taxon_rank", "kind", "situation", "specimen", "unsure"),
    *("remark", "who", "at", *BOX_COLUMNS, "attempt", "scan_id", *SCAN_COLUMNS, CHOSEN_BY, NAME_SOURCE),
)
"""Columns of an export; `taxon` is the name as written."""
_NUMBERS = {"object_id", *BOX_COLUMNS, *SCAN_COLUMNS}

_Cell = str | int | None


def export_labels(labels: Labels, out: Path) -> int:
    """Write the current labels of all annotators and return their number.

    The format is that of the file's name: .csv, .xlsx, .ods or .parquet.

    Raises:
        UsageError: the name states none of these formats, or the file cannot be written.
    """
    suffix = out.suffix.lower()
    if suffix not in EXPORT_SUFFIXES:
        raise UsageError(
            f"{out} ends in none of {', '.join(EXPORT_SUFFIXES)}, which state the format of a table; name another file"
        )
    # Text that a spreadsheet would run is escaped in Parquet, too: the reader of tables unescapes it in all formats.
    rows = [list(map(_escaped, _cells(label))) for given in labels.by_object.values() for label in given]
    if suffix == ".parquet":
        write_atomically(out, _to_parquet(rows))
        return len(rows)
    lines = [EXPORT_COLUMNS, *rows]
    try:
        match suffix:
            case ".xlsx":
                content = write_xlsx("labels", lines)
            case ".ods":
                content = write_ods("labels", lines)
            case _:
                content = _to_csv(lines)
    except ValueError as error:
        raise UsageError(f"{out} cannot be written: the labels have {error}; write .csv") from None
    write_atomically(out, content)
    return len(rows)


def _cells(label: Label) -> list[_Cell]:
    occurrence = label.occurrence
    return [
        *(
            label.slide_id,
            label.object_id,
            occurrence.written,
            occurrence.qualifier,
            occurrence.rank,
            occurrence.kind,
        ),
        *(
            occurrence.situation,
            occurrence.specimen,
            "yes" if occurrence.is_unsure else None,
            occurrence.remark,
            label.who,
            label.at,
        ),
        *(*label.box, label.attempt, label.scan.scan_id),
        *(getattr(label.scan, name) for name in SCAN_COLUMNS),
        *(label.chosen_by or None, EXPERT),
    ]


def _escaped(value: _Cell) -> _Cell:
    return escape_formula(value) if isinstance(value, str) else value


def _to_csv(lines: Sequence[Sequence[_Cell]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    # With a byte order mark Excel reads letters such as ø.
    return text.getvalue().encode("utf-8-sig")


def _to_parquet(rows: Sequence[Sequence[_Cell]]) -> bytes:
    columns = list(zip(*rows, strict=True)) or [()] * len(EXPORT_COLUMNS)
    kinds = [pa.int32() if name in _NUMBERS else pa.string() for name in EXPORT_COLUMNS]
    arrays = [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, list(EXPORT_COLUMNS)), sink, compression="zstd")
    return sink.getvalue()
