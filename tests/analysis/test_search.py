"""Similarity search against exhaustive search, and the index behind it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.indexed_runs import (
    DIMENSION,
    PLAIN,
    SMALL,
    a_vector_run,
    commit_vectors,
    directions,
    index_runs,
    kinds_of_vectors,
)
from support.s3_bucket import s3_endpoint, s3_run  # noqa: F401

from fossilray.analysis.search.duplicates import find_duplicates, pairs_table
from fossilray.analysis.search.filters import describe_hits, filter_where
from fossilray.analysis.search.index_store import IndexStore
from fossilray.analysis.search.plan import IndexSettings, group_slides
from fossilray.analysis.search.quantizer import (
    QUANTIZERS,
    InvertedLists,
    VectorQuantizer,
    compare_quantizers,
    lists_for,
)
from fossilray.analysis.search.sample import sample_vectors
from fossilray.analysis.search.search import Hit, SearchIndex
from fossilray.analysis.search.shard_file import ShardReader
from fossilray.analysis.search.vectors_of_runs import RunVectorSource, open_sources
from fossilray.core.config import StoreConfig
from fossilray.core.errors import QueryError, RunNotFound, StoreError, UsageError
from fossilray.store import RunStore

SIZES = {"a": 400, "b": 350, "c": 5, "d": 600}
WELLS = {"a": "W-1", "b": "W-1", "c": "W-2", "d": "6407/6-5"}
ALL = {"probes": 1000}


def vectors_of(sizes: dict[str, int] = SIZES) -> dict[str, NDArray[np.float16]]:
    return {name: kinds_of_vectors(size, seed=ord(name)) for name, size in sizes.items()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return a_vector_run(tmp_path_factory.mktemp("runs") / "run", vectors_of(), wells=WELLS)


@pytest.fixture(scope="module")
def index(run: RunStore, tmp_path_factory: pytest.TempPathFactory) -> SearchIndex:
    return SearchIndex.open(index_runs([run.url], tmp_path_factory.mktemp("index") / "index").url)


def exact(
    slides: dict[str, NDArray[np.float16]], query: NDArray[np.float32], count: int
) -> list[tuple[str, int]]:
    """Return the nearest objects by exhaustive search, without the last of each slide, which has no pixels."""
    scored = [
        (-float(direction @ query), name, number)
        for name, vectors in slides.items()
        for number, direction in enumerate(directions(vectors)[:-1])
    ]
    return [(name, number) for _, name, number in sorted(scored)[:count]]


def named(hits: list[Hit]) -> list[tuple[str, int]]:
    return [(hit.slide.slide_id, hit.object_id) for hit in hits]


def some_queries(count: int = 20) -> NDArray[np.float32]:
    return directions(kinds_of_vectors(count, seed=999))


def test_a_search_of_all_lists_equals_exhaustive_search(index: SearchIndex) -> None:
    queries = some_queries()
    found = index.search(queries, count=10, candidates=60, **ALL)
    for query, hits in zip(queries, found, strict=True):
        assert named(hits) == exact(vectors_of(), query, 10)
        similarity = [hit.similarity for hit in hits]
        assert similarity == sorted(similarity, reverse=True)
        assert similarity[0] == pytest.approx(
            max(d @ query for v in vectors_of().values() for d in directions(v)[:-1])
        )


def test_a_search_of_few_lists_finds_most_neighbours(index: SearchIndex) -> None:
    queries = some_queries(50)
    few = index.search(queries, count=10, probes=3)
    hits = [set(named(hits)) & set(exact(vectors_of(), q, 10)) for hits, q in zip(few, queries, strict=True)]
    assert np.mean([len(common) for common in hits]) > 8


def test_shards_hold_whole_slides_and_wells_stay_together(index: SearchIndex) -> None:
    assert len(index.shards) == 3
    held = [slide.slide_id for shard in index.shards for slide in shard.slides]
    assert sorted(held) == sorted(SIZES)
    assert all(shard.objects <= SMALL.shard_objects for shard in index.shards)
    slides = [slide for shard in index.shards for slide in shard.slides]
    groups = group_slides(slides, max_objects=10_000)
    assert [slide.well for slide in groups[0]] == ["6407/6-5", "W-1", "W-1", "W-2"]


def test_objects_without_pixels_are_never_found(index: SearchIndex) -> None:
    assert sum(shard.entries for shard in index.shards) == sum(SIZES.values()) - len(SIZES)
    last = directions(vectors_of()["a"])[-1:]
    assert ("a", SIZES["a"] - 1) not in named(index.search(last, count=5, **ALL)[0])


@pytest.mark.parametrize("condition", ["well = 'W-1' AND x_min < 60", "slide_id = 'c'", "opacity > 0.3"])
def test_a_condition_restricts_the_search_to_objects_that_meet_it(index: SearchIndex, condition: str) -> None:
    def meets(name: str, number: int) -> bool:
        opacity = np.float32(np.linspace(0.1, 1, SIZES[name])[number])
        return {
            "well = 'W-1' AND x_min < 60": WELLS[name] == "W-1" and number % 200 < 60,
            "slide_id = 'c'": name == "c",
            "opacity > 0.3": bool(opacity > 0.3),
        }[condition]

    allowed = filter_where(index, condition)
    for query in some_queries(8):
        everything = exact(vectors_of(), query, sum(SIZES.values()))
        expected = [name for name in everything if meets(*name)][:7]
        (hits,) = index.search(query[None], count=7, candidates=60, probes=1000, search_filter=allowed)
        assert named(hits) == expected


def test_a_large_filter_is_searched_by_code_and_more_lists_are_searched_if_needed(
    index: SearchIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fossilray.analysis.search.search.EXACT_BELOW", 0)
    allowed = filter_where(index, "x_min = 3")  # one object in two hundred
    assert allowed is not None
    for query in some_queries(5):
        everything = exact(vectors_of(), query, sum(SIZES.values()))
        expected = [name for name in everything if name[1] % 200 == 3]
        (hits,) = index.search(query[None], count=len(expected), probes=1, search_filter=allowed)
        assert named(hits) == expected


def test_a_condition_on_a_well_reads_the_shards_of_that_well_alone(
    index: SearchIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fossilray.analysis.search.search.EXACT_BELOW", 0)
    fresh = SearchIndex.open(index.index.url)
    read: set[str] = set()
    lists = ShardReader.read

    def recorded(
        reader: ShardReader, numbers: Sequence[int]
    ) -> Iterator[tuple[int, NDArray[np.uint32], NDArray[np.uint8]]]:
        read.add(reader.key)
        return lists(reader, numbers)

    monkeypatch.setattr(ShardReader, "read", recorded)
    (query,) = some_queries(1)
    (hits,) = fresh.search(
        query[None], count=5, search_filter=filter_where(fresh, "well = '6407/6-5'"), **ALL
    )
    held = {shard.key for shard in fresh.shards if any(slide.well == "6407/6-5" for slide in shard.slides)}
    assert read == held != {shard.key for shard in fresh.shards}
    assert {hit.slide.slide_id for hit in hits} == {"d"}
    (hits,) = fresh.search(query[None], count=5, candidates=60, **ALL)
    assert named(hits) == exact(vectors_of(), query, 5)


def test_conditions_that_no_object_meets_or_sql_refuses_fail(index: SearchIndex) -> None:
    with pytest.raises(UsageError, match="no object of the index meets"):
        filter_where(index, "width_um > 1e9")
    with pytest.raises(QueryError, match="breadth"):
        filter_where(index, "breadth > 1")


def test_the_table_of_hits_has_the_position_of_each(index: SearchIndex) -> None:
    queries = some_queries(2)
    hits = index.search(queries, count=4)
    table = describe_hits(index, hits, ["one", "two"])
    assert table["query"].to_pylist() == ["one"] * 4 + ["two"] * 4
    assert table["rank"].to_pylist() == [1, 2, 3, 4] * 2
    rows = table.to_pylist()
    assert [(row["slide_id"], row["object_id"]) for row in rows] == [
        name for of_query in hits for name in named(of_query)
    ]
    assert all(row["well"] == WELLS[row["slide_id"]] for row in rows)
    assert all(row["x_min"] == row["object_id"] % 200 for row in rows)
    assert {row["genus"] for row in rows} == {None}


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
        index_runs([store.url], tmp_path / "index", IndexSettings(coder="pq"))
    with pytest.raises(UsageError, match="named twice"):
        index_runs([store.url, store.url], tmp_path / "index")
    assert not (tmp_path / "index" / "index.json").exists()


def test_an_index_in_an_object_store_finds_the_same(
    run: RunStore,
    index: SearchIndex,
    tmp_path: Path,
    s3_run: tuple[str, StoreConfig],  # noqa: F811
) -> None:
    address, access = s3_run
    remote = a_vector_run(address, vectors_of(), wells=WELLS, config=access)
    url = index_runs([remote.url], f"{address}-index", access=access).url
    found = SearchIndex.open(url, access)
    queries = some_queries(3)
    pairs = zip(found.search(queries, count=8), index.search(queries, count=8), strict=True)
    assert all(named(remote_hits) == named(local_hits) for remote_hits, local_hits in pairs)


def test_the_sample_is_stratified_by_well(tmp_path: Path) -> None:
    slides = {"a": 900, "b": 300, "c": 40}
    wells = {"a": "rich", "b": "fair", "c": "poor"}
    made = {name: np.eye(3)[[axis]].repeat(count, 0) for axis, (name, count) in enumerate(slides.items())}
    store = a_vector_run(tmp_path / "run", made, wells=wells)
    sources = open_sources([store.url], None, PLAIN)
    listed = sources[store.url].slides()
    vectors = sample_vectors(sources, listed, count=340, dimension=3, seed=0)
    assert np.abs(vectors.sum(axis=0) - [150, 150, 40]).max() <= 1  # the last of each slide has no pixels


@pytest.mark.parametrize("name", QUANTIZERS)
def test_codes_preserve_the_neighbours_of_vectors(name: str) -> None:
    rng = np.random.default_rng(3)
    vectors = directions(rng.normal(size=(3000, 160)) * np.arange(1, 161) ** -0.7)
    coder = VectorQuantizer.train(vectors, name=name, lists=16, seed=0)
    again = VectorQuantizer.from_bytes(
        coder.to_bytes(), name=name, dimension=coder.dimension, lists=coder.lists, path="here"
    )
    lists, codes = again.encode(vectors)
    assert codes.shape == (3000, coder.code_bytes)
    assert 60 <= coder.code_bytes <= 100
    kept = InvertedLists(again)
    for number in range(16):
        rows = np.flatnonzero(lists == number)
        kept.add(number, rows, codes[rows])
    queries = vectors[:100]
    found = kept.search(again.nearest_lists(queries, 16), 30, None)
    best = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    assert np.mean([len(np.intersect1d(f, b)) for f, b in zip(found, best, strict=True)]) > 9.5
    few = np.packbits(np.arange(3000) % 7 == 0, bitorder="little")
    assert (kept.search(again.nearest_lists(queries, 16), 30, few) % 7 == 0).all()


def test_the_quantizer_is_chosen_by_its_recall() -> None:
    rng = np.random.default_rng(3)
    flat = directions(rng.normal(size=(4000, 160)))
    trials = compare_quantizers(flat, seed=0)
    assert {trial.coder for trial in trials} == set(QUANTIZERS)
    assert trials[0].coder != "pca64-8bit"  # 64 axes are too few for 160 equal ones
    assert trials[0].recall == max(trial.recall for trial in trials)
    with pytest.raises(UsageError, match="too few"):
        compare_quantizers(flat[:50], seed=0)


def test_lists_grow_with_the_square_root() -> None:
    assert [lists_for(n) for n in (1, 10_000, 10**6, 10**7, 3 * 10**9)] == [4, 128, 1024, 4096, 65536]


def test_a_fossil_on_two_slides_is_listed_once_with_both_positions(tmp_path: Path) -> None:
    slides = vectors_of()
    slides["b"][10] = slides["a"][3] * 2  # the same direction
    slides["d"][20] = slides["a"][7]
    slides["a"][50] = slides["a"][51]
    store = a_vector_run(tmp_path / "run", slides, wells=WELLS)
    found = SearchIndex.open(index_runs([store.url], tmp_path / "index").url)
    pairs = find_duplicates(found, threshold=0.9999)
    assert {(named([p.first])[0], named([p.second])[0]) for p in pairs} == {
        (("a", 3), ("b", 10)),
        (("a", 7), ("d", 20)),
    }
    rows = pairs_table(found, pairs).to_pylist()
    assert {(row["slide_id"], row["slide_id_2"]) for row in rows} == {("a", "b"), ("a", "d")}
    assert rows[0]["similarity"] == pytest.approx(1, abs=1e-3)
    within = find_duplicates(found, threshold=0.9999, same_slide=True)
    assert (("a", 50), ("a", 51)) in {(named([p.first])[0], named([p.second])[0]) for p in within}
    with pytest.raises(UsageError, match="is not a cosine"):
        find_duplicates(found, threshold=2)


def test_pairs_are_mutual_nearest_neighbours(index: SearchIndex) -> None:
    slides = {name: directions(vectors)[:-1] for name, vectors in vectors_of().items()}
    nearest = {}
    for name, vectors in slides.items():
        for number, vector in enumerate(vectors):
            others = [
                (float(v @ vector), other, n)
                for other, vs in slides.items()
                if other != name
                for n, v in enumerate(vs)
            ]
            similarity, other, n = max(others)
            nearest[name, number] = (similarity, (other, n))
    expected = {
        tuple(sorted((name, other)))
        for name, (similarity, other) in nearest.items()
        if similarity >= 0.93 and nearest[other][1] == name
    }
    pairs = find_duplicates(index, threshold=0.93, probes=8)
    assert {tuple(sorted((*named([p.first]), *named([p.second])))) for p in pairs} == expected
    assert len(expected) > 5


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
