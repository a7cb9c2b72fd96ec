"""Pixels between pixels are mixed as pixman does, and large and small tiles painted as OpenSlide paints them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.compare_readers import assert_same, texture

from fossilray.slides.direct.interpolation import interpolated
from fossilray.slides.slide import open_slide
from fossilray.synthetic.writers.mirax import write_mirax
from fossilray.synthetic.writers.mirax_plan import MiraxOptions
from fossilray.synthetic.writers.pixels import ArrayPixels


def mixed_by_pixman(
    source: NDArray[np.uint8], across: float, down: float, *, is_opaque: bool
) -> NDArray[np.uint8]:
    """Its steps one by one, each rounded to float32."""
    one = np.float32(1)
    share = source.astype(np.float32) * (one if is_opaque else one / np.float32(255) * np.float32(256))
    height, width = source.shape[0] - (down > 0), source.shape[1] - (across > 0)
    total = np.zeros((height, width, 3), np.float32)
    for y, weight_y in ((0, 1 - down), (1, down)):
        for x, weight_x in ((0, 1 - across), (1, across)):
            if weight_x * weight_y:
                total += share[y : y + height, x : x + width] * np.float32(weight_x * weight_y)
    return np.minimum(total, 255).astype(np.uint8)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    size=st.tuples(st.integers(2, 300), st.integers(2, 300)),
    units=st.sampled_from([2, 4, 8, 16, 32, 64, 1000, 65536]),
    parts=st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)),
    kind=st.sampled_from(["noise", "smooth", "nearly white"]),
    is_opaque=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_any_fraction_of_a_pixel_is_mixed_as_pixman_does(
    size: tuple[int, int],
    units: int,
    parts: tuple[float, float],
    kind: str,
    is_opaque: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    source = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    if kind == "smooth":
        source = np.asarray(cv2.GaussianBlur(source, (9, 9), 3), np.uint8)
    elif kind == "nearly white":
        source[rng.random(size) < 0.7] = 255
    across, down = (int(part * units) / units for part in parts)
    expected = mixed_by_pixman(source, across, down, is_opaque=is_opaque)
    np.testing.assert_array_equal(interpolated(source, across, down, is_opaque=is_opaque), expected)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_any_two_bytes_are_mixed_as_pixman_does(quarters: int) -> None:
    pairs = np.stack(np.meshgrid(np.arange(256), np.arange(256)), axis=-1).astype(np.uint8)
    beside = np.repeat(pairs.reshape(-1, 2, 1), 3, axis=2)
    above = np.ascontiguousarray(beside.transpose(1, 0, 2))
    part = quarters / 4
    for source, across, down in ((beside, part, 0.0), (above, 0.0, part)):
        expected = mixed_by_pixman(source, across, down, is_opaque=False)
        np.testing.assert_array_equal(interpolated(source, across, down, is_opaque=False), expected)


@pytest.mark.parametrize(("tile_px", "divisions"), [(512, 2), (256, 4)])
def test_large_tiles_at_fractions_of_pixels_are_the_same(
    tile_px: int, divisions: int, tmp_path: Path
) -> None:
    path = tmp_path / "slide.mrxs"
    options = MiraxOptions(
        photo_px=tile_px * divisions, divisions_per_side=divisions, overlap_px=70, jitter_px=30, levels=3
    )
    write_mirax(path, ArrayPixels(image=texture(2300)), options)
    with open_slide(path) as slide:
        bounds = slide.info.bounds
    windows = [
        (bounds.x_min + shift, bounds.y_min + 3 * shift, width, height)
        for shift, width, height in ((-90, 700, 640), (41, 330, 300), (402, 90, 80), (707, 200, 400))
    ]
    for level in (1, 2):
        assert assert_same(path, level, windows) == len(windows)


def test_window_that_is_covered_all_over_has_one_coverage(tmp_path: Path) -> None:
    path = tmp_path / "slide.mrxs"
    write_mirax(path, ArrayPixels(image=texture(900)), MiraxOptions(photo_px=256, levels=3))
    with open_slide(path) as slide:
        bounds = slide.info.bounds
        inside = bounds.x_min + 50, bounds.y_min + 50
        for level in (0, 2):
            _, coverage = slide.read_with_alpha(level, *inside, 150, 160)
            assert coverage.shape == (160, 150)
            assert (coverage == 255).all()
            assert not coverage.flags.writeable
