"""Similarity search against exhaustive search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.indexed_runs import (
    SMALL,
    a_vector_run,
    directions,
    index_runs,
)
from support.searched_run import ALL, SIZES, WELLS, exact, index, named, run, some_queries, vectors_of

from fossilray.analysis.search.duplicates import find_duplicates, pairs_table
from fossilray.analysis.search.filters import describe_hits, filter_where
from fossilray.analysis.search.plan import group_slides
from fossilray.analysis.search.search import SearchIndex
from fossilray.analysis.search.shard_file import ShardReader
from fossilray.core.errors import QueryError, UsageError

__all__ = ["index", "run"]


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
