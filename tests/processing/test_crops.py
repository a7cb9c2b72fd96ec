"""Crops and measures through a slide held in memory."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as Pillow
from scipy import ndimage

from fossilray.core.config import CropsConfig
from fossilray.core.errors import UnreadableRegion
from fossilray.core.images import resize_to
from fossilray.core.types import Level, Rect, SlideInfo
from fossilray.processing.crops.cut import extract_crop
from fossilray.processing.crops.measures import Measures, measure_crops
from fossilray.slides.clear_field import clear_field, estimate_background
from fossilray.slides.slide import Slide

CLEAR = (226, 222, 219)


class SlideInMemory:
    """A slide whose levels are exact halves of one another; some levels may refuse to be read."""

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        *,
        levels: int = 4,
        unreadable: frozenset[int] = frozenset(),
        coverage: NDArray[np.uint8] | None = None,
    ) -> None:
        height, width = pixels.shape[:2]
        self.unreadable = unreadable
        self._pyramid = [_halve(pixels, times) for times in range(levels)]
        whole = np.full((height, width), 255, np.uint8) if coverage is None else coverage
        self._coverage = [whole[:: 2**i, :: 2**i] for i in range(levels)]
        self.info = SlideInfo(
            path="memory",
            vendor="test",
            width=width,
            height=height,
            mpp=0.25,
            levels=tuple(Level(p.shape[1], p.shape[0], 2.0**i) for i, p in enumerate(self._pyramid)),
            bounds=Rect(0, 0, width, height),
            background_rgb=CLEAR,
        )
        self.background_rgb = CLEAR

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        return self.read_with_alpha(level, x, y, width, height)[0]

    def read_with_alpha(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        if level in self.unreadable:
            raise UnreadableRegion(f"level {level} is damaged")
        left, top = x // 2**level, y // 2**level
        window = np.empty((height, width, 3), np.uint8)
        window[:] = CLEAR
        covered = np.zeros((height, width), np.uint8)
        found = self._pyramid[level][top : top + height, left : left + width]
        window[: found.shape[0], : found.shape[1]] = found
        covered[: found.shape[0], : found.shape[1]] = self._coverage[level][
            top : top + height, left : left + width
        ]
        return window, covered


def _halve(pixels: NDArray[np.uint8], times: int) -> NDArray[np.uint8]:
    side = 2**times
    height, width = (length // side for length in pixels.shape[:2])
    blocks = pixels[: height * side, : width * side].reshape(height, side, width, side, 3)
    return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)


def _as_slide(slide: SlideInMemory) -> Slide:
    return cast(Slide, slide)


def _ramp(width: int, height: int) -> NDArray[np.uint8]:
    """Red grows with x, green with y: the colour of a pixel encodes its position."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.rint((np.arange(width) + 0.5) / width * 255)
    pixels[..., 1] = np.rint((np.arange(height) + 0.5) / height * 255)[:, None]
    return pixels


def _cut(slide: SlideInMemory, box: tuple[float, ...], *, coarsest_level: int = 3, **options: Any) -> Any:
    config = CropsConfig(size_px=64, **options)
    return extract_crop(_as_slide(slide), np.array(box), config=config, coarsest_level=coarsest_level)


def test_crop_comes_from_the_coarsest_level_that_suffices() -> None:
    slide = SlideInMemory(_ramp(1024, 1024))
    assert _cut(slide, (100, 100, 600, 700)).level == 2  # 500 px: 125 at level 2, 62.5 at level 3
    assert _cut(slide, (0, 0, 1024, 1024)).level == 3
    assert _cut(slide, (10, 10, 40, 40)).level == 0
    assert _cut(slide, (0, 0, 1024, 1024), coarsest_level=1).level == 1


def test_long_thin_object_is_read_where_its_short_side_suffices() -> None:
    slide = SlideInMemory(_ramp(1024, 1024))
    assert _cut(slide, (0, 0, 1024, 70)).level == 0
    assert _cut(slide, (0, 0, 1024, 70), fit="letterbox").level == 3


@pytest.mark.parametrize("finest", [0, 1, 2, 3])
def test_crop_lies_where_its_box_does_at_every_level(finest: int) -> None:
    y, x = np.mgrid[:512, :512] + 0.5
    spot = 255 * np.exp(-((x - 211.3) ** 2 + (y - 188.8) ** 2) / (2 * 15.0**2))
    pixels = np.repeat(np.rint(spot).astype(np.uint8)[..., None], 3, axis=2)
    slide = SlideInMemory(pixels, unreadable=frozenset(range(finest)))
    box = (131, 97, 293, 297)
    crop = _cut(slide, box)
    assert crop.level == max(1, finest)
    light = crop.pixels[..., 0].astype(float)
    along = (np.arange(64) + 0.5) / 64
    assert abs(box[0] + 162 * (light.sum(axis=0) @ along) / light.sum() - 211.3) < 0.25
    assert abs(box[1] + 200 * (light.sum(axis=1) @ along) / light.sum() - 188.8) < 0.25


