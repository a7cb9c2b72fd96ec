"""How well, how fast and how small `fossilray similar` searches: made vectors, against looking at every one.

    python benchmarks/similar.py --vectors 1000000
    python benchmarks/similar.py --vectors 10000000

Vectors are made in blocks, each from its number, so that none but a block is in memory: kinds of very unequal size
round centres, with the spread that the bundled backbone gives 2,119 labelled crops of 64 classes (57 % of it between
classes; its principal axes by octaves are in BETWEEN and WITHIN), so that neighbours are as near as there. A run on
the disk holds them as runs do, Zarr chunks and all; the index is built by the worker of `fossilray index build`, and
run by the code behind `fossilray similar`. Recall is against the cosine to every vector.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from compact import some_objects, summarise
from numpy.typing import NDArray

from fossilray.analysis.search.build_worker import IndexWorker
from fossilray.analysis.search.plan import IndexSettings, open_index, plan_shards
from fossilray.analysis.search.search import SearchIndex
from fossilray.analysis.search.vectors_of_runs import open_sources
from fossilray.core.config import CropsConfig, RunConfig, StoreConfig
from fossilray.core.records import ArrayFiles, WorkItem
from fossilray.core.vectors import unit_vectors
from fossilray.store import RunStore
from fossilray.store.arrays.embeddings import encode_embeddings
from fossilray.store.arrays.sharding import SHARD_ROWS
from fossilray.store.run.layout import arrays_path
from fossilray.store.run.run_record import describe_run

BETWEEN = (0.1177, 0.0916, 0.1485, 0.1740, 0.1801, 0.1752, 0.1129, 0.0, 0.0, 0.0)
WITHIN = (0.0257, 0.0222, 0.0382, 0.0551, 0.0806, 0.1150, 0.1526, 0.1856, 0.1952, 0.1298)
"""Shares of the variance on the principal axes 1, 2, 3-4, 5-8, … of class means, and of crops about them."""
VARIANCE, OF_CLASSES, NEARNESS = 0.942, 0.571, 0.4
"""Of vectors of length 1 about their mean; the share of class means; what is left of the spread within them, so that
neighbours are as near as among the labelled crops."""
DIMENSION, KINDS = 512, 2000
SLIDE_OBJECTS = 20_480
COUNT = 10


class MadeVectors:
    """Vectors by number of their block; equal numbers give equal vectors."""

    def __init__(self, *, kinds: int = KINDS, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        turn, _ = np.linalg.qr(rng.normal(size=(DIMENSION, DIMENSION)))
        spread = np.sqrt(_axes(BETWEEN) * VARIANCE * OF_CLASSES)
        mean = turn[:, -1] * np.sqrt(1 - VARIANCE)
        self._centres = ((rng.normal(size=(kinds, DIMENSION)) * spread) @ turn.T + mean).astype(np.float32)
        # Along the axes of the numbers themselves, which centres lie askew to.
        self._within = np.sqrt(_axes(WITHIN) * VARIANCE * (1 - OF_CLASSES) * NEARNESS).astype(np.float32)
        self._width = np.exp(rng.normal(0, 0.25, kinds)).astype(np.float32)
        share = 1 / np.arange(1, kinds + 1) ** 0.8
        self._share = share / share.sum()

    def block(self, number: int, count: int, *, seed: int = 1) -> NDArray[np.float16]:
        """Vectors (count, d) as a run stores them."""
        rng = np.random.default_rng([seed, number])
        kind = rng.choice(len(self._share), count, p=self._share)
        made = rng.standard_normal((count, DIMENSION), dtype=np.float32)
        made *= self._within
        made *= self._width[kind][:, None]
        made += self._centres[kind]
        return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float16)


def _axes(octaves: tuple[float, ...]) -> NDArray[np.float64]:
    """The variance of each axis."""
    edges = [0, *(2**power for power in range(len(octaves)))]
    parts = zip(octaves, edges, edges[1:], strict=False)
    return np.concatenate([np.full(stop - start, share / (stop - start)) for share, start, stop in parts])


class Truth:
    """The nearest of each query by cosine to every vector, kept up while vectors pass by."""

    def __init__(self, queries: NDArray[np.float32]) -> None:
        self._queries = queries
        self.cosine = np.full((len(queries), COUNT), -2, np.float32)
        self.number = np.full((len(queries), COUNT), -1, np.int64)

    def see(self, vectors: NDArray[np.float16], first: int) -> None:
        """Vectors with the numbers first, first + 1, …"""
        cosine = self._queries @ unit_vectors(vectors.astype(np.float32)).T
        best = np.argpartition(-cosine, COUNT, axis=1)[:, :COUNT]
        near = np.concatenate([self.cosine, np.take_along_axis(cosine, best, 1)], axis=1)
        which = np.concatenate([self.number, best + first], axis=1)
        order = np.argsort(-near, axis=1)[:, :COUNT]
        self.cosine, self.number = (np.take_along_axis(values, order, 1) for values in (near, which))


def write_run(folder: Path, vectors: int, made: MadeVectors, truth: Truth) -> RunStore:
    """A run of slides of 20,480 objects over 12 wells, vectors as a run has them; crops are mere names."""
    store = RunStore.open(str(folder))
    embedder: dict[str, str | int | list[float]] = {"name": "made", "dimension": DIMENSION}
    config = RunConfig(crops=CropsConfig())
    store.create_or_check(describe_run(config, {"embedder/made": "00" * 32}, embedder=embedder))
    rng, rows = np.random.default_rng(1), []
    for number in range(-(-vectors // SLIDE_OBJECTS)):
        block = made.block(number, min(SLIDE_OBJECTS, vectors - number * SLIDE_OBJECTS))
        truth.see(block, number * SLIDE_OBJECTS)
        slide_id, attempt = f"slide-{number:06d}", f"{number:016x}"
        arrays = _write_vectors(folder, arrays_path(slide_id, attempt), block)
        summary = summarise(slide_id, attempt, well=f"6407/{number % 12}-1", objects=len(block))
        table = some_objects(slide_id, arrays.path, len(block), rng)
        assert store.commit_slide(table, summary, arrays)
        rows.append(summary)
    store.append_summaries(rows)
    return store


def _write_vectors(folder: Path, path: str, block: NDArray[np.float16]) -> ArrayFiles:
    size: dict[str, int] = {}
    digest: dict[str, str] = {}
    for first in range(0, len(block), SHARD_ROWS):
        content = encode_embeddings(block[first : first + SHARD_ROWS])
        name = f"embeddings/c/{first // SHARD_ROWS}/0"
        target = folder / path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        size[name], digest[name] = len(content), hashlib.sha256(content).hexdigest()
    return ArrayFiles(path, size, digest)


@dataclass(frozen=True)
class Built:
    """What an index took."""

    train_s: float
    code_s: float
    cpu_s: float


def build(store: RunStore, path: Path, shard_objects: int) -> Built:
    """What `fossilray index build` does, in this process."""
    settings, access = IndexSettings(shard_objects=shard_objects), StoreConfig()
    sources = open_sources([store.url], None, access)
    began, cpu = time.perf_counter(), time.process_time()
    index = open_index(sources, str(path), access, settings)
    trained = time.perf_counter()
    keys = plan_shards(index, sources, max_objects=shard_objects)
    worker = IndexWorker(index.url, RunConfig())
    worker.prepare()
    for key in keys:
        assert worker.process(WorkItem(key)).failure is None
    return Built(trained - began, time.perf_counter() - trained, time.process_time() - cpu)


def look_at_all(store: RunStore, queries: NDArray[np.float32]) -> float:
    """Seconds of one question without an index: every vector read and compared."""
    (query,), best = queries[:1], np.empty(0, np.float32)
    began = time.perf_counter()
    (source,) = open_sources([store.url], None, StoreConfig()).values()
    for slide in source.slides():
        for block in source.blocks(slide):
            cosine = block.vectors.astype(np.float32) @ query
            best = np.sort(np.concatenate([best, cosine]))[-COUNT:]
    return time.perf_counter() - began


def report(path: Path, queries: NDArray[np.float32], truth: Truth) -> None:
    """Recall and time of one query after the other, by lists looked into and candidates compared."""
    print(
        f"{'lists':>6} {'exact':>6} {'recall@10':>10} {'codes ms':>9} {'all ms':>8} {'warm ms':>8} "
        f"{'p95':>8} {'cpu ms':>8}"
    )
    for probes, candidates in ((32, 100), (32, 200), (64, 100), (64, 200), (64, 300), (128, 300)):
        opened = SearchIndex.open(str(path))
        number = {slide.slide_id: int(slide.slide_id.rpartition("-")[2]) for slide in opened.slides}
        hits, codes, whole, cpu = [], [], [], []
        for query in queries:
            began = time.perf_counter()
            ids = opened._candidates(query[None], candidates, probes, None)
            codes.append(time.perf_counter() - began)
            busy = time.process_time()
            (ranked,) = opened.rank(query[None], ids, COUNT)
            whole.append(time.perf_counter() - began)
            cpu.append(time.process_time() - busy)
            hits.append({number[hit.slide.slide_id] * SLIDE_OBJECTS + hit.object_id for hit in ranked})
        warm = []
        for query in queries:
            began = time.perf_counter()
            opened.search(query[None], count=COUNT, probes=probes, candidates=candidates)
            warm.append(time.perf_counter() - began)
        recall = (
            np.mean(
                [
                    len(returned & set(best))
                    for returned, best in zip(hits, truth.number.tolist(), strict=True)
                ]
            )
            / COUNT
        )
        print(
            f"{probes:6} {candidates:6} {recall:10.3f} {1e3 * np.median(codes):9.1f} {1e3 * np.median(whole):8.1f} "
            f"{1e3 * np.median(warm):8.1f} {1e3 * np.quantile(whole, 0.95):8.1f} {1e3 * np.mean(cpu):8.1f}",
            flush=True,
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--shard-objects", type=int, default=4_000_000)
    parser.add_argument("--folder", type=Path, help="for run and index, kept; default: a temporary one")
    options = parser.parse_args()
    print(
        f"{options.vectors:,} vectors of {DIMENSION} numbers, {KINDS} kinds; "
        f"load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores"
    )
    with tempfile.TemporaryDirectory(prefix="fossilray-similar-") as scratch:
        folder = options.folder or Path(scratch)
        made = MadeVectors()
        queries = unit_vectors(made.block(0, options.queries, seed=2).astype(np.float32))
        truth, began = Truth(queries), time.perf_counter()
        store = write_run(folder / "run", options.vectors, made, truth)
        near = np.quantile(truth.cosine, (0.05, 0.5, 0.95), axis=0)
        print(
            f"made and compared with every query in {time.perf_counter() - began:.0f} s; cosine of the nearest "
            f"{near[1, 0]:.3f} ({near[0, 0]:.3f} to {near[2, 0]:.3f}), of the tenth {near[1, -1]:.3f}",
            flush=True,
        )
        built = build(store, folder / "index", options.shard_objects)
        index = SearchIndex.open(str(folder / "index"))
        entries, size = sum(s.entries for s in index.shards), sum(s.size_bytes for s in index.shards)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(
            f"{index.record.coder} of {[(t.coder, t.bytes, round(t.recall, 3)) for t in index.record.trials]}, "
            f"{index.quantizer.lists} lists\n{entries:,} vectors in {len(index.shards)} shards, {size / entries:.1f} "
            f"bytes a vector; trained in {built.train_s / 60:.1f} min, coded in {built.code_s / 60:.1f} min, "
            f"{built.cpu_s / 60:.1f} CPU minutes together; peak memory {peak:.1f} GB",
            flush=True,
        )
        print(
            f"one question without an index: {look_at_all(store, queries):.1f} s",
            flush=True,
        )
        report(folder / "index", queries, truth)


if __name__ == "__main__":
    main()
