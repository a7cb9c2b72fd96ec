"""Each object once, whatever the tiles, the seams and the order in which tiles come back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fossilray.core.config import DetectorConfig, MergeConfig, PassConfig, TilingConfig
from fossilray.core.types import Boxes, Level, Rect, SlideInfo
from fossilray.processing.detection.merge import TileBoxes, largest_overlaps, merge_tiles
from fossilray.processing.detection.passes import DetectionPass, plan_passes
from fossilray.processing.detection.windows import plan_windows

SIDE = 12_000
MERGE = MergeConfig()
LEVELS = tuple(Level(SIDE >> k, SIDE >> k, float(2**k)) for k in range(7))
INFO = SlideInfo("a", "mirax", SIDE, SIDE, 0.25, LEVELS, Rect(0, 0, SIDE, SIDE), (255, 255, 255))
FINE = PassConfig(um_per_px=1.0, largest_um=160.0)
COARSE = PassConfig(um_per_px=4.0, smallest_um=100.0, largest_um=1000.0)


def passes_of(*passes: PassConfig, tile_px: int | None = 2048) -> tuple[DetectionPass, ...]:
    return plan_passes(INFO, TilingConfig(tile_px=tile_px), DetectorConfig(passes=passes), 32)


def look(
    detection_pass: DetectionPass,
    objects: NDArray[np.float64],
    *,
    jitter_px: float = 0.0,
    seed: int = 0,
    content: NDArray[np.bool_] | None = None,
) -> list[TileBoxes]:
    """A perfect detector: every object that meets a window, clipped to it; jitter in detection px.

    content: what windows are fitted to; all of the pass if None.
    """
    rng = np.random.default_rng(seed)
    found = []
    everything = np.ones((detection_pass.rows, detection_pass.columns), np.bool_)
    for tile in plan_windows(detection_pass, everything if content is None else content).tiles:
        xyxy = (objects - np.tile(detection_pass.window_corner(tile), 2)) / detection_pass.scale
        xyxy = xyxy + rng.uniform(-jitter_px, jitter_px, xyxy.shape)
        clipped = np.clip(xyxy, 0, [tile.window.width, tile.window.height] * 2)
        seen = ((clipped[:, 2:] - clipped[:, :2]) > 0.5).all(axis=1)
        score = np.full(int(seen.sum()), 0.5, np.float32) + rng.uniform(0, 0.1, int(seen.sum())).astype("f4")
        found.append(TileBoxes(detection_pass, tile, Boxes(clipped[seen], score)))
    return found


def content_of(
    detection_pass: DetectionPass, objects: NDArray[np.float64], *, shown: float = 1.0
) -> NDArray[np.bool_]:
    """Units that meet the middle part of an object; shown: how much of its length is so dark as to be seen."""
    content = np.zeros((detection_pass.rows, detection_pass.columns), np.bool_)
    side = detection_pass.unit_px * detection_pass.scale
    centre, half = (objects[:, :2] + objects[:, 2:]) / 2, (objects[:, 2:] - objects[:, :2]) / 2
    low = np.floor((centre - shown * half) / side).astype(int)
    high = np.ceil((centre + shown * half) / side).astype(int)
    for (left, top), (right, bottom) in zip(low, high, strict=True):
        content[max(top, 0) : bottom, max(left, 0) : right] = True
    return content


def assert_once_each(boxes: Boxes, objects: NDArray[np.float64], *, within_px: float) -> None:
    assert len(boxes) == len(objects)
    left = objects[np.lexsort(objects.T)]
    for box in boxes.xyxy:
        distance = np.abs(left - box).max(axis=1)
        assert distance.min() <= within_px
        left = np.delete(left, int(distance.argmin()), axis=0)


def spread(count: int, *, longest_px: float, seed: int, least_px: float = 20) -> NDArray[np.float64]:
    """Objects of any size that do not overlap each other much (IoU below 0.3)."""
    rng = np.random.default_rng(seed)
    kept = np.zeros((0, 4))
    while len(kept) < count:
        sides = np.exp(rng.uniform(np.log(least_px), np.log(longest_px), 2))
        corner = rng.uniform(0, SIDE - sides)
        candidate = np.vstack([kept, np.concatenate([corner, corner + sides])])
        if largest_overlaps(candidate).max() < 0.3:
            kept = candidate
    return kept


@pytest.mark.parametrize("tile_px", [1024, 2048, 4096])
@pytest.mark.parametrize("jitter_px", [0.0, 0.5])
def test_objects_are_found_once_each_whatever_the_tile_size(tile_px: int, jitter_px: float) -> None:
    objects = spread(400, longest_px=600, seed=1, least_px=40)
    (detection_pass,) = passes_of(FINE, tile_px=tile_px)
    found = look(detection_pass, objects, jitter_px=jitter_px)
    merged = merge_tiles(found, info=INFO, merge=MERGE)
    assert_once_each(merged, objects, within_px=1e-6 + jitter_px * 4)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.sampled_from([3, 15, 60]),
    shown=st.sampled_from([0.25, 0.5, 1.0]),
    tile_px=st.sampled_from([1024, 2048, None]),
)
def test_objects_are_found_once_each_in_windows_fitted_to_them(
    *, seed: int, count: int, shown: float, tile_px: int | None
) -> None:
    objects = spread(count, longest_px=640, seed=seed, least_px=40)
    (detection_pass,) = passes_of(FINE, tile_px=tile_px)
    found = look(detection_pass, objects, content=content_of(detection_pass, objects, shown=shown))
    merged = merge_tiles(found, info=INFO, merge=MERGE)
    assert_once_each(merged, objects, within_px=1e-6)


def test_object_centred_where_nothing_shows_is_found_by_the_tile_that_shows_its_dark_end() -> None:
    (detection_pass,) = passes_of(FINE, tile_px=2048)
    objects = np.array([[1930, 500, 2170, 560.0], [1960, 3000, 2200, 3060]])
    content = content_of(detection_pass, np.array([[1940, 510, 2000, 550.0], [1970, 3010, 2040, 3050]]))
    merged = merge_tiles(look(detection_pass, objects, content=content), info=INFO, merge=MERGE)
    assert_once_each(merged, objects, within_px=1e-6)


def test_object_at_the_border_of_an_unread_tile_is_named_by_its_neighbour() -> None:
    (detection_pass,) = passes_of(FINE, tile_px=2048)
    objects = np.array([[2000, 500, 2200, 560.0], [2600, 900, 2700, 960]])
    found = [part for part in look(detection_pass, objects) if part.tile.core.x_min != detection_pass.core_px]
    merged = merge_tiles(found, info=INFO, merge=MERGE)
    assert_once_each(merged, objects[:1], within_px=1e-6)


@pytest.mark.parametrize("tile_px", [1024, 2048, 4096])
def test_objects_on_seams_and_corners_are_kept_once(tile_px: int) -> None:
    seam = float(tile_px)
    objects = np.array(
        [
            [seam - 50, 300, seam + 50, 400],
            [seam - 200, 600, seam + 100, 700],
            [seam - 40, seam - 40, seam + 40, seam + 40],
            [2 * seam - 300, seam - 30, 2 * seam + 300, seam + 30],
            [500, seam, 600, seam + 100],
            [800, seam - 100, 900, seam],
        ]
    )
    (detection_pass,) = passes_of(FINE, tile_px=tile_px)
    merged = merge_tiles(look(detection_pass, objects), info=INFO, merge=MERGE)
    assert_once_each(merged, objects, within_px=1e-6)


@pytest.mark.parametrize("tile_px", [1024, 2048, 4096])
def test_objects_larger_than_a_tile_survive_whole(tile_px: int) -> None:
    objects = np.array(
        [
            [1000, 1000, 9000, 1040],
            [300, 2000, 350, 11_900],
            [2000, 3000, 7000, 8000],
            [8000, 9000, 9500, 10_100],
            [9000.0, 1500, 11_000, 2100],
        ]
    )
    (detection_pass,) = passes_of(FINE, tile_px=tile_px)
    merged = merge_tiles(look(detection_pass, objects), info=INFO, merge=MERGE)
    assert_once_each(merged, objects, within_px=1e-6)


@pytest.mark.parametrize("tile_px", [1024, 2048, 4096])
def test_two_passes_see_each_object_once(tile_px: int) -> None:
    objects = np.vstack([spread(200, longest_px=4000, seed=3), [[100, 11_000, 11_900, 11_100]]])
    objects = objects[largest_overlaps(objects) < 0.3]
    found = [
        part
        for detection_pass in passes_of(FINE, COARSE, tile_px=tile_px)
        for part in look(detection_pass, objects)
    ]
    merged = merge_tiles(found, info=INFO, merge=MERGE)
    assert_once_each(merged, objects, within_px=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    jitter_px=st.sampled_from([0.0, 1.0, 6.0]),
    order=st.randoms(use_true_random=False),
)
def test_merging_does_not_depend_on_the_order_of_tiles(seed: int, jitter_px: float, order: object) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, SIDE - 900, (150, 2))
    objects = np.concatenate([corner, corner + rng.uniform(10, 900, (150, 2))], axis=1)
    found = [
        part
        for detection_pass in passes_of(FINE, COARSE)
        for part in look(detection_pass, objects, jitter_px=jitter_px, seed=seed)
    ]
    once = merge_tiles(found, info=INFO, merge=MERGE)
    order.shuffle(found)
    shuffled = [
        TileBoxes(part.detection_pass, part.tile, part.boxes.take(rng.permutation(len(part.boxes))))
        for part in found
    ]
    again = merge_tiles(shuffled, info=INFO, merge=MERGE)
    assert np.array_equal(once.xyxy, again.xyxy)
    assert np.array_equal(once.score, again.score)


def test_true_overlaps_at_a_seam_stay_two_objects() -> None:
    objects = np.array([[2000, 500, 2080, 580], [2016, 504, 2096, 584.0]])
    assert largest_overlaps(objects)[0] > 0.55
    (detection_pass,) = passes_of(FINE)
    merged = merge_tiles(look(detection_pass, objects), info=INFO, merge=MERGE)
    assert_once_each(merged, objects, within_px=1e-6)


def test_small_objects_inside_a_large_one_stay() -> None:
    objects = np.array([[1000, 1000, 4000, 4000], [1500, 1500, 1600, 1600], [3000, 2000, 3100, 2200.0]])
    found = [part for detection_pass in passes_of(FINE, COARSE) for part in look(detection_pass, objects)]
    assert_once_each(merge_tiles(found, info=INFO, merge=MERGE), objects, within_px=1e-6)


def test_large_object_that_only_the_fine_pass_sees_is_not_lost() -> None:
    objects = np.array([[1000, 1000, 3500, 1200], [500, 5000, 560, 5040.0]])
    fine, coarse = passes_of(FINE, COARSE)
    found = look(fine, objects) + look(coarse, objects[:0])
    assert_once_each(merge_tiles(found, info=INFO, merge=MERGE), objects, within_px=1e-6)


def test_rows_come_in_blocks_and_inside_the_canvas() -> None:
    objects = spread(300, longest_px=300, seed=5)
    objects[0] = [-40, 50, 60, 150]
    (detection_pass,) = passes_of(FINE)
    merged = merge_tiles(look(detection_pass, objects), info=INFO, merge=MERGE)
    assert merged.xyxy.min() >= 0
    assert merged.xyxy.max() <= SIDE
    block = (merged.xyxy[:, :2] + merged.xyxy[:, 2:]) / 2 // 2048
    assert (np.diff(block[:, 1] * 1000 + block[:, 0]) >= 0).all()


def test_nothing_found_is_no_object() -> None:
    assert len(merge_tiles([], info=INFO, merge=MERGE)) == 0
    (detection_pass,) = passes_of(FINE)
    assert len(merge_tiles(look(detection_pass, np.zeros((0, 4))), info=INFO, merge=MERGE)) == 0
    assert largest_overlaps(np.zeros((0, 4))).shape == (0,)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_largest_overlaps_equal_the_full_iou_matrix(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 300, (count, 2))
    boxes = np.concatenate([corner, corner + rng.integers(1, 100, (count, 2))], axis=1).astype(np.int32)
    expected = np.zeros(count)
    for i, a in enumerate(boxes.astype(float)):
        for j, b in enumerate(boxes.astype(float)):
            width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
            height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
            union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
            if i != j:
                expected[i] = max(expected[i], width * height / union)
    assert np.allclose(largest_overlaps(boxes), expected, atol=1e-6)
