"""Samples spread evenly over wells and slides."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fossilray.store.query.sampling import even_quotas, quotas_by_slide, sample_objects

COUNTS = st.lists(st.integers(0, 300), max_size=12)


def test_quotas_are_equal_and_small_groups_give_all_they_have() -> None:
    assert even_quotas(np.array([100, 3, 100]), 43).tolist() == [20, 3, 20]
    assert even_quotas(np.array([2, 2]), 9).tolist() == [2, 2]
    assert even_quotas(np.array([5, 5, 5]), 4).sum() == 4
    assert even_quotas([5, 5, 5], 4).tolist() == [2, 1, 1]
    assert even_quotas([], 4).tolist() == []


@given(COUNTS, st.integers(0, 2000))
def test_quotas_add_up_and_differ_by_at_most_one_among_groups_that_have_more(
    available: list[int], count: int
) -> None:
    quotas = even_quotas(available, count)
    assert quotas.sum() == min(count, sum(available))
    assert (quotas <= available).all()
    with_more = [quota for quota, limit in zip(quotas.tolist(), available, strict=True) if quota < limit]
    assert not with_more or max(with_more) - min(with_more) <= 1
    assert not with_more or quotas.max() <= min(with_more) + 1


def test_every_well_gives_alike_and_so_does_every_slide_of_a_well() -> None:
    wells = ["rich", "rich", "poor", "rich"]
    quotas = quotas_by_slide(
        wells, [1000, 10, 6, 500], count=106, max_slides=10, rng=np.random.default_rng(0)
    )
    assert quotas == {0: 45, 1: 10, 2: 6, 3: 45}


def test_no_more_slides_are_chosen_than_asked_for_and_all_wells_are_among_them() -> None:
    wells = [f"well-{number % 5}" for number in range(100)]
    quotas = quotas_by_slide(wells, [50] * 100, count=60, max_slides=20, rng=np.random.default_rng(4))
    assert len(quotas) == 20
    assert sum(quotas.values()) == 60
    assert {wells[slide] for slide in quotas} == set(wells)


def test_equal_seeds_give_equal_samples() -> None:
    rows = np.arange(10, 500, 7)
    first, second = (sample_objects(rows, 12, np.random.default_rng(9)) for _ in range(2))
    assert np.array_equal(first, second)
    assert len(np.unique(first)) == 12
    assert set(first.tolist()) <= set(rows.tolist())
    assert sample_objects(rows, 1000, np.random.default_rng(9)).tolist() == rows.tolist()
