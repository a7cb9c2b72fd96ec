"""Objects that are far from every label, in clusters: candidates for genera that nobody labelled.

Memory holds a sample of vectors, one slide, and counts by cluster and sample of rock; all else is streamed, twice.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fossilray.analysis.discovery.candidates import CandidateAccumulator, Discovery
from fossilray.analysis.discovery.novel_objects import NovelInSlide, NovelObjects
from fossilray.analysis.discovery.page import render_discovery
from fossilray.core.config import StoreConfig
from fossilray.models.clustering import Clusters, find_clusters
from fossilray.store.files.streaming import StreamedFile, split_table_path, stream_to
from fossilray.store.run.objects_file import FOOTER_KEY, ROW_GROUP_ROWS
from fossilray.training.curation.sheets import draw_sheets

MOST_VECTORS = 50_000
"""Of objects unlike all labels, in memory while clusters are found: 256 MB at 1,280 numbers each."""

DISCOVERY_SCHEMA = pa.schema(
    [
        pa.field("slide_id", pa.string(), nullable=False),
        pa.field("object_id", pa.int32(), nullable=False),
        pa.field("well", pa.string(), nullable=False),
        pa.field("measured_depth_m", pa.float64()),
        pa.field("cluster", pa.int32(), nullable=False),
        pa.field("cosine", pa.float32(), nullable=False),
        pa.field("novelty", pa.float32(), nullable=False),
        pa.field("novelty_p", pa.float32(), nullable=False),
        pa.field("nearest_genus", pa.string(), nullable=False),
    ]
)
"""One object that is like no label, its cluster, and the cosine with that cluster's centre."""


def discover(
    objects: NovelObjects,
    out: str,
    *,
    clusters: int = 30,
    shown: int = 24,
    seed: int = 0,
    access: StoreConfig | None = None,
    on_slide: Callable[[], None] = lambda: None,
) -> Discovery:
    """Write one row for each object that is like no label, with its cluster, and beside it a page of contact sheets.

    out: a .parquet file, local or s3://, which is replaced; the page is called alike and ends in .html. on_slide is
    called twice for each slide that has objects. Equal input gives equal bytes.

    Raises:
        UsageError: `out` is no place for a table.
        StoreError: the run cannot be read, or the table not written.
    """
    files, name = split_table_path(out, access or StoreConfig())
    vectors = _sample(objects, seed=seed, on_slide=on_slide)
    found = (
        find_clusters(vectors, clusters=clusters, families=1, seed=seed)
        if len(vectors)
        else Clusters(np.zeros((0, objects.head.meta.dimension), np.float32), np.zeros(0, np.int32))
    )
    tally = CandidateAccumulator(found, objects.head.classes, shown=shown, seed=seed)
    with tempfile.TemporaryFile() as spool:
        with pq.ParquetWriter(spool, DISCOVERY_SCHEMA, compression="zstd") as writer:
            for one in objects.read():
                cluster, cosine = tally.add(one)
                writer.write_table(_rows(one, cluster, cosine, objects.head.classes))
                on_slide()
        record, number = tally.conclude(objects)
        sheets = draw_sheets([objects.store], tally.drawn, clusters=len(found))
        with stream_to(files, name.removesuffix(".parquet") + ".html") as sink:
            sink.write(render_discovery(record, sheets, number).encode())
        spool.seek(0)
        with stream_to(files, name) as sink:
            _write_table(spool, sink, record, number)
    return record


def _sample(objects: NovelObjects, *, seed: int, on_slide: Callable[[], None]) -> NDArray[np.float32]:
    """Directions of objects unlike all labels: of all, or of those that drew the lowest lots."""
    vectors, lots = np.zeros((0, objects.head.meta.dimension), np.float32), np.zeros(0)
    for number, one in enumerate(objects.read()):
        vectors = np.concatenate([vectors, one.vectors])
        lots = np.concatenate([lots, np.random.default_rng([seed, number]).random(len(one.rows))])
        if len(lots) > MOST_VECTORS:
            kept = np.sort(np.argpartition(lots, MOST_VECTORS)[:MOST_VECTORS])
            vectors, lots = vectors[kept], lots[kept]
        on_slide()
    return vectors


def _rows(
    one: NovelInSlide, cluster: NDArray[np.int32], cosine: NDArray[np.float32], genera: tuple[str, ...]
) -> pa.Table:
    slide, count = one.slide, len(one.rows)
    columns = {
        "slide_id": pa.array([slide.slide_id] * count, pa.string()),
        "object_id": pa.array(slide.object_id[one.rows]),
        "well": pa.array([slide.well] * count, pa.string()),
        "measured_depth_m": pa.array([slide.measured_depth_m] * count, pa.float64()),
        "cluster": pa.array(cluster),
        "cosine": pa.array(cosine),
        "novelty": pa.array(one.distance),
        "novelty_p": pa.array(one.p_value),
        "nearest_genus": pa.array([genera[c] for c in one.nearest.tolist()], pa.string()),
    }
    return pa.Table.from_arrays([columns[field.name] for field in DISCOVERY_SCHEMA], schema=DISCOVERY_SCHEMA)


def _write_table(spool: IO[bytes], sink: StreamedFile, record: Discovery, number: NDArray[np.int32]) -> None:
    """The table with clusters numbered as on the page."""
    schema = DISCOVERY_SCHEMA.with_metadata({FOOTER_KEY: record.to_json()})
    place = schema.get_field_index("cluster")
    with (
        pq.ParquetFile(spool) as source,
        pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for batch in source.iter_batches(batch_size=ROW_GROUP_ROWS):
            columns = batch.columns
            columns[place] = pa.array(number[batch["cluster"].to_numpy()])
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=ROW_GROUP_ROWS)
