"""Tiles of slides for a viewer: a pyramid of halvings over the scanned area, cut from the slide's own levels."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from fossilray.analysis.specimens.slide_files import AvailableFiles
from fossilray.core.errors import SlideError, UsageError
from fossilray.core.records import SlideSummary
from fossilray.core.types import Image
from fossilray.slides.overview import shrink
from fossilray.slides.slide import Slide
from fossilray_jpeg import encode_jpeg

TILE_PX = 256
_QUALITY = 85
_MOST_OPEN = 12
_MOST_READ_PX = 4096
"""Side of the largest region that is read for one tile; slides without coarse levels are shown from their overview."""
_OVERVIEW_PX = 2048


@dataclass(frozen=True)
class Pyramid:
    """Sizes of the pyramid over a slide's scanned area; level `top` has one pixel per level-0 pixel."""

    width: int
    height: int

    @property
    def top(self) -> int:
        return max(0, math.ceil(math.log2(max(self.width, self.height))))

    def downsample(self, level: int) -> int:
        """Level-0 px per px of a level."""
        return 1 << (self.top - level)

    def tiles(self, level: int) -> tuple[int, int]:
        """Return the number of tiles of a level across and down."""
        side = TILE_PX * self.downsample(level)
        return -(-self.width // side), -(-self.height // side)


@dataclass
class _OpenSlide:
    slide: Slide
    overview: Image | None = None
    guard: threading.Lock = field(default_factory=threading.Lock)


class SlideTiles:
    """Reads tiles from slides, which stay open while they are looked at."""

    def __init__(self, files: AvailableFiles, *, most_open: int = _MOST_OPEN) -> None:
        self._files = files
        self._most_open = most_open
        self._open: OrderedDict[str, _OpenSlide] = OrderedDict()
        self._guard = threading.Lock()

    def tile(self, summary: SlideSummary, level: int, column: int, row: int) -> bytes:
        """Return one tile as JPEG; tiles at the right and lower rim are smaller.

        Raises:
            UsageError: the pyramid has no such tile.
            SlideError: the slide is not available, or cannot be read there.
        """
        pyramid = pyramid_of(summary)
        if not 0 <= level <= pyramid.top:
            raise UsageError(f"{summary.slide_id} has the levels 0 to {pyramid.top}, not {level}")
        columns, rows = pyramid.tiles(level)
        if not (0 <= column < columns and 0 <= row < rows):
            raise UsageError(f"level {level} of {summary.slide_id} has {columns} x {rows} tiles")
        return encode_jpeg(self._read(self._opened(summary), summary, level, column, row), quality=_QUALITY)

    def region(self, summary: SlideSummary, region: tuple[int, int, int, int], *, most_px: int) -> Image:
        """Return a region in level-0 px, reduced to at most `most_px` pixels along its longest side.

        Raises:
            SlideError: the slide is not available, or cannot be read there.
        """
        slide = self._opened(summary).slide
        left, top, right, bottom = region
        reduction = max(1.0, max(right - left, bottom - top) / most_px)
        width, height = (max(1, round(side / reduction)) for side in (right - left, bottom - top))
        stored = slide.level_for(reduction * slide.info.mpp)
        scale = slide.info.levels[stored].downsample
        across, down = (max(1, round(side / scale)) for side in (right - left, bottom - top))
        return shrink(slide.read(stored, left, top, across, down), width, height)

    def close(self) -> None:
        """Close all slides."""
        with self._guard:
            while self._open:
                self._open.popitem()[1].slide.close()

    def _opened(self, summary: SlideSummary) -> _OpenSlide:
        key = f"{summary.slide_id}/{summary.attempt}"
        with self._guard:
            if key in self._open:
                self._open.move_to_end(key)
                return self._open[key]
        available = self._files.open(summary)
        if available.slide is None:
            raise SlideError(f"{summary.slide_id} cannot be shown: {available.reason}")
        with self._guard:
            # Another request may have opened it meanwhile.
            opened = self._open.setdefault(key, _OpenSlide(available.slide))
            if opened.slide is not available.slide:
                available.slide.close()
            while len(self._open) > self._most_open:
                self._open.popitem(last=False)[1].slide.close()
        return opened

    def _read(self, opened: _OpenSlide, summary: SlideSummary, level: int, column: int, row: int) -> Image:
        pyramid, slide = pyramid_of(summary), opened.slide
        downsample = pyramid.downsample(level)
        left, top = column * TILE_PX * downsample, row * TILE_PX * downsample
        right = min(left + TILE_PX * downsample, pyramid.width)
        bottom = min(top + TILE_PX * downsample, pyramid.height)
        width, height = (max(1, -(-side // downsample)) for side in (right - left, bottom - top))
        stored = slide.level_for(downsample * slide.info.mpp)
        scale = slide.info.levels[stored].downsample
        across, down = (max(1, round(side / scale)) for side in (right - left, bottom - top))
        if max(across, down) > _MOST_READ_PX:
            return self._from_overview(opened, summary, (left, top, right, bottom), (width, height))
        pixels = slide.read(stored, summary.bounds_x + left, summary.bounds_y + top, across, down)
        return pixels if (across, down) == (width, height) else shrink(pixels, width, height)

    def _from_overview(
        self,
        opened: _OpenSlide,
        summary: SlideSummary,
        region: tuple[int, int, int, int],
        size: tuple[int, int],
    ) -> Image:
        with opened.guard:
            if opened.overview is None:
                opened.overview = opened.slide.thumbnail(_OVERVIEW_PX)[0]
        height, width = opened.overview.shape[:2]
        across, down = width / summary.bounds_width, height / summary.bounds_height
        left, top, right, bottom = region
        rows = slice(int(top * down), max(int(top * down) + 1, math.ceil(bottom * down)))
        columns = slice(int(left * across), max(int(left * across) + 1, math.ceil(right * across)))
        return shrink(opened.overview[rows, columns], *size)


def pyramid_of(summary: SlideSummary) -> Pyramid:
    """Return the pyramid over the scanned area of a slide."""
    return Pyramid(summary.bounds_width, summary.bounds_height)
