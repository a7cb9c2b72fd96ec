"""An index beside its runs: what it takes in, what is out of date, and what damages it."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from support.indexed_runs import (
    DIMENSION,
    SMALL,
    a_vector_run,
    commit_vectors,
    directions,
    index_runs,
    kinds_of_vectors,
)
from support.s3_bucket import s3_endpoint, s3_run
from support.searched_run import ALL, WELLS, index, named, run, some_queries, vectors_of

from fossilray.analysis.search.index_store import IndexStore
from fossilray.analysis.search.plan import IndexSettings
from fossilray.analysis.search.search import SearchIndex
from fossilray.analysis.search.vectors_of_runs import RunVectorSource
from fossilray.core.config import StoreConfig
from fossilray.core.errors import RunNotFound, StoreError, UsageError
from fossilray.store import RunStore

__all__ = ["index", "run", "s3_endpoint", "s3_run"]


def test_slides_committed_after_the_build_are_reported_and_then_added(tmp_path: Path) -> None:
    store = a_vector_run(tmp_path / "run", {"a": kinds_of_vectors(300, seed=1)})
    url = index_runs([store.url], tmp_path / "index").url
    before = {path: path.read_bytes() for path in (tmp_path / "index").rglob("*") if path.is_file()}
    late = kinds_of_vectors(80, seed=2)
    commit_vectors(store, "late", late)
    stale = SearchIndex.open(url)
    assert "not in the index: 1 slide with 80 objects" in str(stale.freshness)
    assert "late" in str(stale.freshness)
    with pytest.raises(UsageError, match="was committed after the build"):
        stale.find_object("late", 3)
    index_runs([store.url], url)
    now = SearchIndex.open(url)
    assert not str(now.freshness)
    assert named(now.search(directions(late)[3:4], count=1)[0]) == [("late", 3)]
    kept = {path: content for path, content in before.items() if path.is_file()}
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert {path.parent.name for path in before.keys() - kept.keys()} <= {"plans"}


def test_reprocessed_slides_are_left_out_and_then_added_again(tmp_path: Path) -> None:
    slides = {"a": kinds_of_vectors(120, seed=1), "b": kinds_of_vectors(90, seed=2)}
    store = a_vector_run(tmp_path / "run", slides)
    url = index_runs([store.url], tmp_path / "index").url
    old = directions(slides["b"])[5:6]
    Path(store.url, store.committed_files()["b"]).unlink()
    reprocessed = kinds_of_vectors(60, seed=3)
    commit_vectors(store, "b", reprocessed)
    stale = SearchIndex.open(url)
    assert "reprocessed since the build and left out: 1 slide with 60 objects" in str(stale.freshness)
    assert {hit.slide.slide_id for hit in stale.search(old, count=20, **ALL)[0]} == {"a"}
    index_runs([store.url], url)
    now = SearchIndex.open(url)
    assert not str(now.freshness)
    (hits,) = now.search(directions(reprocessed)[7:8], count=200, candidates=200, **ALL)
    assert named(hits)[0] == ("b", 7)
    assert sorted(named(hits)) == [("a", n) for n in range(119)] + [("b", n) for n in range(59)]


def test_slides_that_are_no_longer_committed_are_left_out(tmp_path: Path) -> None:
    slides = {"a": kinds_of_vectors(120, seed=1), "b": kinds_of_vectors(90, seed=2)}
    store = a_vector_run(tmp_path / "run", slides)
    url = index_runs([store.url], tmp_path / "index").url
    Path(store.url, store.committed_files()["b"]).unlink()
    found = SearchIndex.open(url)
    assert "no longer committed and left out" in str(found.freshness)
    assert {hit.slide.slide_id for hit in found.search(directions(slides["b"])[:1], count=9)[0]} == {"a"}


def test_vectors_of_two_backbones_are_refused(run: RunStore, tmp_path: Path) -> None:
    other = a_vector_run(tmp_path / "other", {"z": kinds_of_vectors(100, seed=1)}, sha256="ef" * 32)
    with pytest.raises(UsageError, match=r"are of another backbone, net .*; build an index for each"):
        index_runs([run.url, other.url], tmp_path / "index")
    url = index_runs([run.url], tmp_path / "index").url
    with pytest.raises(
        UsageError, match=r"are of another backbone, net \(efefefefefef\); build another index"
    ):
        index_runs([other.url], url)
    with pytest.raises(UsageError, match="the queries have 5 dimensions and the index 24"):
        SearchIndex.open(url).search(np.ones((1, 5), np.float32), count=3)


def test_several_runs_may_share_an_index_and_names_of_slides(tmp_path: Path) -> None:
    one = a_vector_run(tmp_path / "one", {"a": kinds_of_vectors(150, seed=1)})
    two = a_vector_run(tmp_path / "two", {"a": kinds_of_vectors(150, seed=2)})
    found = SearchIndex.open(index_runs([one.url, two.url], tmp_path / "index").url)
    for store, seed in ((one, 1), (two, 2)):
        query = directions(kinds_of_vectors(150, seed=seed))[4:5]
        (hits,) = found.search(query, count=1)
        assert (hits[0].slide.run, hits[0].object_id) == (store.url, 4)
    with pytest.raises(UsageError, match="give --run"):
        found.find_object("a", 0)
    assert found.find_object("a", 0, run=two.url).slide.run == two.url
    with pytest.raises(UsageError, match="objects 0 to 149, not 150"):
        found.find_object("a", 150, run=one.url)


def test_the_same_work_done_twice_is_committed_once(run: RunStore, tmp_path: Path) -> None:
    index = index_runs([run.url], tmp_path / "index")
    shards = index.shards()
    assert index.commit(shards[0])  # the same record: a lost response
    copy = replace(shards[0], data=index.create_data_folder())
    shutil.copytree(tmp_path / "index" / shards[0].data, tmp_path / "index" / copy.data, dirs_exist_ok=True)
    assert not index.commit(copy)
    assert not (tmp_path / "index" / copy.data).exists()
    assert IndexStore.open(index.url).shards() == shards


def test_an_unfinished_shard_is_deleted_after_its_process_ended(run: RunStore, tmp_path: Path) -> None:
    index = index_runs([run.url], tmp_path / "index")
    of_live_process, of_ended_process = index.create_data_folder(), index.create_data_folder()
    note = json.loads(index.files.read(f"{of_ended_process}/maker.json"))
    if not note["machine"]:
        pytest.skip("this system does not record when processes started")
    ended = json.dumps({**note, "process": f"{2**22 + 1}@1"}).encode()
    index.files.write(f"{of_ended_process}/maker.json", ended)
    committed = index.shards()[0].data
    index.files.write(f"{committed}/maker.json", ended)  # killed right after its commit
    index.collect_garbage()
    left = set(index.files.names("data"))
    assert left == {shard.data.removeprefix("data/") for shard in index.shards()} | {of_live_process[5:]}
    assert index.files.find(committed) == [
        f"{committed}/{name}" for name in ("codes", "offsets", "positions")
    ]


def test_damage_is_reported_with_a_remedy(run: RunStore, tmp_path: Path) -> None:
    index = index_runs([run.url], tmp_path / "index")
    with pytest.raises(RunNotFound, match="holds no index"):
        SearchIndex.open(str(tmp_path / "nothing"))
    shard = index.shards()[0]
    codes = tmp_path / "index" / shard.data / "codes"
    whole = codes.read_bytes()
    codes.write_bytes(whole[:-5])
    with pytest.raises(StoreError, match="start `fossilray index build` again"):
        SearchIndex.open(index.url)
    codes.write_bytes(whole)
    (coder,) = (tmp_path / "index").glob("coder-*")
    coder.write_bytes(coder.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match="differs from what was written"):
        SearchIndex.open(index.url)
    stated = json.loads((tmp_path / "index" / "index.json").read_text())
    (tmp_path / "index" / "index.json").write_text(json.dumps({**stated, "schema_version": 99}))
    with pytest.raises(StoreError, match="version 99"):
        SearchIndex.open(index.url)


def test_a_run_without_vectors_is_refused(tmp_path: Path) -> None:
    store = a_vector_run(tmp_path / "run", {"a": np.zeros((3, 4), np.float16)})
    with pytest.raises(UsageError, match="nothing to index"):
        index_runs([store.url], tmp_path / "index")
    with pytest.raises(UsageError, match="is not one of auto"):
        index_runs([store.url], tmp_path / "index", IndexSettings(quantizer="pq"))
    with pytest.raises(UsageError, match="named twice"):
        index_runs([store.url, store.url], tmp_path / "index")
    assert not (tmp_path / "index" / "index.json").exists()


def test_an_index_in_an_object_store_finds_the_same(
    run: RunStore,
    index: SearchIndex,
    tmp_path: Path,
    s3_run: tuple[str, StoreConfig],
) -> None:
    address, access = s3_run
    remote = a_vector_run(address, vectors_of(), wells=WELLS, config=access)
    url = index_runs([remote.url], f"{address}-index", access=access).url
    found = SearchIndex.open(url, access)
    queries = some_queries(3)
    pairs = zip(found.search(queries, count=8), index.search(queries, count=8), strict=True)
    assert all(named(remote_hits) == named(local_hits) for remote_hits, local_hits in pairs)


def test_named_embeddings_are_indexed_like_a_runs_own(tmp_path: Path) -> None:
    from support.classified_run import embed

    store = a_vector_run(tmp_path / "run", {"a": kinds_of_vectors(600, seed=1)})
    embed(store, "net", dimension=DIMENSION)
    settings = replace(SMALL, embeddings="net")
    index = index_runs([store.url], tmp_path / "index", settings)
    assert index.record.backbone["dimension"] == DIMENSION
    found = SearchIndex.open(index.url)
    assert asdict(RunVectorSource(store, "net").backbone) == index.record.backbone
    # All these vectors have one direction, except that of object 0, which is zero.
    (hits,) = found.search(np.full((1, DIMENSION), DIMENSION**-0.5, np.float32), count=700, **ALL)
    assert sorted(hit.object_id for hit in hits) == list(range(1, 599))
    assert all(hit.similarity == pytest.approx(1, abs=1e-3) for hit in hits)
    with pytest.raises(RunNotFound, match="no embeddings named"):
        index_runs([store.url], tmp_path / "other", replace(SMALL, embeddings="none"))
