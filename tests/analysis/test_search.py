"""An index over runs: what it finds is what looking at every vector would find."""

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
    Lists,
    VectorQuantizer,
    compare_quantizers,
    lists_for,
)
from fossilray.analysis.search.sample import draw_sample
from fossilray.analysis.search.search import Hit, SearchIndex
from fossilray.analysis.search.shard_file import ShardReader
from fossilray.analysis.search.vectors_of_runs import RunVectorSource, open_sources
from fossilray.core.config import StoreConfig
from fossilray.core.errors import QueryError, RunMismatch, RunNotFound, StoreError, UsageError
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
    """By looking at every vector but the last of each slide, whose pixels are not known."""
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


def test_what_is_found_is_what_looking_at_every_vector_finds(index: SearchIndex) -> None:
    queries = some_queries()
    found = index.search(queries, count=10, candidates=60, **ALL)
    for query, hits in zip(queries, found, strict=True):
        assert named(hits) == exact(vectors_of(), query, 10)
        similarity = [hit.similarity for hit in hits]
        assert similarity == sorted(similarity, reverse=True)
        assert similarity[0] == pytest.approx(
            max(d @ query for v in vectors_of().values() for d in directions(v)[:-1])
        )


def test_a_few_lists_find_nearly_as_much_as_all(index: SearchIndex) -> None:
    queries = some_queries(50)
    few = index.search(queries, count=10, probes=3)
    hits = [set(named(hits)) & set(exact(vectors_of(), q, 10)) for hits, q in zip(few, queries, strict=True)]
    assert np.mean([len(one) for one in hits]) > 8


def test_shards_hold_whole_slides_and_wells_stay_together(index: SearchIndex) -> None:
    assert len(index.shards) == 3
    held = [slide.slide_id for shard in index.shards for slide in shard.slides]
    assert sorted(held) == sorted(SIZES)
    assert all(shard.objects <= SMALL.shard_objects for shard in index.shards)
    slides = [slide for shard in index.shards for slide in shard.slides]
    groups = group_slides(slides, most_objects=10_000)
    assert [slide.well for slide in groups[0]] == ["6407/6-5", "W-1", "W-1", "W-2"]


def test_objects_without_pixels_are_never_found(index: SearchIndex) -> None:
    assert sum(shard.entries for shard in index.shards) == sum(SIZES.values()) - len(SIZES)
    last = directions(vectors_of()["a"])[-1:]
    assert ("a", SIZES["a"] - 1) not in named(index.search(last, count=5, **ALL)[0])


@pytest.mark.parametrize("condition", ["well = 'W-1' AND x_min < 60", "slide_id = 'c'", "opacity > 0.3"])
def test_a_condition_leaves_the_nearest_of_those_that_meet_it(index: SearchIndex, condition: str) -> None:
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
        expected = [one for one in everything if meets(*one)][:7]
        (hits,) = index.search(query[None], count=7, candidates=60, probes=1000, allowed=allowed)
        assert named(hits) == expected


