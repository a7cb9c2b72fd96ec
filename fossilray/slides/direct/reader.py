"""Direct reader of a slide's pixels: supported formats, comparison with OpenSlide, and refusal of damaged tiles."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import UnreadableRegion
from fossilray.core.types import Image, SlideInfo
from fossilray.slides.direct.compositing import Alpha, compose_window, touched_tiles
from fossilray.slides.direct.tile_files import DamagedTile, TileFiles, UndecodableTile
from fossilray.slides.mirax.layout import read_mirax_layout
from fossilray.slides.tiff.layout import read_tiff_layout
from fossilray.slides.tile_layout import LevelLayout, SlideLayout


def _mirax_layout(info: SlideInfo) -> SlideLayout:
    return read_mirax_layout(Path(info.path))


def _tiff_layout(info: SlideInfo) -> SlideLayout:
    return read_tiff_layout(Path(info.path), info.levels)


LAYOUTS: dict[str, Callable[[SlideInfo], SlideLayout]] = {
    "mirax": _mirax_layout,
    "generic-tiff": _tiff_layout,
    "aperio": _tiff_layout,
}
"""By the vendor: the layout of a slide. Each raises OSError or ValueError where it is not as known."""


Reference: TypeAlias = Callable[[int, int, int, int, int], NDArray[np.uint32]]
"""OpenSlide's premultiplied ARGB of level, x, y, width, height; raises UnreadableRegion."""


_log = logging.getLogger(__name__)


_COMPARED_PX = 72


class DirectReader:
    """Reader of the pixels of one slide without OpenSlide, for any number of threads; files open at the first read.

    A level is read directly only if test regions equal those that `reference` reads. Regions that are left to
    OpenSlide are checked for damaged tiles. reference: None: all regions are left to OpenSlide. regions: number read
    directly.
    """

    def __init__(self, info: SlideInfo, reference: Reference | None) -> None:
        self._info = info
        self._reference = reference
        self._lock = threading.Lock()
        self._opened: TileFiles | None = None
        self._is_over = info.vendor not in LAYOUTS
        self._trusted: dict[int, LevelLayout | None] = {}
        self._damaged: set[tuple[int, int]] = set()
        self._left = 0
        self.regions = 0

    @property
    def damaged_tiles(self) -> int:
        """Number of stored tiles that were read and found damaged."""
        return len(self._damaged)

    def read(
        self, level: int, x: int, y: int, width: int, height: int, *, is_counted: bool = True
    ) -> tuple[Image, Alpha] | None:
        """Return premultiplied RGB (h, w, 3) and coverage (h, w) of a region; None if OpenSlide must read it.

        x, y: level-0 px of the top left corner; width, height: px of the level. is_counted: in `regions`.

        Raises:
            UnreadableRegion: a stored tile there is damaged.
        """
        pixels = None
        with self._lock:
            opened = self._open()
            if opened is not None and level not in self._trusted:
                self._trusted[level] = self._proven(opened, level)
            trusted = self._trusted.get(level)
        try:
            if opened is not None and trusted is not None:
                with suppress(UndecodableTile):
                    pixels = compose_window(trusted, partial(opened.tile, trusted), x, y, width, height)
            if opened is not None and pixels is None:
                _check_tiles(opened, level, x, y, width, height)
        except DamagedTile as error:
            with self._lock:
                self._damaged.add((error.level, error.number))
            raise UnreadableRegion(
                f"{Path(self._info.path).name}: level {level} cannot be decoded at ({x}, {y}): a stored tile is "
                f"damaged ({error}); copy the slide again if its source is sound"
            ) from None
        if is_counted:
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

    def _open(self) -> TileFiles | None:
        """Return the open files, opened now at the first call; None if the slide has no known layout.

        The caller holds the lock.
        """
        if self._opened is None and not self._is_over:
            try:
                self._opened = _open_files(self._info)
            except (OSError, ValueError) as error:
                self._is_over = True
                _log.info("%s is left to OpenSlide: %s", self._info.path, error)
        return self._opened

    def _proven(self, opened: TileFiles, number: int) -> LevelLayout | None:
        """Return the level if its test regions equal OpenSlide's, bit for bit; else None."""
        level_layout = opened.levels[number] if 0 <= number < len(opened.levels) else None
        if level_layout is None or self._reference is None:
            return None
        agreed = 0
        for region in _comparison_regions(level_layout):
            try:
                rgb, alpha = compose_window(level_layout, partial(opened.tile, level_layout), *region)
                argb = self._reference(number, *region)
            except (UndecodableTile, DamagedTile, UnreadableRegion):
                continue
            theirs = argb.view(np.uint8).reshape(*argb.shape, 4)
            if not (np.array_equal(theirs[..., 2::-1], rgb) and np.array_equal(theirs[..., 3], alpha)):
                agreed = 0
                break
            agreed += 1
        who = "directly" if agreed else "by OpenSlide"
        _log.info("%s: level %d is read %s", self._info.path, number, who)
        return level_layout if agreed else None


def _open_files(info: SlideInfo) -> TileFiles:
    """Open the files of a slide.

    Raises:
        OSError: a file cannot be read.
        ValueError: the slide has an unknown layout.
    """
    layout = LAYOUTS[info.vendor](info)
    known = [level.downsample for level in info.levels]
    if len(layout.levels) != len(known) or any(
        level is not None and level.downsample != known[number] for number, level in enumerate(layout.levels)
    ):
        raise ValueError("its levels are not those that OpenSlide sees")
    return TileFiles(layout)


def _check_tiles(opened: TileFiles, level: int, x: int, y: int, width: int, height: int) -> None:
    """Check the stored tiles of a region that OpenSlide is to read.

    Raises:
        DamagedTile: one of them is.
    """
    stored = opened.levels[level] if 0 <= level < len(opened.levels) else None
    if stored is not None:
        for number in touched_tiles(stored, x, y, width, height):
            opened.check(stored, number)


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
