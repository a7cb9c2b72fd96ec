"""Results that later jobs derive from a run's crops, slide by slide under a name: embeddings or predictions.

One file per slide, whose creation is its commit, as of objects files; nothing is overwritten, and no scan is read.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fossilray.core.config.choices import NO_PREDICTIONS
from fossilray.core.errors import RunMismatch, RunNotFound, StoreError, UsageError
from fossilray.core.formats import FileRole, parse_record
from fossilray.core.formats.parquet import read_parquet_metadata, read_table, stated
from fossilray.core.records import utc_now
from fossilray.core.schemas import (
    CALIBRATED_PREDICTIONS_SCHEMA,
    PREDICTIONS_SCHEMA,
    RANKED_PREDICTIONS_SCHEMA,
    embeddings_schema,
)
from fossilray.store.arrays.array_layout import MOST_DIMENSIONS
from fossilray.store.files.conditional_create import check_conditional_create
from fossilray.store.files.parquet import read_slices
from fossilray.store.files.subfolder import Subfolder
from fossilray.store.run.attempts import AttemptLog
from fossilray.store.run.json_record import JsonRecord
from fossilray.store.run.layout import (
    DERIVED_JSON,
    DERIVED_KINDS,
    DerivedKind,
    derived_folder,
    slide_file,
    slide_of,
)
from fossilray.store.run.objects_file import FOOTER_KEY, read_tail_of
from fossilray.store.run.roles import derived_file, derived_record
from fossilray.store.run.run_store import RunStore

EMBEDDINGS_PER_ROW_GROUP = 256
"""Rows of embeddings that are read together: 256 kB of 512 numbers."""
DERIVED_VERSION = 1
CALIBRATED_VERSION = 2
"""Version of calibrated predictions, which carry prediction sets and novelty."""
RANKED_VERSION = 3
"""Version of calibrated predictions with the taxon and the rank that they can defend."""
_PREDICTIONS_OF_VERSION = {
    DERIVED_VERSION: PREDICTIONS_SCHEMA,
    CALIBRATED_VERSION: CALIBRATED_PREDICTIONS_SCHEMA,
    RANKED_VERSION: RANKED_PREDICTIONS_SCHEMA,
}


@dataclass(frozen=True)
class DerivedRecord(JsonRecord):
    """The record of the derived results of one name, answers.json; names of fields are keys of the file."""

    kind: DerivedKind
    run_digest: str
    """`RunRecord.digest` of the run whose crops are described or classified."""
    backbone: Mapping[str, Any]
    """Name, sha256, dimension and preprocessing of what makes the vectors."""
    head: Mapping[str, Any] | None = None
    """The head that made predictions: sha256, kind, classes; confusion matrix and coverage of its sets if known."""
    embeddings: str | None = None
    """Name of the embeddings that predictions were made from; None for those of the run itself."""
    schema_version: int = DERIVED_VERSION
    created_at: str = ""
    """UTC, ISO 8601."""

    @property
    def schema(self) -> pa.Schema:
        """Columns of a slide's file; `well` is the Hive partition, as of objects."""
        if self.kind == "embeddings":
            return embeddings_schema(int(self.backbone["dimension"]))
        return _PREDICTIONS_OF_VERSION[self.schema_version]

    @property
    def is_calibrated(self) -> bool:
        """Whether predictions carry prediction sets and novelty."""
        return self.kind == "predictions" and self.schema_version >= CALIBRATED_VERSION

    @staticmethod
    def from_json(text: bytes, *, url: str) -> DerivedRecord:
        """Parse an answers.json.

        Raises:
            StoreError: the file is not one that this fossilray wrote.
        """
        role = derived_record(f"{url}/{DERIVED_JSON}")
        record = DerivedRecord.parse(text, role)
        versions = tuple(_PREDICTIONS_OF_VERSION)[: None if record.kind == "predictions" else 1]
        if record.kind not in DERIVED_KINDS or record.schema_version not in versions:
            raise role.damaged(f"it is of the kind {record.kind}, version {record.schema_version}")
        _check_described(record, role)
        return record


