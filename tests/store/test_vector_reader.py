"""Embeddings of a run, its own and named ones, through one reader."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.classified_run import embed
from support.indexed_runs import a_vector_run, commit_vectors

from fossilray.core.errors import QueryError, RunNotFound, StoreError, UsageError
from fossilray.store import RunStore
from fossilray.store.files.local import LocalFiles
from fossilray.store.query.connection import run_query
from fossilray.store.query.stored_slide import StoredSlide, read_slide
from fossilray.store.query.vectors import CACHE_BYTES, VectorBackbone, VectorReader
from fossilray.store.run.layout import objects_path

COUNT = 2500
"""More than one shard of the run's own vectors, and ten row groups of named ones."""
DIMENSION = 4


def vectors_of(seed: int, count: int = COUNT) -> NDArray[np.float16]:
    return np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float16)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    slides = {"a": vectors_of(1), "b": vectors_of(2, 40)}
    store = a_vector_run(tmp_path_factory.mktemp("vectors") / "run", slides)
    embed(store, "net", dimension=DIMENSION)
    return store


def stored(store: RunStore, slide_id: str) -> StoredSlide:
    return read_slide(store, slide_id, objects_path(slide_id, "W-1"))


def counted(slide_id: str, count: int) -> NDArray[np.float16]:
    """The named vectors of a slide: each is filled with the number of its object."""
    assert slide_id
    return np.repeat(np.arange(count), DIMENSION).astype(np.float16).reshape(-1, DIMENSION)


def test_the_vectors_of_a_slide_come_whole_and_in_order(run: RunStore) -> None:
    assert np.array_equal(VectorReader(run).slide(stored(run, "a")), vectors_of(1))
    assert np.array_equal(VectorReader(run, "net").slide(stored(run, "a")), counted("a", COUNT))


@pytest.mark.parametrize("name", [None, "net"])
def test_blocks_leave_out_objects_without_pixels(run: RunStore, name: str | None) -> None:
    blocks = list(VectorReader(run, name).blocks(stored(run, "a")))
    assert len(blocks) == (2 if name is None else 1)
    assert np.concatenate([block.object_id for block in blocks]).tolist() == list(range(COUNT - 1))
    expected = vectors_of(1) if name is None else counted("a", COUNT)
    assert np.array_equal(np.concatenate([block.vectors for block in blocks]), expected[:-1])


@pytest.mark.parametrize("name", [None, "net"])
def test_rows_of_a_query_find_their_vectors_in_any_order(run: RunStore, name: str | None) -> None:
    table = run_query(
        run, "SELECT arrays, object_id FROM objects WHERE object_id % 7 = 3 ORDER BY object_id DESC, slide_id"
    )
    expected = [
        (vectors_of(1) if path.startswith("arrays/a/") else vectors_of(2, 40))[row] if name is None else row
        for path, row in zip(table["arrays"].to_pylist(), table["object_id"].to_pylist(), strict=True)
    ]
    rows = VectorReader(run, name).rows(table)
    assert np.array_equal(
        rows, np.array(expected, np.float16).reshape(len(table), -1) * np.ones((1, DIMENSION))
    )
    assert VectorReader(run, name).rows(table.slice(0, 0)).shape[0] == 0


@pytest.mark.parametrize("name", [None, "net"])
def test_a_few_objects_are_read_and_repeated_as_asked(run: RunStore, name: str | None) -> None:
    wanted = [COUNT - 1, 0, 255, 256, 0]
    vectors = VectorReader(run, name).read("a", stored(run, "a").footer.attempt, wanted)
    assert np.array_equal(vectors, (vectors_of(1) if name is None else counted("a", COUNT))[wanted])