def test_shrinking_one_axis_does_not_alias_and_growing_the_other_is_smooth() -> None:
    pixels = np.zeros((256, 1024, 3), np.uint8)
    pixels[:, ::2] = 255
    crop = _cut(SlideInMemory(pixels, levels=1), (0, 100, 1024, 120)).pixels
    assert crop[:, 2:-2].std() < 2
    assert abs(float(crop.mean()) - 127.5) < 2


def test_letterbox_keeps_the_aspect_and_pads_with_clear_field() -> None:
    crop = _cut(SlideInMemory(np.zeros((512, 512, 3), np.uint8)), (100, 100, 300, 200), fit="letterbox")
    assert crop.content == (0, 16, 64, 48)
    assert (crop.pixels[16:48] == 0).all()
    assert (crop.pixels[:16] == CLEAR).all()
    assert (crop.pixels[48:] == CLEAR).all()


def test_unreadable_level_is_stood_in_for_by_a_coarser_one() -> None:
    crop = _cut(SlideInMemory(_ramp(1024, 1024), unreadable=frozenset({0})), (100, 100, 180, 180))
    assert (crop.level, crop.coarser, crop.failed) == (1, True, False)


def test_crop_that_no_level_gives_is_grey_failed_and_not_measured() -> None:
    slide = SlideInMemory(_ramp(1024, 1024), unreadable=frozenset({0, 1}))
    crop = _cut(slide, (100, 100, 180, 180), coarsest_level=1)
    assert (crop.level, crop.coarser, crop.failed) == (-1, False, True)
    assert (crop.pixels == 128).all()
    measured = measure_crops(crop.pixels[None], CLEAR, failed=np.array([crop.failed]))
    assert measured.missing.tolist() == [True]
    assert np.isnan(measured.opacity[0])


def test_box_reaching_out_of_the_canvas_is_clipped() -> None:
    slide = SlideInMemory(_ramp(512, 512))
    assert (_cut(slide, (-50, 400, 200, 600)).pixels == _cut(slide, (0, 400, 200, 512)).pixels).all()


