"""Batches of crops: every crop once, the same for a seed, resumed anywhere, in memory that stays flat."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.crop_tables import CountingSource, made_table, name_of, names_in

from fossilray.core.errors import StoreError, StoreUnreachable, UsageError
from fossilray.training.crops.stream import CropBatch, CropStream

SIZES = st.lists(st.integers(1, 900) | st.integers(2000, 4500), min_size=1, max_size=6)


def rows_of(batches: list[CropBatch]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int64), *(batch.row for batch in batches)])


@settings(max_examples=25, deadline=None)
@given(
    sizes=SIZES,
    keep_one_in=st.integers(1, 40),
    world=st.integers(1, 4),
    batch=st.integers(1, 64),
    buffer=st.integers(1, 3000),
    seed=st.integers(0, 2**31),
)
def test_every_crop_comes_once_an_epoch_over_all_workers_but_for_a_tail(
    sizes: list[int], keep_one_in: int, world: int, batch: int, buffer: int, seed: int
) -> None:
    table = made_table(sizes, keep_one_in=keep_one_in)
    if len(table) < world * batch:
        return
    streams = [
        CropStream(table, batch=batch, seed=seed, side_px=2, rank=r, world=world, buffer=buffer, threads=2)
        for r in range(world)
    ]
    epochs = [list(stream.epoch(3)) for stream in streams]
    assert {len(batches) for batches in epochs} == {streams[0].batches_per_epoch}
    assert all(len(one.row) == batch for batches in epochs for one in batches)
    rows = np.concatenate([rows_of(batches) for batches in epochs])
    assert len(np.unique(rows)) == len(rows) > len(table) - world * batch
    for batches in epochs:
        for one in batches:
            named = [
                name_of(str(u), o) for u, o in zip(table.unit[one.row], table.object_id[one.row], strict=True)
            ]
            assert names_in(one.pixels).tolist() == named


@settings(max_examples=25, deadline=None)
@given(
    sizes=SIZES,
    batch=st.integers(1, 64),
    buffer=st.integers(1, 3000),
    start=st.floats(0, 1),
    weighted=st.booleans(),
)
def test_a_resumed_epoch_continues_as_if_never_interrupted(
    sizes: list[int], batch: int, buffer: int, start: float, weighted: bool
) -> None:
    weight = np.random.default_rng(1).exponential(size=sum(sizes)).astype(np.float32)
    table = made_table(sizes, weight=weight)
    if len(table) < batch:
        return

    def stream(threads: int) -> CropStream:
        return CropStream(
            table, batch=batch, seed=5, side_px=2, buffer=buffer, threads=threads, weighted=weighted
        )

    whole = list(stream(1).epoch(7))
    taken = int(start * len(whole))
    rest = list(stream(3).epoch(7, start=taken))
    assert len(rest) == len(whole) - taken
    for one, other in zip(rest, whole[taken:], strict=True):
        assert np.array_equal(one.row, other.row)
        assert np.array_equal(one.pixels, other.pixels)


def test_what_was_taken_before_is_not_read_again() -> None:
    source = CountingSource()
    stream = CropStream(made_table([3000, 3000], source=source), batch=100, seed=0, side_px=2, buffer=1000)
    rest = rows_of(list(stream.epoch(0, start=37)))
    assert len(source.read_crops) == len(rest) == 6000 - 3700


def test_a_table_in_any_order_gives_each_crop_once_and_its_own_pixels() -> None:
    table = made_table([500, 2500])
    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    batches = list(CropStream(shuffled, batch=50, seed=0, side_px=2, buffer=400).epoch(0))
    assert np.array_equal(np.sort(rows_of(batches)), np.arange(3000))
    for one in batches:
        named = shuffled.unit[one.row].astype(np.int64) * 10_000 + shuffled.object_id[one.row]
        assert np.array_equal(names_in(one.pixels), named)


@pytest.mark.parametrize("other", [{"seed": 2}, {"epoch": 1}])
def test_another_seed_and_another_epoch_give_another_order(other: dict[str, int]) -> None:
    def rows(*, seed: int = 1, epoch: int = 0) -> np.ndarray:
        stream = CropStream(made_table([4000]), batch=100, seed=seed, side_px=2, buffer=1000)
        return rows_of(list(stream.epoch(epoch)))

    assert np.array_equal(rows(), rows())
    assert (rows() == rows(**other)).mean() < 0.05


def test_a_batch_mixes_many_slides_and_neighbours_part() -> None:
    table = made_table([2048] * 40)
    stream = CropStream(table, batch=128, seed=0, side_px=2, buffer=8192)
    batches = list(stream.epoch(0))
    slides = [len(np.unique(table.unit[one.row])) for one in batches]
    assert np.median(slides) >= 20  # a buffer holds pieces of 32 slides, less those drawn twice
    beside = [np.abs(np.subtract.outer(one.row, one.row))[np.triu_indices(128, 1)] == 1 for one in batches]
    assert np.mean([one.sum() for one in beside]) < 4


def test_no_more_is_read_ahead_than_the_buffer_holds() -> None:
    source = CountingSource()
    stream = CropStream(
        made_table([300] * 60, source=source), batch=50, seed=0, side_px=2, buffer=2000, threads=2
    )
    ahead = [len(source.read_crops) - 50 * (i + 1) for i, _ in enumerate(stream.epoch(0))]
    assert max(ahead) <= 2000 + 3 * 50  # and three decoded batches


def test_weights_say_how_often_a_crop_comes() -> None:
    weight = np.random.default_rng(0).choice([0, 0.25, 1, 7.5], size=4000).astype(np.float32)
    table = made_table([1500, 2500], weight=weight)
    expected = weight / weight.mean()
    counted = np.zeros(4000)
    for epoch in range(20):
        streams = [
            CropStream(table, batch=40, seed=1, side_px=2, rank=r, world=2, buffer=500, weighted=True)
            for r in (0, 1)
        ]
        rows = np.concatenate([rows_of(list(stream.epoch(epoch))) for stream in streams])
        counts = np.bincount(rows, minlength=4000)
        assert len(rows) == 4000
        assert (np.abs(counts - expected) < 1 + 1e-6).all()
        counted += counts
    assert not counted[weight == 0].any()
    for value in (0.25, 1, 7.5):
        assert counted[weight == value].mean() / 20 == pytest.approx(value / weight.mean(), rel=0.02)


def test_a_crop_that_does_not_decode_is_replaced_by_another_and_counted() -> None:
    source = CountingSource(damaged=frozenset({("0", 7), ("1", 5)}))
    stream = CropStream(made_table([300, 100], source=source), batch=40, seed=0, side_px=2, buffer=100)
    batches = list(stream.epoch(0))
    assert stream.failed_rows == {7, 305}
    counts = Counter(rows_of(batches).tolist())
    assert counts[7] == counts[305] == 0
    assert sorted(counts.values())[-2:] == [2, 2]
    assert all(np.array_equal(names_in(one.pixels) % 10_000, one.row % 300) for one in batches)
    list(stream.epoch(1))
    assert stream.failed_rows == {7, 305}


def test_too_many_crops_that_do_not_decode_stop_the_training_and_one_is_named() -> None:
    source = CountingSource(damaged=frozenset(("0", one) for one in range(0, 1000, 20)))
    table = made_table([1000], source=source)
    with pytest.raises(StoreError, match=r"made-up: slide-0, object \d+: it holds nothing"):
        list(CropStream(table, batch=50, seed=0, side_px=2).epoch(0))
    assert len(list(CropStream(table, batch=50, seed=0, side_px=2, max_failed_share=0.1).epoch(0))) == 20


def test_an_unreachable_store_is_not_counted_as_failed_crops() -> None:
    stream = CropStream(
        made_table([100], source=CountingSource(reachable=False)), batch=10, seed=0, side_px=2
    )
    with pytest.raises(StoreUnreachable):
        next(iter(stream.epoch(0)))


def test_an_epoch_left_early_reads_no_further() -> None:
    source = CountingSource()
    epoch = CropStream(made_table([3000], source=source), batch=10, seed=0, side_px=2, buffer=100).epoch(0)
    next(epoch)
    epoch.close()  # type: ignore[attr-defined]
    read = len(source.read_crops)
    assert read < 500


def test_too_few_crops_for_a_batch_of_each_worker_are_refused() -> None:
    with pytest.raises(UsageError, match="do not fill a batch of 64 for each of 4 workers"):
        CropStream(made_table([200]), batch=64, seed=0, side_px=2, world=4)


def test_weights_that_are_all_zero_are_refused() -> None:
    with pytest.raises(UsageError, match="has weight 0"):
        CropStream(
            made_table([200], weight=np.zeros(200, np.float32)), batch=64, seed=0, side_px=2, weighted=True
        )
