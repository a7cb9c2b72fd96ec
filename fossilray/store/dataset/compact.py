"""Compaction: the many small files of a run become a dataset that DuckDB scans fast, verified before publication."""

from __future__ import annotations

import hashlib
import io
import itertools
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fossilray.core.config import StoreConfig
from fossilray.core.errors import StoreError, UsageError
from fossilray.core.records import utc_now
from fossilray.core.schemas import (
    CATALOG_SCHEMA,
    FAILURES_SCHEMA,
    OBJECTS_SCHEMA,
    SCHEMA_VERSION,
    embeddings_schema,
)
from fossilray.core.text import counted, format_bytes, strip_control_characters
from fossilray.core.types import OnProgress
from fossilray.store.arrays.sharding import SHARD_ROWS
from fossilray.store.dataset.dataset_store import (
    EMBEDDINGS_FOLDER,
    FAILURES_PARQUET,
    DatasetFile,
    DatasetRecord,
)
from fossilray.store.dataset.destination import DatasetDestination
from fossilray.store.dataset.multi_slide_file import SlideRows, write_multi_slide_file
from fossilray.store.dataset.run_snapshot import RunSnapshot, SlideEmbeddings, read_vectors
from fossilray.store.files.base import Files
from fossilray.store.files.claims import hold_folder
from fossilray.store.files.local import LocalFiles
from fossilray.store.files.open import open_files
from fossilray.store.run.layout import OBJECTS, RUN_JSON, catalog_part_path, part_path
from fossilray.store.run.objects_file import ROW_GROUP_ROWS
from fossilray.store.run.run_store import RunStore
from fossilray.store.samples.rounds import round_path

if TYPE_CHECKING:
    from rich.text import Text

EMBEDDING_SHARDS_AT_ONCE = 8
"""Shards of vectors that are written as one row group: 25 MB at 768 dimensions."""


@dataclass(frozen=True)
class CompactReport:
    """Sizes of a finished dataset and of its source."""

    url: str
    slides: int
    objects: int
    files: int
    """Parquet files of objects and embeddings."""
    bytes: int
    """Bytes of these files."""
    source_files: int
    source_bytes: int
    """Bytes of the run's objects files, without its arrays."""
    embeddings: bool
    seconds: float


def compact_run(
    store: RunStore,
    to: str,
    *,
    access: StoreConfig,
    slides_per_file: int = 200,
    embeddings: bool = False,
    display: OnProgress | None = None,
) -> CompactReport:
    """Make a dataset at `to` of what is committed in a run now, and announce it once it equals the run.

    Memory holds a row group and a few slides. An unfinished dataset at `to` is replaced.
    embeddings: their vectors too, as halves, in files beside the objects.

    Raises:
        RunNotFound: the folder holds no run.
        UsageError: `to` is not free, or lies in the run, or the run has no embeddings, or is itself a dataset.
        StoreError: the run is damaged, or the destination refuses or alters what is written.
    """
    began, compacted_at = time.monotonic(), utc_now()
    target = open_files(to, access)
    _check_request(store, target, slides_per_file=slides_per_file, embeddings=embeddings)
    source = RunSnapshot(store, display)
    record = DatasetDestination.published(target, store.url, embeddings=embeddings)
    if record is None:
        DatasetDestination.check_free(target)
        with hold_folder(target, "`fossilray compact`") as claim:
            destination = DatasetDestination.claim_folder(target, store.url, claim)
            record = _write(source, target, destination, compacted_at, slides_per_file, embeddings=embeddings)
    DatasetDestination.tidy(target)
    made = [file for file in record.files if file.path.startswith((f"{OBJECTS}/", f"{EMBEDDINGS_FOLDER}/"))]
    return CompactReport(
        url=target.url,
        slides=record.slides,
        objects=record.objects,
        files=len(made),
        bytes=sum(file.bytes for file in made),
        source_files=len(source.committed),
        source_bytes=source.bytes,
        embeddings=embeddings,
        seconds=time.monotonic() - began,
    )


def _write(
    source: RunSnapshot,
    target: Files,
    destination: DatasetDestination,
    compacted_at: str,
    slides_per_file: int,
    *,
    embeddings: bool,
) -> DatasetRecord:
    store = source.store
    files: list[DatasetFile] = []
    dimension = source.dimension() if embeddings else None
    for planned in _plan_files(source, slides_per_file):
        destination.require_claim()
        vectors: list[SlideEmbeddings] = []
        files.append(
            write_multi_slide_file(
                target,
                f"{OBJECTS}/{planned.path}",
                OBJECTS_SCHEMA,
                source.read(planned.slides, vectors),
                group_rows=ROW_GROUP_ROWS,
            )
        )
        if dimension is not None:
            files.append(_write_embeddings(store, target, planned, vectors, dimension))
    for _ in source.read(source.empty, []):
        pass  # read all the same: nothing is left out that the summaries do not know of
    record = DatasetRecord(
        schema_version=SCHEMA_VERSION,
        source=store.url,
        compacted_at=compacted_at,
        slides=len(source.committed),
        objects=sum(file.rows for file in files if file.path.startswith(f"{OBJECTS}/")),
        embedding_dimension=dimension,
        files=(*files, *_write_tables(source, target)),
    )
    destination.publish(record)
    return record