@dataclass(frozen=True)
class DerivedFooter:
    """The footer of a slide's file of derived results; names of fields are keys in the file."""

    slide_id: str
    source_attempt: str
    """The attempt that made the objects and crops they are derived from."""
    answers: str
    """`DerivedRecord.digest`."""
    rows: int


class DerivedStore:
    """The derived results of one name; cheap to open, safe to share between threads."""

    def __init__(self, store: RunStore, record: DerivedRecord, name: str) -> None:
        self.record = record
        self.name = name
        self.files = Subfolder(store.files, derived_folder(record.kind, name))
        self.left_out = store.left_out
        self.attempts = AttemptLog(self.files, self.committed, left_out=store.left_out)
        """Failures and heartbeats of the jobs that make these results."""

    @staticmethod
    def create(store: RunStore, kind: DerivedKind, name: str, record: DerivedRecord) -> DerivedStore:
        """Start the derived results of this name, or open them if their record agrees.

        Raises:
            RunMismatch: the name is in use for results of another backbone, head or run.
            ConditionalCreateUnsupported: the store would let two workers commit one slide.
            UsageError: the name cannot be that of a folder, or stands for no predictions.
        """
        if kind == "predictions" and name == NO_PREDICTIONS:
            raise UsageError(f"`--predictions {name}` stands for no predictions; give another --name")
        check_conditional_create(store.files)
        files = Subfolder(store.files, derived_folder(kind, name))
        begun = DerivedRecord(**{**vars(record), "created_at": utc_now()})
        if not files.create(DERIVED_JSON, begun.to_json()):
            begun = DerivedRecord.from_json(files.read(DERIVED_JSON), url=files.url)
            differences = begun.differences(record)
            if differences:
                raise RunMismatch(
                    f"{files.url} holds other results: {'; '.join(differences)}; give another --name"
                )
        return DerivedStore(store, begun, name)

    @staticmethod
    def open(store: RunStore, kind: DerivedKind, name: str) -> DerivedStore:
        """Open the derived results of this name.

        Raises:
            RunNotFound: the run has none of this name.
        """
        files = Subfolder(store.files, derived_folder(kind, name))
        try:
            record = DerivedRecord.from_json(files.read(DERIVED_JSON), url=files.url)
        except FileNotFoundError:
            others = ", ".join(derived_names(store, kind)) or "none"
            raise RunNotFound(f"{store.url} has no {kind} named {name}; it has: {others}") from None
        return DerivedStore(store, record, name)

    @property
    def url(self) -> str:
        """The folder with its protocol; a plain absolute path on a disk."""
        return self.files.url

    def committed_files(self) -> dict[str, str]:
        """The file of each slide that has derived results, relative to the folder, by slide_id."""
        wells = [name for name in self.files.names("") if name.startswith("well=")]
        paths = [path for well in wells for path in self.files.find(well) if path.endswith(".parquet")]
        return {slide_of(path): path for path in paths}

    def committed(self) -> set[str]:
        """slide_ids of the slides that have derived results."""
        return set(self.committed_files())

    def commit(self, slide_id: str, well: str | None, table: pa.Table, *, source_attempt: str) -> bool:
        """Commit a slide's derived results; False if another process committed some first.

        table: `record.schema`, in the order of the slide's objects.
        """
        if table.schema != self.record.schema:
            raise ValueError(f"{slide_id}: the table is of {table.schema}, expected {self.record.schema}")
        footer = DerivedFooter(slide_id, source_attempt, self.record.digest, table.num_rows)
        sink = io.BytesIO()
        pq.write_table(
            table.replace_schema_metadata({FOOTER_KEY: json.dumps(asdict(footer), sort_keys=True).encode()}),
            sink,
            compression="zstd",
            use_dictionary=[
                name for name in table.schema.names if table.schema.field(name).type == pa.string()
            ],
            write_page_checksum=True,
            row_group_size=EMBEDDINGS_PER_ROW_GROUP if self.record.kind == "embeddings" else None,
        )
        return self.files.create(slide_file(slide_id, well), sink.getvalue())

    def read(self, slide_id: str) -> pa.Table:
        """Read the derived results of one slide, in the order of its objects.

        Raises:
            StoreError: they are missing, damaged or of another slide.
        """
        path = self.committed_files().get(slide_id)
        if path is None:
            raise self._absent(slide_id)
        return self.read_file(path)

    def read_file(self, path: str, *, source_attempt: str | None = None) -> pa.Table:
        """Read one of `committed_files`.

        source_attempt: the attempt at the slide that they must be derived from; None: any.

        Raises:
            StoreError: it is missing, damaged, or of another slide or attempt.
        """
        try:
            content = self.files.read(path)
        except FileNotFoundError:
            raise self._absent(slide_of(path)) from None
        footer = self.parse_footer(content, path)
        self._check_source(path, footer, source_attempt)
        role = self._role(path)
        table = read_table(content, role).replace_schema_metadata(None)
        if table.schema != self.record.schema or table.num_rows != footer.rows:
            raise role.damaged(f"it has {table.num_rows:,} rows of {', '.join(table.schema.names)}")
        return table

    def read_slices(
        self, path: str, slices: Sequence[tuple[int, int]], *, columns: Sequence[str], source_attempt: str
    ) -> list[pa.Table]:
        """Rows start to stop of each of the slices, without reading the whole file.

        Raises:
            StoreError: as `read_file`.
        """
        try:
            tail = read_tail_of(lambda size: self.files.read_tail(path, size))
            footer = self.parse_footer(tail, path)
            self._check_source(path, footer, source_attempt)
            return read_slices(self.files, path, tail, slices, columns=columns, role=self._role(path))
        except FileNotFoundError:
            raise self._absent(slide_of(path)) from None

    def footer(self, path: str) -> DerivedFooter:
        """Read the footer of one of `committed_files`.

        Raises:
            StoreError: it is damaged or of another slide.
        """
        return self.parse_footer(read_tail_of(lambda size: self.files.read_tail(path, size)), path)

    def parse_footer(self, tail: bytes, path: str) -> DerivedFooter:
        """The footer in the last bytes of a file of derived results."""
        role = self._role(path)
        metadata = read_parquet_metadata(tail, role)
        footer = parse_record(DerivedFooter, stated(metadata, FOOTER_KEY, role), role)
        if (footer.slide_id, footer.answers) != (slide_of(path), self.record.digest):
            raise role.damaged(
                f"its footer is that of slide {footer.slide_id}, by the record {footer.answers[:12]}"
            )
        if footer.rows != metadata.num_rows:
            raise role.damaged(f"it has {metadata.num_rows:,} rows, and its footer counts {footer.rows:,}")
        return footer

    def _check_source(self, path: str, footer: DerivedFooter, source_attempt: str | None) -> None:
        if source_attempt not in (None, footer.source_attempt):
            raise StoreError(
                f"{self.url}/{path} is about objects of a slide that was processed again since; start the command that "
                "made it again"
            )

    def _absent(self, slide_id: str) -> StoreError:
        return StoreError(
            f"{self.url} has no results of slide {slide_id} yet; start the command that makes them again"
        )

    def _role(self, path: str) -> FileRole:
        return derived_file(f"{self.url}/{path}")


def derived_names(store: RunStore, kind: DerivedKind) -> list[str]:
    """The names of all derived results of one kind in a run directory, sorted."""
    return [name for name in store.files.names(kind) if DERIVED_JSON in store.files.names(f"{kind}/{name}")]


def _check_described(record: DerivedRecord, role: FileRole) -> None:
    """Refuse a dimension that no backbone has: memory is allocated by it.

    Raises:
        DamagedFile: it is out of bounds.
    """
    dimension = record.backbone.get("dimension")
    if record.kind == "predictions" and dimension is None:
        return  # they hold no vectors, and a run may not state its own's
    if not isinstance(dimension, int) or not 1 <= dimension <= MOST_DIMENSIONS:
        raise role.damaged(f"it states vectors of {dimension!r:.40} numbers, expected 1 to {MOST_DIMENSIONS}")