def test_cached_chunks_are_not_read_again(run: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = VectorReader(run, cache_bytes=CACHE_BYTES)
    attempt = stored(run, "a").footer.attempt
    first = reader.read("a", attempt, [5, 700])
    requests: list[str] = []
    plain = LocalFiles.read_ranges

    def counting(self: LocalFiles, path: str, ranges: list[tuple[int, int]]) -> list[bytes]:
        requests.append(path)
        return plain(self, path, ranges)

    monkeypatch.setattr(LocalFiles, "read_ranges", counting)
    assert np.array_equal(reader.read("a", attempt, [700, 5]), first[::-1])
    assert not requests
    VectorReader(run).read("a", attempt, [5])
    assert requests


def test_a_full_cache_forgets_what_was_read_first(run: RunStore) -> None:
    reader = VectorReader(run, cache_bytes=16 * DIMENSION * 2)
    attempt = stored(run, "a").footer.attempt
    for first in range(0, COUNT, 16):
        assert np.array_equal(reader.read("a", attempt, [first]), vectors_of(1)[[first]])


def test_a_reader_is_shared_between_threads(run: RunStore) -> None:
    reader = VectorReader(run, cache_bytes=40 * 16 * DIMENSION * 2)
    attempt, order = stored(run, "a").footer.attempt, np.random.default_rng(0).permutation(COUNT)[:400]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda row: reader.read("a", attempt, [row])[0], order.tolist()))
    assert np.array_equal(np.stack(found), vectors_of(1)[order])


def test_the_backbone_is_that_of_the_vectors(run: RunStore) -> None:
    assert VectorReader(run).backbone == VectorBackbone("net", "cd" * 32, DIMENSION)
    named = VectorReader(run, "net").backbone
    assert named.dimension == DIMENSION
    assert str(named) == f"{named.name} ({named.sha256[:12]})"


def test_a_run_that_declares_no_dimension_takes_it_from_its_arrays(tmp_path: Path) -> None:
    store = a_vector_run(tmp_path / "run", {"a": vectors_of(3, 20)})
    record = store.read_run()
    (tmp_path / "run" / "run.json").write_bytes(replace(record, embedder={"name": "net"}).to_json())
    reader = VectorReader(RunStore.open(str(tmp_path / "run")))
    assert reader.backbone.dimension == DIMENSION
    slide = replace(stored(store, "a"))
    assert np.array_equal(reader.slide(slide), vectors_of(3, 20))


def test_named_embeddings_of_an_earlier_attempt_are_refused(tmp_path: Path) -> None:
    store = a_vector_run(tmp_path / "run", {"a": vectors_of(3, 20)})
    embed(store, "net", dimension=DIMENSION)
    (tmp_path / "run" / objects_path("a", "W-1")).unlink()
    commit_vectors(store, "a", vectors_of(4, 20))
    table = run_query(store, "SELECT arrays, object_id FROM objects")
    for read in (lambda reader: reader.rows(table), lambda reader: reader.slide(stored(store, "a"))):
        with pytest.raises(StoreError, match="processed again since"):
            read(VectorReader(store, "net"))


def test_what_cannot_be_read_is_named(run: RunStore, tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match="no embeddings named other; it has: net"):
        VectorReader(run, "other")
    with pytest.raises(QueryError, match="no column arrays"):
        VectorReader(run).rows(run_query(run, "SELECT object_id FROM objects"))
    attempt = stored(run, "b").footer.attempt
    for name in (None, "net"):
        with pytest.raises(StoreError):
            VectorReader(run, name).read("b", attempt, [40 if name else 48])
    late = a_vector_run(tmp_path / "run", {"a": vectors_of(3, 20)})
    embed(late, "net", dimension=DIMENSION)
    commit_vectors(late, "new", vectors_of(4, 20))
    with pytest.raises(StoreError, match=r"no embeddings of slide new yet; start `fossilray embed` again"):
        VectorReader(late, "net").rows(run_query(late, "SELECT arrays, object_id FROM objects"))


def test_a_run_without_a_backbone_has_no_vectors(tmp_path: Path) -> None:
    from support.small_run import write_small_run

    store = write_small_run(tmp_path / "run")
    record = store.read_run()
    config = {**record.config, "embedder": {**record.config["embedder"], "weights": "none"}}
    (tmp_path / "run" / "run.json").write_bytes(replace(record, config=config).to_json())
    with pytest.raises(UsageError, match=r"holds no embeddings.*embedder\.weights none"):
        _ = VectorReader(RunStore.open(str(tmp_path / "run"))).backbone
