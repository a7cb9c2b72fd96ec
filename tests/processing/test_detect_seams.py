"""The tile size is a matter of speed: at one scale the same objects are found, each once, whatever it is.

Nor does it matter that windows are fitted to what an overview shows.
"""

from dataclasses import replace
from typing import Any, cast

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from support.box_overlaps import iou_matrix

from fossilray.core.config import DetectorConfig, MergeConfig, PassConfig, TilingConfig
from fossilray.core.types import Boxes, Detector, Image, Level, Rect, SlideInfo
from fossilray.models.detectors.load import load_detector
from fossilray.models.weights_file import bundled_weights
from fossilray.processing.detection.foreground import find_foreground, foreground_units
from fossilray.processing.detection.merge import TileBoxes, largest_overlaps, merge_tiles
from fossilray.processing.detection.passes import plan_passes, read_tile
from fossilray.processing.detection.windows import plan_windows
from fossilray.slides.overview import Overview
from fossilray.slides.slide import Slide
from fossilray.synthetic.assemblage import Column
from fossilray.synthetic.composites import compose_field
from fossilray.synthetic.scene import Scene

TILE_SIDES_PX = (1024, 2048, 4096)
DOWNSAMPLE = 4
PATCH_PX = 512
LARGEST_UM = 160.0
NEEDED_SHARE, NEEDED_IOU = 0.995, 0.9
ONE_PASS = (PassConfig(um_per_px=1.0, largest_um=LARGEST_UM),)


