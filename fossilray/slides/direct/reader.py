"""Direct reader of a slide's pixels: supported formats, comparison with OpenSlide, and decoding of tiles."""

from __future__ import annotations

import logging
import math
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from fossilray.core.errors import UnreadableRegion
from fossilray.core.types import Image, SlideInfo
from fossilray.slides.direct.compositing import Alpha, compose_window
from fossilray.slides.direct.tile_cache import TileCache
from fossilray.slides.mirax.layout import read_mirax_layout
from fossilray.slides.tiff.layout import read_tiff_layout
from fossilray.slides.tile_layout import LevelLayout, SlideLayout


def _mirax_layout(info: SlideInfo) -> SlideLayout:
    return read_mirax_layout(Path(info.path))


def _tiff_layout(info: SlideInfo) -> SlideLayout:
    return read_tiff_layout(Path(info.path), info.levels, are_gaps_empty=True)


def _aperio_layout(info: SlideInfo) -> SlideLayout:
    # OpenSlide fills missing tiles from the next coarser level.
    return read_tiff_layout(Path(info.path), info.levels, are_gaps_empty=False)


LAYOUTS: dict[str, Callable[[SlideInfo], SlideLayout]] = {
    "mirax": _mirax_layout,
    "generic-tiff": _tiff_layout,
    "aperio": _aperio_layout,
}
"""By the vendor: the layout of a slide. Each raises OSError or ValueError where it is not as known."""


Reference: TypeAlias = Callable[[int, int, int, int, int], NDArray[np.uint32]]
"""OpenSlide's premultiplied ARGB of level, x, y, width, height; raises UnreadableRegion."""


_log = logging.getLogger(__name__)


# A row of tiles of 256 px across 80,000 px, or 5 windows of 2048 px.
_CACHE_BYTES = 64 << 20


# Entropy-coded data are smaller than the pixels, but for noise at quality 100.
_MOST_BYTES_A_PIXEL = 4


_HEADERS_BYTES = 1 << 17


_COMPARED_PX = 72


class DirectReader:
    """Reader of the pixels of one slide without OpenSlide, for any number of threads; files open at the first read.

    A level is read directly only if test regions equal those that `reference` reads. regions: number read directly.
    """

    def __init__(self, info: SlideInfo, reference: Reference) -> None:
        self._info = info
        self._reference = reference
        self._lock = threading.Lock()
        self._opened: _OpenFiles | None = None
        self._is_over = info.vendor not in LAYOUTS
        self._trusted: dict[int, LevelLayout | None] = {}
        self._left = 0
        self.regions = 0

    def read(self, level: int, x: int, y: int, width: int, height: int) -> tuple[Image, Alpha] | None:
        """Return premultiplied RGB (h, w, 3) and coverage (h, w) of a region; None if OpenSlide must read it.

        x, y: level-0 px of the top left corner; width, height: px of the level.
        """
        pixels = None
        with self._lock:
            opened = self._open()
            if opened is not None and level not in self._trusted:
                self._trusted[level] = self._proven(opened, level)
            level_layout = self._trusted.get(level)
        if opened is not None and level_layout is not None:
            with suppress(_Undecodable):
                pixels = compose_window(level_layout, partial(opened.tile, level_layout), x, y, width, height)
        with self._lock:
            self.regions += pixels is not None
            self._left += pixels is None
        return pixels

    def close(self) -> None:
        """Close the files as soon as no thread reads from them."""
        with self._lock:
            if self._opened is not None:
                shown = Path(self._info.path).name
                _log.info("%s: %d regions read directly, %d by OpenSlide", shown, self.regions, self._left)
            self._is_over = True
            self._opened = None

    def _open(self) -> _OpenFiles | None:
        """Return the open files, opened now at the first call; None if the slide has no known layout.

        The caller holds the lock.
        """
        if self._opened is None and not self._is_over:
            try:
                self._opened = _OpenFiles(self._info)
            except (OSError, ValueError) as error:
                self._is_over = True
                _log.info("%s is left to OpenSlide: %s", self._info.path, error)
        return self._opened

    def _proven(self, opened: _OpenFiles, number: int) -> LevelLayout | None:
        """Return the level if its test regions equal OpenSlide's, bit for bit; else None."""
        level_layout = opened.levels[number] if 0 <= number < len(opened.levels) else None
        if level_layout is None:
            return None
        agreed = 0
        for region in _comparison_regions(level_layout):
            try:
                rgb, alpha = compose_window(level_layout, partial(opened.tile, level_layout), *region)
                argb = self._reference(number, *region)
            except (_Undecodable, UnreadableRegion):
                continue
            theirs = argb.view(np.uint8).reshape(*argb.shape, 4)
            if not (np.array_equal(theirs[..., 2::-1], rgb) and np.array_equal(theirs[..., 3], alpha)):
                agreed = 0
                break
            agreed += 1
        who = "directly" if agreed else "by OpenSlide"
        _log.info("%s: level %d is read %s", self._info.path, number, who)
        return level_layout if agreed else None


