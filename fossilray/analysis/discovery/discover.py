"""Clusters of novel objects, which are candidates for unlabelled genera.

The run is read twice, slide by slide. Memory holds a sample of embeddings, one slide, and sums by cluster and depth.
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

MAX_VECTORS = 50_000
"""Embeddings of novel objects in memory while they are clustered: 256 MB at 1,280 dimensions."""

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
"""One row per novel object: its cluster, and its cosine similarity to the cluster's centre."""


def write_discovery(
    objects: NovelObjects,
    out: str,
    *,
    clusters: int = 30,
    shown: int = 24,
    seed: int = 0,
    access: StoreConfig | None = None,
    on_slide: Callable[[], None] = lambda: None,
) -> Discovery:
    """Write a table of novel objects with their clusters, and a page of contact sheets. Equal input, equal bytes.

    Args:
        out: a .parquet file, local or s3://, which is replaced; the page has the same name, ending in .html.
        clusters: maximum number of clusters.
        shown: crops per contact sheet.
        on_slide: called twice for each slide that has objects.

    Raises:
        UsageError: `out` does not end in .parquet or cannot be written.
        StoreError: the run cannot be read or the table cannot be written.
    """
    files, name = split_table_path(out, access or StoreConfig())
    vectors = _sample_vectors(objects, seed=seed, on_slide=on_slide)
    centres = (
        find_clusters(vectors, clusters=clusters, families=1, seed=seed)
        if len(vectors)
        else Clusters(np.zeros((0, objects.head.meta.dimension), np.float32), np.zeros(0, np.int32))
    )
    accumulator = CandidateAccumulator(centres, objects.head.classes, shown=shown, seed=seed)
    with tempfile.TemporaryFile() as spool:
        with pq.ParquetWriter(spool, DISCOVERY_SCHEMA, compression="zstd") as writer:
            for novel in objects.read():
                cluster, cosine = accumulator.add(novel)
                writer.write_table(_rows(novel, cluster, cosine, objects.head.classes))
                on_slide()
        record, number = accumulator.finish(objects)
        sheets = draw_sheets([objects.store], accumulator.sample, clusters=len(centres))
        with stream_to(files, name.removesuffix(".parquet") + ".html") as sink:
            sink.write(render_discovery(record, sheets, number).encode())
        spool.seek(0)
        with stream_to(files, name) as sink:
            _write_table(spool, sink, record, number)
    return record


def _sample_vectors(objects: NovelObjects, *, seed: int, on_slide: Callable[[], None]) -> NDArray[np.float32]:
    """Return unit vectors (n, dimension) of novel objects: of all, or of MAX_VECTORS selected at random."""
    vectors, keys = np.zeros((0, objects.head.meta.dimension), np.float32), np.zeros(0)
    for number, novel in enumerate(objects.read()):
        vectors = np.concatenate([vectors, novel.vectors])
        keys = np.concatenate([keys, np.random.default_rng([seed, number]).random(len(novel.rows))])
        if len(keys) > MAX_VECTORS:
            kept = np.sort(np.argpartition(keys, MAX_VECTORS)[:MAX_VECTORS])
            vectors, keys = vectors[kept], keys[kept]
        on_slide()
    return vectors


def _rows(
    novel: NovelInSlide, cluster: NDArray[np.int32], cosine: NDArray[np.float32], genera: tuple[str, ...]
) -> pa.Table:
    slide, count = novel.slide, len(novel.rows)
    columns = {
        "slide_id": pa.array([slide.slide_id] * count, pa.string()),
        "object_id": pa.array(slide.object_id[novel.rows]),
        "well": pa.array([slide.well] * count, pa.string()),
        "measured_depth_m": pa.array([slide.measured_depth_m] * count, pa.float64()),
        "cluster": pa.array(cluster),
        "cosine": pa.array(cosine),
        "novelty": pa.array(novel.distance),
        "novelty_p": pa.array(novel.p_value),
        "nearest_genus": pa.array([genera[c] for c in novel.nearest.tolist()], pa.string()),
    }
    return pa.Table.from_arrays([columns[field.name] for field in DISCOVERY_SCHEMA], schema=DISCOVERY_SCHEMA)


def _write_table(spool: IO[bytes], sink: StreamedFile, record: Discovery, number: NDArray[np.int32]) -> None:
    """Write the table with the numbers that clusters have in the record."""
    schema = DISCOVERY_SCHEMA.with_metadata({FOOTER_KEY: record.to_json()})
    cluster_column = schema.get_field_index("cluster")
    with (
        pq.ParquetFile(spool) as source,
        pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for batch in source.iter_batches(batch_size=ROW_GROUP_ROWS):
            columns = batch.columns
            columns[cluster_column] = pa.array(number[batch["cluster"].to_numpy()])
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=ROW_GROUP_ROWS)
