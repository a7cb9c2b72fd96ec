"""Files of rounds: labels as rows of Parquet, with a record in the footer. Rounds of the first format are read too."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fossilray.core.formats import FileRole, build_record, parse_json
from fossilray.core.formats.parquet import read_parquet_metadata, read_table, stated
from fossilray.labels.label import Label, Scan
from fossilray.labels.occurrence import OBJECT_KINDS, QUALIFIERS, SITUATIONS, SPECIMEN_ROLES, Occurrence
from fossilray.labels.occurrence_cells import occurrence_of_cell
from fossilray.labels.taxonomy import RANKS

_BOX = ("x_min", "y_min", "x_max", "y_max")
_SCAN = ("width", "height", "bounds_x", "bounds_y", "bounds_width", "bounds_height")


def _schema(*fields: tuple[str, pa.DataType, bool]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=nullable) for name, kind, nullable in fields])


ROUND_SCHEMA = _schema(
    ("slide_id", pa.string(), False),
    ("object_id", pa.int32(), True),
    ("attempt", pa.string(), False),
    *((side, pa.int32(), False) for side in _BOX),
    ("written", pa.string(), False),
    ("taxon", pa.string(), False),
    ("qualifier", pa.string(), True),
    ("rank", pa.string(), True),
    ("kind", pa.string(), False),
    ("situation", pa.string(), True),
    ("specimen", pa.string(), True),
    ("is_unsure", pa.bool_(), False),
    ("remark", pa.string(), False),
    ("who", pa.string(), False),
    ("at", pa.string(), False),
    ("scan_id", pa.string(), True),
    *((name, pa.int32(), True) for name in _SCAN),
    ("withdrawn", pa.bool_(), True),
    ("chosen_by", pa.string(), True),
)
"""One row per label: the object, its attempt, its box in level-0 px, the occurrence, the annotator, the time, the scan.

object_id is null for an object that the detector missed. `at` is empty where the source states no time.
`withdrawn` is true in a row that withdraws the annotator's label. `chosen_by` is null where it is not stated how the
object was chosen. Rounds before these columns lack them.
"""
_WITHOUT_WITHDRAWN = pa.schema([field for field in ROUND_SCHEMA if field.name != "withdrawn"])

_FIRST_SCHEMA = _schema(
    ("slide_id", pa.string(), False),
    ("object_id", pa.int32(), False),
    ("attempt", pa.string(), False),
    ("genus", pa.string(), False),
    ("who", pa.string(), False),
    *((side, pa.int32(), False) for side in _BOX),
)
"""Columns of a round of the format fossilray-labels/1."""

_WORDS: Mapping[str, Sequence[str | None]] = {
    "qualifier": (None, *QUALIFIERS),
    "rank": (None, *RANKS),
    "kind": OBJECT_KINDS,
    "situation": (None, *SITUATIONS),
    "specimen": (None, *SPECIMEN_ROLES),
}
_FOOTER_KEY = b"fossilray"
_FIELD_OF_KEY = {"settles": "overrides"}
"""Fields of RoundRecord that the footer has under another key."""


@dataclass(frozen=True)
class RoundRecord:
    """Record in the footer of a round's file."""

    number: int
    at: str
    """UTC, ISO 8601."""
    source: str
    """Name of the folder or file that the labels came from."""
    source_sha256: str
    run: str
    run_digest: str
    overrides: bool
    """Whether these labels replace those of all annotators for their objects; `settles` in the file."""
    labels: int


def encode_round(labels: Sequence[Label], record: RoundRecord) -> bytes:
    """Return the file of a round."""
    rows = [
        {
            **asdict(label.occurrence),
            **asdict(label.scan),
            **dict(zip(_BOX, label.box, strict=True)),
            "slide_id": label.slide_id,
            "object_id": label.object_id,
            "attempt": label.attempt,
            "who": label.who,
            "at": label.at,
            "withdrawn": label.is_withdrawn,
            "chosen_by": label.chosen_by or None,
        }
        for label in labels
    ]
    key_of_field = {field: key for key, field in _FIELD_OF_KEY.items()}
    fields = {key_of_field.get(name, name): value for name, value in asdict(record).items()}
    table = pa.Table.from_pylist(
        rows,
        schema=ROUND_SCHEMA.with_metadata({_FOOTER_KEY: json.dumps(fields, sort_keys=True).encode()}),
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def decode_round(content: bytes, role: FileRole) -> tuple[RoundRecord, list[Label]]:
    """Return the record and the labels of a round's file.

    Raises:
        role.error: it is damaged, or its footer counts other labels.
    """
    metadata = read_parquet_metadata(content, role)
    fields = parse_json(stated(metadata, _FOOTER_KEY, role), role)
    if isinstance(fields, dict):
        fields = {_FIELD_OF_KEY.get(key, key): value for key, value in fields.items()}
    record = build_record(RoundRecord, fields, role)
    names = metadata.schema.to_arrow_schema().names
    is_first = "genus" in names
    schema = ROUND_SCHEMA if "withdrawn" in names else _WITHOUT_WITHDRAWN
    table = read_table(content, role, schema=_FIRST_SCHEMA if is_first else schema)
    if table.num_rows != record.labels:
        raise role.damaged(f"it has {table.num_rows:,} rows, and its footer counts {record.labels:,} labels")
    read = _first_labels if is_first else _labels
    return record, [
        replace(label, at=label.at or record.at, run_digest=record.run_digest) for label in read(table, role)
    ]


def _labels(table: pa.Table, role: FileRole) -> Iterator[Label]:
    for number, row in enumerate(table.to_pylist(), 1):
        for column, words in _WORDS.items():
            if row[column] not in words:
                raise role.damaged(
                    f"row {number}: {column} is {row[column]!r:.40}, which this fossilray does not know"
                )
        yield Label(
            row["slide_id"],
            row["object_id"],
            row["attempt"],
            _box(row),
            row["who"],
            Occurrence(**{name: row[name] for name in Occurrence.__dataclass_fields__}),
            Scan(row["scan_id"], *(row[name] for name in _SCAN)),
            row["at"],
            is_withdrawn=bool(row.get("withdrawn")),
            chosen_by=row["chosen_by"] or "",
        )


def _first_labels(table: pa.Table, _: FileRole) -> Iterator[Label]:
    for row in table.to_pylist():
        occurrence = occurrence_of_cell(row["genus"]) or Occurrence(row["genus"], row["genus"])
        yield Label(row["slide_id"], row["object_id"], row["attempt"], _box(row), row["who"], occurrence)


def _box(row: Mapping[str, Any]) -> tuple[int, int, int, int]:
    return (row["x_min"], row["y_min"], row["x_max"], row["y_max"])
