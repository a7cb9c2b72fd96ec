"""Runs with vectors that a test chose, and an index over them, made without Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from support.run_fixtures import a_summary, some_objects

from fossilray.analysis.search.build_worker import IndexWorker
from fossilray.analysis.search.index_store import IndexStore
from fossilray.analysis.search.plan import IndexSettings, open_index, plan_shards
from fossilray.analysis.search.vectors_of_runs import open_sources
from fossilray.core.config import CropsConfig, EmbedderConfig, RunConfig, StoreConfig
from fossilray.core.records import WorkItem
from fossilray.store import RunStore
from fossilray.store.arrays.group import ArrayWriter
from fossilray.store.run.run_record import describe_run

CROP_PX = 32
CROPS = CropsConfig(size_px=CROP_PX)
DIMENSION = 24
SMALL = IndexSettings(quantizer="pca64-8bit", lists=8, shard_objects=700)
PLAIN = StoreConfig()


def a_vector_run(
    url: Path | str,
    slides: Mapping[str, NDArray[np.floating]],
    *,
    wells: Mapping[str, str] | None = None,
    sha256: str = "cd" * 32,
    config: StoreConfig | None = None,
    pixels: Mapping[str, NDArray[np.uint8]] | None = None,
) -> RunStore:
    """A run whose slides hold these vectors (n, d); the opacity of the last object of each slide is not known."""
    store = RunStore.open(str(url), config)
    dimension = next(iter(slides.values())).shape[1]
    embedder: dict[str, str | int | list[float]] = {"name": "net", "dimension": dimension}
    settings = RunConfig(crops=CROPS, embedder=EmbedderConfig(weights="bundled"))
    store.create_or_check(describe_run(settings, {"embedder/net": sha256}, embedder=embedder))
    for slide_id, vectors in slides.items():
        crops = None if pixels is None else pixels[slide_id]
        commit_vectors(store, slide_id, vectors, well=(wells or {}).get(slide_id, "W-1"), pixels=crops)
    return store


def commit_vectors(
    store: RunStore,
    slide_id: str,
    vectors: NDArray[np.floating],
    *,
    well: str = "W-1",
    pixels: NDArray[np.uint8] | None = None,
) -> None:
    """Commit a slide with an object for each vector (n, d)."""
    count = len(vectors)
    attempt = store.attempts.start(slide_id, deadline_s=60)
    writer = ArrayWriter(
        store, slide_id, attempt.attempt, count=count, crops=CROPS, dimension=vectors.shape[1]
    )
    if pixels is None:
        shade = (np.arange(count) * 7 % 200).astype(np.uint8)
        pixels = np.broadcast_to(shade[:, None, None, None], (count, CROP_PX, CROP_PX, 3)).copy()
    writer.write(0, pixels, vectors.astype(np.float16))
    files = writer.finish()
    table = some_objects(slide_id, files.path, count)
    number = np.arange(count)
    columns = {
        "opacity": pa.array(np.linspace(0.1, 1, count), pa.float32(), mask=number == count - 1),
        "object_id": pa.array(number, pa.int32()),
        "width_um": pa.array(20.0 + number % 40, pa.float32()),
        "height_um": pa.array(15.0 + number % 25, pa.float32()),
    }
    for name, column in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(place), column)
    summary = a_summary(slide_id, attempt.attempt, objects=count, well=well)
    assert store.commit_slide(table, summary, files, attempt=attempt)


def kinds_of_vectors(
    count: int, *, seed: int, kinds: int = 30, dimension: int = DIMENSION
) -> NDArray[np.float16]:
    """Vectors (n, d) round some centres that all seeds share, as stored."""
    centres = np.random.default_rng(0).normal(size=(kinds, dimension))
    rng = np.random.default_rng(seed + 1)
    return (centres[rng.integers(0, kinds, count)] + 0.5 * rng.normal(size=(count, dimension))).astype(
        np.float16
    )


def index_runs(
    runs: Sequence[str], url: Path | str, settings: IndexSettings = SMALL, *, access: StoreConfig = PLAIN
) -> IndexStore:
    """What `fossilray index build` does, shard after shard in this process."""
    sources = open_sources(runs, settings.embeddings, access)
    index = open_index(sources, str(url), access, settings)
    keys = plan_shards(index, sources, max_objects=settings.shard_objects)
    worker = IndexWorker(index.url, RunConfig(store=access))
    worker.prepare()
    for key in keys:
        outcome = worker.process(WorkItem(key))
        assert outcome.failure is None, outcome.failure
    return index


def directions(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """The stored vectors at length 1."""
    wide = vectors.astype(np.float16).astype(np.float64)
    return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