class _Undecodable(Exception):
    """Raised for a tile that only OpenSlide can decode, or that cannot be decoded at all."""


class _OpenFiles:
    """Levels (None where OpenSlide is needed) and open files of a slide; the files close with the last reference.

    Raises:
        OSError: a file cannot be read.
        ValueError: the slide has an unknown layout.
    """

    def __init__(self, info: SlideInfo) -> None:
        layout = LAYOUTS[info.vendor](info)
        known = [level.downsample for level in info.levels]
        if len(layout.levels) != len(known) or any(
            level is not None and level.downsample != known[number]
            for number, level in enumerate(layout.levels)
        ):
            raise ValueError("its levels are not those that OpenSlide sees")
        self.levels = layout.levels
        self._cache = TileCache(_CACHE_BYTES)
        self._scratch = threading.local()
        self._files: list[int] = []
        weakref.finalize(self, _close_all, self._files)
        for file in layout.files:
            self._files.append(os.open(file, os.O_RDONLY))

    def tile(self, level: LevelLayout, number: int, is_last_use: bool) -> Image:
        """Return the pixels of a stored tile, (h, w, 3), which must not be written to.

        is_last_use: the tile is not cached, and its pixels may be overwritten by this thread's next call.
        """
        key = level.number, number
        if not is_last_use:
            return self._cache.get(key, lambda: self._decode(level, number, _empty_tile(level)))
        kept = self._cache.look_up(key)
        return self._decode(level, number, self._scratch_of(level)) if kept is None else kept

    def _scratch_of(self, level: LevelLayout) -> Image:
        """Return a buffer of this thread for one tile; new memory for every tile would cost as much as decoding."""
        scratch: Image | None = getattr(self._scratch, "tile", None)
        if scratch is None or scratch.shape[:2] != (level.tiles.height, level.tiles.width):
            scratch = self._scratch.tile = _empty_tile(level)
        return scratch

    def _decode(self, level: LevelLayout, number: int, pixels: Image) -> Image:
        """Decode a tile into `pixels`; a fixed buffer limits the memory that a JPEG header can claim."""
        tiles = level.tiles
        length = int(tiles.length[number])
        if length > tiles.width * tiles.height * _MOST_BYTES_A_PIXEL + _HEADERS_BYTES:
            raise _Undecodable
        try:
            content = os.pread(self._files[tiles.file[number]], length, int(tiles.offset[number]))
            if tiles.as_jpeg is not None:
                content = tiles.as_jpeg(content)
            decoded: Image = simplejpeg.decode_jpeg(content, "RGB", buffer=pixels)
        except (OSError, ValueError):
            raise _Undecodable from None
        if decoded.shape != pixels.shape:
            raise _Undecodable
        return decoded


def _empty_tile(level: LevelLayout) -> Image:
    return np.empty((level.tiles.height, level.tiles.width, 3), np.uint8)


def _close_all(files: list[int]) -> None:
    for file in files:
        os.close(file)


def _comparison_regions(level: LevelLayout) -> Iterator[tuple[int, int, int, int]]:
    """Yield regions to compare, as corner in level-0 px and size in px of the level.

    They are at a seam and inside a piece: of the tile with most bytes, of a middle one and of the first.
    """
    pieces = level.pieces
    fullest = int(np.argmax(level.tiles.length[pieces.tile]))
    for piece in (fullest, len(pieces.tile) // 2, 0):
        left, top = float(pieces.left[piece]), float(pieces.top[piece])
        seam_x, seam_y = left + pieces.width - _COMPARED_PX // 2, top + pieces.height - _COMPARED_PX // 2
        within_x, within_y = left + pieces.width / 4, top + pieces.height / 4
        # The first is at whole px of the level if its downsample is whole, the second between them.
        yield (
            math.floor(math.floor(seam_x) * level.downsample),
            math.floor(math.floor(seam_y) * level.downsample),
            _COMPARED_PX,
            _COMPARED_PX,
        )
        yield (
            math.floor(within_x * level.downsample) + 1,
            math.floor(within_y * level.downsample) + 1,
            max(1, pieces.width // 2),
            max(1, pieces.height // 2),
        )
