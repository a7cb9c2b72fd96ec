"""Regions read without OpenSlide beside what OpenSlide makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import UnreadableRegion
from fossilray.slides.slide import Slide, open_slide

Region = tuple[int, int, int, int]
Reader = Literal["auto", "openslide"]
READERS: tuple[Reader, Reader] = ("auto", "openslide")


def texture(side: int, seed: int = 0) -> NDArray[np.uint8]:
    """Something at every place, with strong contrasts, bright and dark."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (side // 12 + 2, side // 12 + 2, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.asarray(image, np.uint8)


def assert_same(path: Path, level: int, regions: list[Region]) -> int:
    """Compares regions of a level with OpenSlide's; how many were read directly."""
    with open_slide(path) as ours, open_slide(path, reader="openslide") as theirs:
        for region in regions:
            pixels, coverage = ours.read_with_alpha(level, *region)
            expected, covered = theirs.read_with_alpha(level, *region)
            np.testing.assert_array_equal(pixels, expected)
            np.testing.assert_array_equal(coverage, covered)
            np.testing.assert_array_equal(ours.read(level, *region), expected)
        assert theirs.regions_read_directly == 0
        return ours.regions_read_directly // 2


def some_regions(slide: Slide, rng: np.random.Generator, count: int) -> list[Region]:
    """Of all sizes, over the canvas and beyond its rim."""
    corners = rng.integers(-150, (slide.info.width + 50, slide.info.height + 50), (count, 2))
    sizes = rng.integers(1, (300, 40, 6), (count, 3)).tolist()
    return [
        (int(x), int(y), *rng.permutation(size)[:2].tolist())
        for (x, y), size in zip(corners, sizes, strict=True)
    ]


def pixels_or_error(path: Path, kind: Reader, region: Region) -> NDArray[np.uint8] | str:
    with open_slide(path, reader=kind) as slide:
        try:
            return slide.read(0, *region)
        except UnreadableRegion as error:
            return str(error)