@pytest.mark.parametrize(
    ("width", "height"), [(20, 20), (66, 55), (190, 190), (301, 259), (447, 230), (33, 400), (700, 90)]
)
def test_whole_pixels_are_resampled_as_by_pillow_and_no_farther_from_the_exact_kernel(
    width: int, height: int
) -> None:
    rng = np.random.default_rng(width)
    coarse = rng.integers(0, 256, (height // 6 + 2, width // 6 + 2, 3), dtype=np.uint8)
    image = np.asarray(Pillow.fromarray(coarse).resize((width, height), Pillow.Resampling.BICUBIC))
    ours = resize_to(image, size_px=224).astype(float)
    theirs = np.asarray(Pillow.fromarray(image).resize((224, 224), Pillow.Resampling.BICUBIC)).astype(float)
    assert np.abs(ours - theirs).max() <= 2
    exact = np.einsum(
        "yj,xi,jic->yxc", _bicubic(height, 224), _bicubic(width, 224), image.astype(float), optimize=True
    ).clip(0, 255)
    error, pillows = (np.sqrt(np.square(found - exact).mean()) for found in (ours, theirs))
    assert error <= pillows + 0.005


def _bicubic(length: int, size: int) -> NDArray[np.float64]:
    """(size, length) weights of Keys' kernel with a = -1/2, widened where it shrinks, cut off at the rim."""
    scale = length / size
    support = max(scale, 1.0)
    centres = (np.arange(size) + 0.5) * scale
    x = np.abs(np.arange(length) + 0.5 - centres[:, None]) / support
    near, far = (1.5 * x - 2.5) * x**2 + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def test_pixels_that_must_not_be_written_to_are_resized() -> None:
    pixels = _ramp(90, 70)
    expected = resize_to(pixels, size_px=64)
    pixels.flags.writeable = False
    assert (resize_to(pixels, size_px=64) == expected).all()


RAMP = SlideInMemory(_ramp(512, 512))


@settings(max_examples=60, deadline=None)
@given(
    box=st.tuples(*[st.floats(-100, 700, allow_nan=False) for _ in range(4)]),
    fit=st.sampled_from(["stretch", "letterbox"]),
)
def test_any_box_gives_a_crop(box: tuple[float, ...], fit: str) -> None:
    crop = _cut(RAMP, box, fit=fit)
    assert crop.pixels.shape == (64, 64, 3)
    assert not crop.failed


def test_whole_image_is_resized_as_crops_are() -> None:
    pixels = _ramp(300, 100)
    assert (
        resize_to(pixels, size_px=64) == _cut(SlideInMemory(pixels, levels=1), (0, 0, 300, 100)).pixels
    ).all()
    assert (resize_to(pixels, size_px=60, fit="letterbox", pad_rgb=(1, 2, 3))[0] == (1, 2, 3)).all()


def test_opacity_of_a_grey_filter_is_its_optical_density() -> None:
    filtered = np.rint(np.array(CLEAR) * 10**-0.3).astype(np.uint8)
    crops = np.stack([np.full((32, 32, 3), filtered), np.full((32, 32, 3), CLEAR)]).astype(np.uint8)
    measured = measure_crops(crops, CLEAR, failed=np.zeros(2, bool))
    assert measured.opacity == pytest.approx([0.3, 0.0], abs=0.002)
    assert measured.mean_rgb.tolist() == [filtered.tolist(), list(CLEAR)]


def test_black_pixels_have_a_finite_density() -> None:
    measured = measure_crops(np.zeros((1, 8, 8, 3), np.uint8), CLEAR, failed=np.zeros(1, bool))
    assert measured.opacity == pytest.approx([np.log10(CLEAR).mean()], abs=1e-6)


def test_padding_of_a_letterboxed_crop_is_not_measured() -> None:
    crop = _cut(SlideInMemory(np.full((512, 512, 3), 50, np.uint8)), (0, 0, 400, 100), fit="letterbox")
    measured = measure_crops(crop.pixels[None], CLEAR, failed=np.zeros(1, bool), contents=[crop.content])
    assert measured.mean_rgb.tolist() == [[50, 50, 50]]
    assert measured.sharpness[0] == pytest.approx(0, abs=1e-6)


def test_sharpness_is_the_variance_of_the_laplacian_and_falls_with_blur() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (48, 48), dtype=np.uint8)
    crops = np.stack(
        [np.repeat(plane[..., None], 3, axis=2) for plane in (noise, ndimage.gaussian_filter(noise, 2))]
    )
    measured = measure_crops(crops, CLEAR, failed=np.zeros(2, bool))
    expected = ndimage.laplace(noise.astype(np.float64))[1:-1, 1:-1].var()
    assert measured.sharpness[0] == pytest.approx(expected, rel=1e-4)
    assert measured.sharpness[1] < 0.05 * measured.sharpness[0]


@pytest.mark.parametrize("content", [(0, 0, 96, 96), (3, 0, 90, 41), (5, 7, 6, 90), (0, 0, 2, 96)])
def test_measures_are_those_of_their_formulas(content: tuple[int, int, int, int]) -> None:
    rng = np.random.default_rng(4)
    y, x = np.mgrid[:96, :96] / 95
    noise = rng.integers(0, 256, (96, 96, 3))
    # A bowl's Laplacian is the same everywhere: far from 0, and without variance but for rounding.
    bowl = np.repeat((255 * (x**2 + y**2) / 2)[..., None], 3, axis=2)
    crops = np.stack([noise, bowl, noise * 0.1 + bowl * 0.9]).astype(np.uint8)
    measured = measure_crops(crops, CLEAR, failed=np.zeros(3, bool), contents=[content] * 3)
    left, top, right, bottom = content
    for row, crop in enumerate(crops[:, top:bottom, left:right].astype(np.float64)):
        density = -np.log10(np.maximum(crop, 1) / CLEAR)
        assert measured.opacity[row] == pytest.approx(density.mean(), rel=1e-6)
        assert measured.mean_rgb[row] == pytest.approx(crop.mean(axis=(0, 1)), abs=0.501)
        grey = crop @ (0.299, 0.587, 0.114)
        inner = ndimage.laplace(grey)[1:-1, 1:-1] if min(grey.shape) > 2 else np.zeros(1)
        assert measured.sharpness[row] == pytest.approx(inner.var(), rel=1e-5, abs=1e-4)


def test_measures_of_no_parts_are_no_rows() -> None:
    assert Measures.concatenate([]).opacity.shape == (0,)
    part = measure_crops(np.zeros((2, 8, 8, 3), np.uint8), CLEAR, failed=np.array([True, False]))
    assert Measures.concatenate([part, part]).missing.tolist() == [True, False, True, False]


@pytest.mark.parametrize("clear_share", [0.95, 0.5, 0.25])
def test_clear_field_is_found_however_crowded_the_slide(clear_share: float) -> None:
    rng = np.random.default_rng(2)
    clear = np.array(CLEAR) + rng.normal(0, 1.5, (int(20_000 * clear_share), 3))
    objects = np.array(CLEAR) * rng.uniform(0.1, 0.9, (20_000 - len(clear), 1))
    glints = np.full((100, 3), 254.0)
    pixels = np.clip(np.concatenate([clear, objects, glints]), 0, 255).astype(np.uint8)
    assert np.abs(clear_field(pixels) - CLEAR).max() <= 1.5


def test_background_is_taken_where_something_was_scanned() -> None:
    pixels = np.full((1024, 1024, 3), 255, np.uint8)
    pixels[300:600, 300:700] = (190, 200, 180)
    coverage = np.zeros((1024, 1024), np.uint8)
    coverage[300:600, 300:700] = 255
    slide = SlideInMemory(pixels, coverage=coverage)
    assert estimate_background(_as_slide(slide)).tolist() == [190, 200, 180]


def test_background_is_taken_from_a_finer_level_where_the_coarsest_is_damaged() -> None:
    slide = SlideInMemory(np.full((1024, 1024, 3), 201, np.uint8), unreadable=frozenset({3}))
    assert estimate_background(_as_slide(slide)).tolist() == [201, 201, 201]
    slide.unreadable = frozenset(range(4))
    assert estimate_background(_as_slide(slide)).tolist() == list(CLEAR)