class MemorySlide:
    """A slide at 0.25 um per px of which only the level of 1 um per px exists, as an array."""

    def __init__(self, image: Image) -> None:
        height, width = image.shape[:2]
        whole = Level(width * DOWNSAMPLE, height * DOWNSAMPLE, 1.0)
        self._image = image
        self._background = np.median(image.reshape(-1, 3), axis=0).astype(np.uint8)
        self.info = SlideInfo(
            path="memory",
            vendor="memory",
            width=whole.width,
            height=whole.height,
            mpp=0.25,
            levels=(whole, Level(width, height, float(DOWNSAMPLE))),
            bounds=Rect(0, 0, whole.width, whole.height),
            background_rgb=(226, 222, 219),
        )
        self.background_rgb = self.info.background_rgb

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Image:
        assert level == 1
        left, top = x // DOWNSAMPLE, y // DOWNSAMPLE
        region = np.empty((height, width, 3), np.uint8)
        region[:] = self._background
        across = slice(max(left, 0), max(min(left + width, self._image.shape[1]), 0))
        down = slice(max(top, 0), max(min(top + height, self._image.shape[0]), 0))
        part = self._image[down, across]
        y0, x0 = down.start - top, across.start - left
        region[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]] = part
        return region

    def level_for(self, um_per_px: float) -> int:
        assert um_per_px >= 1.0
        return 1

    def overview(self, um_per_px: float) -> Overview:
        height, width = (side // int(um_per_px) for side in self._image.shape[:2])
        small = cv2.resize(self._image, (width, height), interpolation=cv2.INTER_AREA)
        everywhere = np.full((height, width), 255, np.uint8)
        return Overview(
            np.asarray(small, np.uint8), everywhere, everywhere > 0, um_per_px * DOWNSAMPLE, self.info.bounds
        )


def paint_slide(seed: int, *, patches: int) -> MemorySlide:
    """A crowded slide of patches x patches fields of 512 um, lit differently, with cut objects between them."""
    image = np.empty((patches * PATCH_PX, patches * PATCH_PX, 3), np.uint8)
    for row in range(patches):
        for column in range(patches):
            rng = np.random.default_rng([seed, row, column])
            down = slice(row * PATCH_PX, (row + 1) * PATCH_PX)
            across = slice(column * PATCH_PX, (column + 1) * PATCH_PX)
            image[down, across] = compose_field(rng, size_px=PATCH_PX, um_per_px=1.0).image
    return MemorySlide(image)


def paint_sparse_slide(seed: int, *, density_per_mm2: float) -> MemorySlide:
    """A slide of clear field between objects, with dust that is out of focus, as scanners see it."""
    column = Column(seed)
    (sample,) = column.samples(1)
    assemblage = replace(column.assemblage(sample, slide=0, slides=1), density_per_mm2=density_per_mm2)
    side_px = 4 * PATCH_PX
    scene = Scene(assemblage, width=side_px, height=side_px, um_per_px=1.0, seed=[seed])
    return MemorySlide(scene.region(0, 0, side_px, side_px))


def find_objects(slide: Any, detector: Detector, config: DetectorConfig, tiling: TilingConfig) -> Boxes:
    passes = plan_passes(slide.info, tiling, config, detector.stride_px)
    content = find_foreground(slide, tiling)
    found = []
    for detection_pass in passes:
        for tile in plan_windows(detection_pass, foreground_units(detection_pass, content)).tiles:
            window = read_tile(slide, detection_pass, tile)[None]
            found.append(
                TileBoxes(
                    detection_pass, tile, detector.detect(window, um_per_px=detection_pass.um_per_px)[0]
                )
            )
    return merge_tiles(found, info=slide.info, merge=MergeConfig())


def share_matched(one: list[Boxes], other: list[Boxes]) -> float:
    """Share of objects, slide by slide, that pair up one to one at the IoU needed.

    Of the objects that the pass promises to see whole; larger ones are a coarser pass's.
    """
    matched = promised = 0
    for these, those in zip(one, other, strict=True):
        iou = iou_matrix(these.xyxy, those.xyxy)
        rows, columns = linear_sum_assignment(-np.where(iou >= NEEDED_IOU, iou, 0.0))
        pairs = iou[rows, columns] >= NEEDED_IOU
        for boxes, paired in ((these, rows[pairs]), (those, columns[pairs])):
            within = longest_um(boxes) <= LARGEST_UM
            matched += int(within[paired].sum())
            promised += int(within.sum())
    return matched / promised


def longest_um(boxes: Boxes) -> NDArray[np.float64]:
    return np.asarray((boxes.xyxy[:, 2:] - boxes.xyxy[:, :2]).max(axis=1) / DOWNSAMPLE, np.float64)


def is_at_rim(boxes: Boxes, info: SlideInfo) -> NDArray[np.bool_]:
    """Boxes clipped by the slide's rim; clipping may raise an overlap that one tile let pass."""
    outside = (boxes.xyxy <= 0) | (boxes.xyxy >= [info.width, info.height] * 2)
    return np.asarray(outside.any(axis=1), np.bool_)


def fixed_grid(tile_px: int) -> TilingConfig:
    """Tiles of that size, or what is left of it at the rim, wherever something was scanned."""
    return TilingConfig(tile_px=tile_px, blank_contrast=0)


def assert_fitted_windows_do_not_matter(slides: list[MemorySlide], config: DetectorConfig) -> None:
    """Of what the overview shows, the same is found as if everything had been looked at."""
    detector = load_detector(config, device="cpu")
    everything, fitted = (
        [shown(find_objects(slide, detector, config, tiling), slide) for slide in slides]
        for tiling in (fixed_grid(2048), TilingConfig())
    )
    assert sum(map(len, everything)) >= 10 * len(slides)
    assert share_matched(everything, fitted) >= NEEDED_SHARE


def shown(boxes: Boxes, slide: MemorySlide) -> Boxes:
    """Those that meet anything the overview shows."""
    content = find_foreground(cast(Slide, slide), TilingConfig())
    assert content is not None
    corners = boxes.xyxy / content.scale
    low, high = np.floor(corners[:, :2]).astype(int), np.ceil(corners[:, 2:]).astype(int)
    meets = [
        bool(content.mask[top:bottom, left:right].any())
        for (left, top), (right, bottom) in zip(low, high, strict=True)
    ]
    return boxes.take(np.array(meets, np.bool_))


def assert_tile_size_does_not_matter(slides: list[MemorySlide], config: DetectorConfig) -> None:
    detector = load_detector(config, device="cpu")
    results = [
        [find_objects(slide, detector, config, fixed_grid(px)) for slide in slides] for px in TILE_SIDES_PX
    ]
    assert sum(map(len, results[0])) >= 20 * len(slides)
    for first in range(len(TILE_SIDES_PX)):
        for slide, boxes in zip(slides, results[first], strict=True):
            inside = boxes.xyxy[~is_at_rim(boxes, slide.info)]
            assert (largest_overlaps(inside) <= config.iou).all()  # what one tile may hold, no more
        for second in range(first + 1, len(TILE_SIDES_PX)):
            share = share_matched(results[first], results[second])
            assert share >= NEEDED_SHARE, f"tiles of {TILE_SIDES_PX[first]} and {TILE_SIDES_PX[second]} px"


@settings(max_examples=3, deadline=None)
@given(st.integers(0, 10_000))
def test_the_classical_detector_finds_the_same_objects_whatever_the_tile_size(seed: int) -> None:
    assert_tile_size_does_not_matter(
        [paint_slide(seed, patches=2)], DetectorConfig(kind="classical", passes=ONE_PASS)
    )


@settings(max_examples=3, deadline=None)
@given(st.integers(0, 10_000))
def test_the_classical_detector_finds_the_same_objects_in_fitted_windows(seed: int) -> None:
    slides = [paint_sparse_slide(seed, density_per_mm2=20)]
    assert_fitted_windows_do_not_matter(slides, DetectorConfig(kind="classical", passes=ONE_PASS))


needs_bundled = pytest.mark.skipif(
    not bundled_weights("detector").is_file(), reason="no bundled detector in this checkout"
)


@needs_bundled
def test_the_bundled_detector_finds_the_same_objects_whatever_the_tile_size() -> None:
    assert_tile_size_does_not_matter([paint_slide(1, patches=2)], DetectorConfig(passes=ONE_PASS))


@needs_bundled
def test_the_bundled_detector_finds_the_same_objects_in_fitted_windows() -> None:
    slides = [paint_sparse_slide(5, density_per_mm2=40)]
    assert_fitted_windows_do_not_matter(slides, DetectorConfig(passes=ONE_PASS))


@needs_bundled
@pytest.mark.slow
def test_the_bundled_detector_finds_the_same_objects_in_fitted_windows_on_many_slides() -> None:
    slides = [
        paint_sparse_slide(seed, density_per_mm2=density) for seed in range(4, 9) for density in (2, 10, 40)
    ]
    assert_fitted_windows_do_not_matter(slides, DetectorConfig(passes=ONE_PASS))


@needs_bundled
@pytest.mark.slow
def test_the_bundled_detector_finds_the_same_objects_on_many_slides() -> None:
    slides = [paint_slide(seed, patches=3) for seed in range(2, 7)]
    assert_tile_size_does_not_matter(slides, DetectorConfig(passes=ONE_PASS))