def test_many_allowed_objects_are_sought_by_code_and_few_lists_are_widened(
    index: SearchIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fossilray.analysis.search.search.EXACT_BELOW", 0)
    allowed = filter_where(index, "x_min = 3")  # one object in two hundred
    assert allowed is not None
    for query in some_queries(5):
        everything = exact(vectors_of(), query, sum(SIZES.values()))
        expected = [one for one in everything if one[1] % 200 == 3]
        (hits,) = index.search(query[None], count=len(expected), probes=1, allowed=allowed)
        assert named(hits) == expected


def test_a_condition_on_a_well_reads_the_shards_of_that_well_alone(
    index: SearchIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fossilray.analysis.search.search.EXACT_BELOW", 0)
    fresh = SearchIndex.open(index.index.url)
    read: set[str] = set()
    lists = ShardReader.read

    def noted(
        reader: ShardReader, numbers: Sequence[int]
    ) -> Iterator[tuple[int, NDArray[np.uint32], NDArray[np.uint8]]]:
        read.add(reader.key)
        return lists(reader, numbers)

    monkeypatch.setattr(ShardReader, "read", noted)
    (query,) = some_queries(1)
    (hits,) = fresh.search(query[None], count=5, allowed=filter_where(fresh, "well = '6407/6-5'"), **ALL)
    held = {shard.key for shard in fresh.shards if any(slide.well == "6407/6-5" for slide in shard.slides)}
    assert read == held != {shard.key for shard in fresh.shards}
    assert {hit.slide.slide_id for hit in hits} == {"d"}
    (hits,) = fresh.search(query[None], count=5, candidates=60, **ALL)
    assert named(hits) == exact(vectors_of(), query, 5)


def test_conditions_that_nothing_meets_or_sql_refuses_are_told(index: SearchIndex) -> None:
    with pytest.raises(UsageError, match="no object of the index meets"):
        filter_where(index, "width_um > 1e9")
    with pytest.raises(QueryError, match="breadth"):
        filter_where(index, "breadth > 1")


def test_the_table_says_where_each_hit_is(index: SearchIndex) -> None:
    queries = some_queries(2)
    hits = index.search(queries, count=4)
    table = describe_hits(index, hits, ["one", "two"])
    assert table["query"].to_pylist() == ["one"] * 4 + ["two"] * 4
    assert table["rank"].to_pylist() == [1, 2, 3, 4] * 2
    rows = table.to_pylist()
    assert [(row["slide_id"], row["object_id"]) for row in rows] == [one for h in hits for one in named(h)]
    assert all(row["well"] == WELLS[row["slide_id"]] for row in rows)
    assert all(row["x_min"] == row["object_id"] % 200 for row in rows)
    assert {row["genus"] for row in rows} == {None}


def test_slides_that_came_later_are_told_and_then_added(tmp_path: Path) -> None:
    store = a_vector_run(tmp_path / "run", {"a": kinds_of_vectors(300, seed=1)})
    place = index_runs([store.url], tmp_path / "index").url
    before = {path: path.read_bytes() for path in (tmp_path / "index").rglob("*") if path.is_file()}
    late = kinds_of_vectors(80, seed=2)
    commit_vectors(store, "late", late)
    stale = SearchIndex.open(place)
    assert "1 slides with 80 objects are not in the index" in str(stale.freshness)
    assert "late" in str(stale.freshness)
    with pytest.raises(UsageError, match="came after the index was built"):
        stale.find_object("late", 3)
    index_runs([store.url], place)
    now = SearchIndex.open(place)
    assert not str(now.freshness)
    assert named(now.search(directions(late)[3:4], count=1)[0]) == [("late", 3)]
    kept = {path: content for path, content in before.items() if path.is_file()}
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert {path.parent.name for path in before.keys() - kept.keys()} <= {"plans"}


def test_slides_made_anew_are_left_out_and_then_taken_in_again(tmp_path: Path) -> None:
    slides = {"a": kinds_of_vectors(120, seed=1), "b": kinds_of_vectors(90, seed=2)}
    store = a_vector_run(tmp_path / "run", slides)
    place = index_runs([store.url], tmp_path / "index").url
    old = directions(slides["b"])[5:6]
    Path(store.url, store.committed_files()["b"]).unlink()
    anew = kinds_of_vectors(60, seed=3)
    commit_vectors(store, "b", anew)
    stale = SearchIndex.open(place)
    assert "1 slides with 60 objects were made anew since" in str(stale.freshness)
    assert {hit.slide.slide_id for hit in stale.search(old, count=20, **ALL)[0]} == {"a"}
    index_runs([store.url], place)
    now = SearchIndex.open(place)
    assert not str(now.freshness)
    (hits,) = now.search(directions(anew)[7:8], count=200, candidates=200, **ALL)
    assert named(hits)[0] == ("b", 7)
    assert sorted(named(hits)) == [("a", n) for n in range(119)] + [("b", n) for n in range(59)]


def test_slides_that_are_not_committed_any_more_are_left_out(tmp_path: Path) -> None:
    slides = {"a": kinds_of_vectors(120, seed=1), "b": kinds_of_vectors(90, seed=2)}
    store = a_vector_run(tmp_path / "run", slides)
    place = index_runs([store.url], tmp_path / "index").url
    Path(store.url, store.committed_files()["b"]).unlink()
    found = SearchIndex.open(place)
    assert "are not committed any more" in str(found.freshness)
    assert {hit.slide.slide_id for hit in found.search(directions(slides["b"])[:1], count=9)[0]} == {"a"}


def test_vectors_of_two_backbones_are_refused(run: RunStore, tmp_path: Path) -> None:
    other = a_vector_run(tmp_path / "other", {"z": kinds_of_vectors(100, seed=1)}, sha256="ef" * 32)
    with pytest.raises(UsageError, match="vectors of two backbones cannot be compared"):
        index_runs([run.url, other.url], tmp_path / "index")
    place = index_runs([run.url], tmp_path / "index").url
    with pytest.raises(RunMismatch, match="are of net \\(efefefefefef\\)"):
        index_runs([other.url], place)
    with pytest.raises(UsageError, match="the query is of 5 numbers and the index of 24"):
        SearchIndex.open(place).search(np.ones((1, 5), np.float32), count=3)


def test_several_runs_may_share_an_index_and_names_of_slides(tmp_path: Path) -> None:
    one = a_vector_run(tmp_path / "one", {"a": kinds_of_vectors(150, seed=1)})
    two = a_vector_run(tmp_path / "two", {"a": kinds_of_vectors(150, seed=2)})
    found = SearchIndex.open(index_runs([one.url, two.url], tmp_path / "index").url)
    for store, seed in ((one, 1), (two, 2)):
        query = directions(kinds_of_vectors(150, seed=seed))[4:5]
        (hits,) = found.search(query, count=1)
        assert (hits[0].slide.run, hits[0].object_id) == (store.url, 4)
    with pytest.raises(UsageError, match="say which with --run"):
        found.find_object("a", 0)
    assert found.find_object("a", 0, run=two.url).slide.run == two.url
    with pytest.raises(UsageError, match="objects 0 to 149, not 150"):
        found.find_object("a", 150, run=one.url)


def test_the_same_work_done_twice_is_committed_once(run: RunStore, tmp_path: Path) -> None:
    index = index_runs([run.url], tmp_path / "index")
    shards = index.shards()
    assert index.commit(shards[0])  # the very same record: a lost answer
    copy = replace(shards[0], data=index.new_data())
    shutil.copytree(tmp_path / "index" / shards[0].data, tmp_path / "index" / copy.data, dirs_exist_ok=True)
    assert not index.commit(copy)
    assert not (tmp_path / "index" / copy.data).exists()
    assert IndexStore.open(index.url).shards() == shards


def test_half_a_shard_goes_once_its_maker_is_dead(run: RunStore, tmp_path: Path) -> None:
    index = index_runs([run.url], tmp_path / "index")
    of_the_living, of_the_dead = index.new_data(), index.new_data()
    note = json.loads(index.files.read(f"{of_the_dead}/maker.json"))
    if not note["machine"]:
        pytest.skip("this system does not tell which process ran when")
    ended = json.dumps({**note, "process": f"{2**22 + 1}@1"}).encode()
    index.files.write(f"{of_the_dead}/maker.json", ended)
    committed = index.shards()[0].data
    index.files.write(f"{committed}/maker.json", ended)  # killed right after its commit
    index.sweep()
    left = set(index.files.names("data"))
    assert left == {one.data.removeprefix("data/") for one in index.shards()} | {of_the_living[5:]}
    assert index.files.find(committed) == [
        f"{committed}/{name}" for name in ("codes", "offsets", "positions")
    ]


def test_damage_is_told_with_its_remedy(run: RunStore, tmp_path: Path) -> None:
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
    with pytest.raises(StoreError, match="is not what was written"):
        SearchIndex.open(index.url)
    stated = json.loads((tmp_path / "index" / "index.json").read_text())
    (tmp_path / "index" / "index.json").write_text(json.dumps({**stated, "schema_version": 99}))
    with pytest.raises(StoreError, match="version 99"):
        SearchIndex.open(index.url)


def test_a_run_without_vectors_is_refused(tmp_path: Path) -> None:
    store = a_vector_run(tmp_path / "run", {"a": np.zeros((3, 4), np.float16)})
    with pytest.raises(UsageError, match="nothing to index"):
        index_runs([store.url], tmp_path / "index")
    with pytest.raises(UsageError, match="is none of auto"):
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
    place = index_runs([remote.url], f"{address}-index", access=access).url
    found = SearchIndex.open(place, access)
    queries = some_queries(3)
    pairs = zip(found.search(queries, count=8), index.search(queries, count=8), strict=True)
    assert all(named(there) == named(here) for there, here in pairs)


def test_each_well_gives_as_much_to_the_sample_as_it_can(tmp_path: Path) -> None:
    slides = {"a": 900, "b": 300, "c": 40}
    wells = {"a": "rich", "b": "fair", "c": "poor"}
    made = {name: np.eye(3)[[place]].repeat(count, 0) for place, (name, count) in enumerate(slides.items())}
    store = a_vector_run(tmp_path / "run", made, wells=wells)
    sources = open_sources([store.url], None, PLAIN)
    listed = sources[store.url].slides()
    vectors = draw_sample(sources, listed, count=340, dimension=3, seed=0)
    assert np.abs(vectors.sum(axis=0) - [150, 150, 40]).max() <= 1  # the last of each slide has no pixels


@pytest.mark.parametrize("name", QUANTIZERS)
def test_codes_keep_the_neighbours_that_vectors_have(name: str) -> None:
    rng = np.random.default_rng(3)
    vectors = directions(rng.normal(size=(3000, 160)) * np.arange(1, 161) ** -0.7)
    coder = VectorQuantizer.train(vectors, name=name, lists=16, seed=0)
    again = VectorQuantizer.from_bytes(
        coder.to_bytes(), name=name, dimension=coder.dimension, lists=coder.lists, place="here"
    )
    lists, codes = again.encode(vectors)
    assert codes.shape == (3000, coder.code_bytes)
    assert 60 <= coder.code_bytes <= 100
    kept = Lists(again)
    for number in range(16):
        rows = np.flatnonzero(lists == number)
        kept.add(number, rows, codes[rows])
    asked = vectors[:100]
    found = kept.search(again.nearest_lists(asked, 16), 30, None)
    best = np.argsort(-(asked @ vectors.T), axis=1)[:, :10]
    assert np.mean([len(np.intersect1d(f, b)) for f, b in zip(found, best, strict=True)]) > 9.5
    few = np.packbits(np.arange(3000) % 7 == 0, bitorder="little")
    assert (kept.search(again.nearest_lists(asked, 16), 30, few) % 7 == 0).all()


def test_the_coder_is_chosen_by_what_it_finds() -> None:
    rng = np.random.default_rng(3)
    flat = directions(rng.normal(size=(4000, 160)))
    trials = compare_quantizers(flat, seed=0)
    assert {one.coder for one in trials} == set(QUANTIZERS)
    assert trials[0].coder != "pca64-8bit"  # of 160 directions that count alike, 64 are too few
    assert trials[0].recall == max(one.recall for one in trials)
    with pytest.raises(UsageError, match="too few"):
        compare_quantizers(flat[:50], seed=0)


def test_lists_grow_with_the_square_root() -> None:
    assert [lists_for(n) for n in (1, 10_000, 10**6, 10**7, 3 * 10**9)] == [4, 128, 1024, 4096, 65536]


def test_a_fossil_on_two_scans_is_listed_once_with_both_places(tmp_path: Path) -> None:
    slides = vectors_of()
    slides["b"][10] = slides["a"][3] * 2  # the same direction
    slides["d"][20] = slides["a"][7]
    slides["a"][50] = slides["a"][51]
    store = a_vector_run(tmp_path / "run", slides, wells=WELLS)
    found = SearchIndex.open(index_runs([store.url], tmp_path / "index").url)
    pairs = find_duplicates(found, threshold=0.9999)
    assert {(named([p.one])[0], named([p.other])[0]) for p in pairs} == {
        (("a", 3), ("b", 10)),
        (("a", 7), ("d", 20)),
    }
    rows = pairs_table(found, pairs).to_pylist()
    assert {(row["slide_id"], row["slide_id_2"]) for row in rows} == {("a", "b"), ("a", "d")}
    assert rows[0]["similarity"] == pytest.approx(1, abs=1e-3)
    within = find_duplicates(found, threshold=0.9999, same_slide=True)
    assert (("a", 50), ("a", 51)) in {(named([p.one])[0], named([p.other])[0]) for p in within}
    with pytest.raises(UsageError, match="is no cosine"):
        find_duplicates(found, threshold=2)


def test_pairs_are_mutual_nearest_neighbours(index: SearchIndex) -> None:
    slides = {name: directions(vectors)[:-1] for name, vectors in vectors_of().items()}
    nearest = {}
    for name, own in slides.items():
        for number, one in enumerate(own):
            others = [
                (float(v @ one), other, n)
                for other, vs in slides.items()
                if other != name
                for n, v in enumerate(vs)
            ]
            similarity, other, n = max(others)
            nearest[name, number] = (similarity, (other, n))
    expected = {
        tuple(sorted((one, other)))
        for one, (similarity, other) in nearest.items()
        if similarity >= 0.93 and nearest[other][1] == one
    }
    pairs = find_duplicates(index, threshold=0.93, probes=8)
    assert {tuple(sorted((*named([p.one]), *named([p.other])))) for p in pairs} == expected
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
    # All these vectors point one way, but for that of object 0, which has no direction.
    (hits,) = found.search(np.full((1, DIMENSION), DIMENSION**-0.5, np.float32), count=700, **ALL)
    assert sorted(hit.object_id for hit in hits) == list(range(1, 599))
    assert all(hit.similarity == pytest.approx(1, abs=1e-3) for hit in hits)
    with pytest.raises(RunNotFound, match="no embeddings named"):
        index_runs([store.url], tmp_path / "other", replace(SMALL, embeddings="none"))