def render_compacted(report: CompactReport) -> Text:
    """Render the report in two lines for a rich console."""
    from rich.text import Text

    embeddings = ", embeddings beside them" if report.embeddings else ""
    return Text(
        f"{counted(report.slides, 'slide')} with {counted(report.objects, 'object')} -> "
        f"{strip_control_characters(report.url)}\n"
        f"{counted(report.source_files, 'file')} ({format_bytes(report.source_bytes)}) became {report.files:,} "
        f"({format_bytes(report.bytes)}{embeddings}), equal to the run, in {report.seconds:,.0f} s"
    )


def _check_request(store: RunStore, target: Files, *, slides_per_file: int, embeddings: bool) -> None:
    if store.is_dataset:
        raise UsageError(f"{store.url} is a compacted dataset already; name the run {store.source_run.url}")
    if slides_per_file < 1:
        raise UsageError(f"{slides_per_file} slides a file are not possible; 100 to 250 are good")
    if embeddings and store.read_run().config["embedder"]["weights"] == "none":
        raise UsageError(
            f"{store.url} holds no embeddings, for it was made with embedder.weights none; compact it without them"
        )
    inside, outside = PurePosixPath(_resolved(target)), PurePosixPath(_resolved(store.files))
    if inside.is_relative_to(outside):
        raise UsageError(f"{target.url} lies in the run {store.url} itself; choose a folder beside it")


def _resolved(files: Files) -> str:
    return Path(files.root).resolve().as_posix() if isinstance(files, LocalFiles) else files.root


@dataclass(frozen=True)
class _PlannedFile:
    """A planned file of objects."""

    path: str
    """Relative to objects/, and to embeddings/ if embeddings are written."""
    slides: tuple[str, ...]


def _plan_files(source: RunSnapshot, slides_per_file: int) -> Iterator[_PlannedFile]:
    """Plan files well by well, of about equal numbers of slides with objects, by slide_id."""
    wells: dict[str, list[str]] = defaultdict(list)
    for slide_id in sorted(source.committed):
        if source.objects[slide_id]:
            # The folder as the run names it, so that no process need encode a well's name again.
            wells[PurePosixPath(source.committed[slide_id]).parent.name].append(slide_id)
    for well, slides in sorted(wells.items()):
        cuts = np.linspace(0, len(slides), ceil(len(slides) / slides_per_file) + 1).round().astype(int)
        for number, (first, end) in enumerate(itertools.pairwise(cuts)):
            yield _PlannedFile(f"{well}/part-{number:06d}.parquet", tuple(slides[first:end]))


def _write_embeddings(
    store: RunStore, target: Files, planned: _PlannedFile, vectors: Sequence[SlideEmbeddings], dimension: int
) -> DatasetFile:
    schema = embeddings_schema(dimension)
    slides = (
        SlideRows(listed.slide_id, read_vectors(store, listed, schema, dimension)) for listed in vectors
    )
    group_rows = EMBEDDING_SHARDS_AT_ONCE * SHARD_ROWS
    return write_multi_slide_file(
        target, f"{EMBEDDINGS_FOLDER}/{planned.path}", schema, slides, group_rows=group_rows
    )


def _write_tables(source: RunSnapshot, target: Files) -> Iterator[DatasetFile]:
    """Write the tables about slides and copy the run's record."""
    store = source.store
    failures = [failure for failure in store.attempts.failures() if failure.slide_id not in source.committed]
    tables = {
        part_path(0): source.summaries,
        FAILURES_PARQUET: pa.Table.from_pylist([asdict(row) for row in failures], schema=FAILURES_SCHEMA),
        catalog_part_path(0): pa.Table.from_pylist(
            [asdict(row) for row in store.read_catalog()], schema=CATALOG_SCHEMA
        ),
    }
    for path, table in tables.items():
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        yield _write_whole(target, path, sink.getvalue(), rows=table.num_rows)
    for round_ in store.sample_rounds.all():
        path = round_path(round_.number)
        yield _write_whole(target, path, store.files.read(path), rows=round_.stored)
    yield _write_whole(target, RUN_JSON, store.files.read(RUN_JSON), rows=0)


def _write_whole(target: Files, path: str, content: bytes, *, rows: int) -> DatasetFile:
    target.write(path, content)
    if target.read(path) != content:
        raise StoreError(
            f"{target.url}/{path} gives back something else than was written; start the same command again"
        )
    return DatasetFile(path, (), rows, len(content), hashlib.sha256(content).hexdigest())
