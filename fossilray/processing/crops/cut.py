"""One object as a square crop, read from the coarsest pyramid level that has enough pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config import CropsConfig
from fossilray.core.errors import UnreadableRegion
from fossilray.core.images import FAILED_GREY, Span, content_box, resize_image
from fossilray.core.types import Image, Level

if TYPE_CHECKING:
    from fossilray.slides.slide import Slide

# Levels differ a little at the edges of photos, so an undamaged level may lack this much that another shows.
_WHOLE_SHARE = 0.95


@dataclass(frozen=True)
class ExtractedCrop:
    """One object's crop and the level that it was read from."""

    pixels: Image
    """(size_px, size_px, 3) uint8 RGB."""
    level: int
    """Pyramid level the pixels come from; -1 when failed."""
    coarser: bool
    """A coarser level was read, because the one with enough pixels was unreadable."""
    failed: bool
    """No level up to the coarsest that is allowed could be read; the pixels are mid-grey."""
    content: tuple[int, int, int, int]
    """x_min, y_min, x_max, y_max of the object's box inside the crop; all of it unless letterboxed."""


def extract_crop(
    slide: Slide,
    box: NDArray[np.generic] | Sequence[float],
    *,
    config: CropsConfig,
    coarsest_level: int,
    background_rgb: Sequence[float] | NDArray[np.float32] | None = None,
) -> ExtractedCrop:
    """Read the pixels inside a level-0 box (x_min, y_min, x_max, y_max), resized to the crop's square.

    Parts of the box outside the canvas are cut off first. background_rgb: pads a letterboxed crop; None: the
    colour that the slide shows beyond its scan.
    """
    x_min, y_min, x_max, y_max = _clip(box, slide.info.width, slide.info.height)
    content = content_box(x_max - x_min, y_max - y_min, size_px=config.size_px, fit=config.fit)
    best = sufficient_level(
        slide.info.levels[: coarsest_level + 1], x_max - x_min, y_max - y_min, config=config
    )
    coarsest = max(best, coarsest_level)
    for level in range(best, coarsest + 1):
        try:
            window, inside, scanned = _read_around(slide, level, (x_min, y_min, x_max, y_max))
        except UnreadableRegion:
            continue
        if scanned < _WHOLE_SHARE and _coarser_shows_more(
            slide, range(level + 1, coarsest + 1), (x_min, y_min, x_max, y_max), scanned
        ):
            continue
        pad = slide.background_rgb if background_rgb is None else background_rgb
        pixels = resize_image(window, inside, size_px=config.size_px, content=content, pad_rgb=pad)
        return ExtractedCrop(pixels, level, coarser=level > best, failed=False, content=content)
    grey = np.full((config.size_px, config.size_px, 3), FAILED_GREY, np.uint8)
    return ExtractedCrop(grey, -1, coarser=False, failed=True, content=content)


def sufficient_level(levels: Sequence[Level], width: float, height: float, *, config: CropsConfig) -> int:
    """The coarsest of `levels` that has a pixel for each pixel of the crop; 0 where none has.

    A stretched crop needs enough pixels along the box's shorter side, a letterboxed one along the longer.
    """
    side = min(width, height) if config.fit == "stretch" else max(width, height)
    enough = [i for i, level in enumerate(levels) if side / level.downsample >= config.size_px]
    return max(enough, default=0)


def _clip(box: NDArray[np.generic] | Sequence[float], width: int, height: int) -> Span:
    """Clip the box to the canvas; at least one pixel wide and high, so that every object gets a crop."""
    x_min, y_min, x_max, y_max = (float(edge) for edge in box)
    x_min, y_min = min(max(x_min, 0.0), width - 1.0), min(max(y_min, 0.0), height - 1.0)
    return x_min, y_min, min(max(x_max, x_min + 1), width), min(max(y_max, y_min + 1), height)


def _coarser_shows_more(slide: Slide, levels: Iterable[int], box: Span, scanned: float) -> bool:
    """Return whether a coarser level shows as scanned what a finer one lacks; at the edge of the scan all lack it."""
    for level in levels:
        try:
            window, _, share = _read_around(slide, level, box)
        except UnreadableRegion:
            continue
        # A coarse pixel may reach over the edge of the scan on either side.
        return bool(share - scanned > 1 - _WHOLE_SHARE + sum(1 / side for side in window.shape[:2]))
    return False


def _read_around(slide: Slide, level: int, box: Span) -> tuple[Image, Span, float]:
    """Return the whole pixels of a level that cover a level-0 box, the box in them in fractions of a pixel, and the
    share of the pixels that was scanned.

    Reading starts on the level's pixel lattice: OpenSlide resamples, which shifts and blurs, otherwise.
    """
    downsample = slide.info.levels[level].downsample
    x_min, y_min, x_max, y_max = (edge / downsample for edge in box)
    left, top = floor(x_min), floor(y_min)
    width, height = max(1, ceil(x_max) - left), max(1, ceil(y_max) - top)
    window, alpha = slide.read_with_alpha(
        level, round(left * downsample), round(top * downsample), width, height
    )
    scanned = float(alpha.mean()) / 255 if any(alpha.strides) else 1.0
    return window, (x_min - left, y_min - top, x_max - left, y_max - top), scanned
