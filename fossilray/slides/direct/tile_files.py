"""Stored JPEG tiles of a slide's data files: decoding, and detection of damaged ones.

libjpeg decodes corrupt data to some image and reports a warning, which OpenSlide ignores. Here such a tile is damaged.
A changed byte shows as a code that does not exist, or as too many or too few codes before the end of the data; one
that leaves as many valid codes shows nowhere.
"""

from __future__ import annotations

import os
import re
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeAlias

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from fossilray.core.types import Image
from fossilray.slides.direct.compositing import compose_window
from fossilray.slides.direct.tile_cache import TileCache
from fossilray.slides.tile_layout import LevelLayout, SlideLayout

# A row of tiles of 256 px across 80,000 px, or 5 windows of 2048 px.
_CACHE_BYTES = 64 << 20
# Entropy-coded data are smaller than the pixels, but for noise at quality 100.
_MOST_BYTES_A_PIXEL = 4
_HEADERS_BYTES = 1 << 17

_START = b"\xff\xd8"
# Messages of libjpeg (jerror.h) about corrupt entropy-coded data.
_DAMAGE = ("Corrupt JPEG data", "Premature end of JPEG file", "Inconsistent progression sequence")
_PADDED = re.compile(r"Corrupt JPEG data: [0-9]+ extraneous bytes before marker 0xd9")
# Tiles of a level that show whether its writer pads all of them.
_SAMPLED = 9
# Writers may store a blank tile once for many cells; its pixels differ by no more (grey levels) in any colour.
_BLANK_RANGE = 24
# A coarser level is compared this far (px of it) inside a tile, where neighbours do not bleed in.
_MARGIN_PX = 2
# Skips nearly all work but that of the entropy decoder, which finds the damage.
_REDUCED = 8

_Decode: TypeAlias = Callable[[bytes, bool], Image]


class UndecodableTile(Exception):
    """Raised for a tile that only OpenSlide can decode, or that cannot be decoded at all."""


class DamagedTile(Exception):
    """Raised for a tile that decodes to an image, but not to its own; level and number identify it."""

    def __init__(self, level: int, number: int, why: str) -> None:
        super().__init__(why)
        self.level, self.number = level, number


class TileFiles:
    """Open files of a slide; they close with the last reference. Any number of threads may call it.

    Raises:
        OSError: a file cannot be read.
    """

    def __init__(self, layout: SlideLayout) -> None:
        self.levels = layout.levels
        self._cache = TileCache(_CACHE_BYTES)
        self._scratch = threading.local()
        self._shared = _sharing_tiles(layout.levels)
        self._padded: dict[int, bool] = {}
        self._sound: dict[int, NDArray[np.bool_]] = {}
        self._files: list[int] = []
        weakref.finalize(self, _close_all, self._files)
        for file in layout.files:
            self._files.append(os.open(file, os.O_RDONLY))

    def tile(self, level: LevelLayout, number: int, is_last_use: bool) -> Image:
        """Return the pixels of a stored tile, (h, w, 3), which must not be written to.

        is_last_use: the tile is not cached, and its pixels may be overwritten by this thread's next call.

        Raises:
            UndecodableTile, DamagedTile: there are none.
        """
        key = level.number, number
        if not is_last_use:
            return self._cache.get(key, lambda: self._decode(level, number, _empty_tile(level)))
        kept = self._cache.look_up(key)
        return self._decode(level, number, self._scratch_of(level)) if kept is None else kept

    def check(self, level: LevelLayout, number: int) -> None:
        """Check a stored tile that OpenSlide is to decode; each is checked once, at a fraction of the time of decoding.

        Raises:
            DamagedTile: OpenSlide would return another image than the tile's.
        """
        sound = self._known_sound(level)
        if not sound[number]:
            with suppress(UndecodableTile):  # OpenSlide reports it
                self._decode_strictly(level, number, self._content(level, number), _reduced(level))
            sound[number] = True

    def _scratch_of(self, level: LevelLayout) -> Image:
        """Return a buffer of this thread for one tile; new memory for every tile would cost as much as decoding."""
        scratch: Image | None = getattr(self._scratch, "tile", None)
        if scratch is None or scratch.shape[:2] != (level.tiles.height, level.tiles.width):
            scratch = self._scratch.tile = _empty_tile(level)
        return scratch

    def _decode(self, level: LevelLayout, number: int, pixels: Image) -> Image:
        """Decode a tile into `pixels`; a fixed buffer limits the memory that a JPEG header can claim."""

        def decode(content: bytes, is_strict: bool) -> Image:
            if level.tiles.decode is not None:
                return level.tiles.decode(content, pixels, is_strict)
            decoded: Image = simplejpeg.decode_jpeg(content, "RGB", buffer=pixels, strict=is_strict)
            return decoded

        decoded = self._decode_strictly(level, number, self._content(level, number), decode)
        if decoded.shape != pixels.shape:
            raise UndecodableTile
        return decoded

    def _content(self, level: LevelLayout, number: int) -> bytes:
        """Return a tile as a complete JPEG, undecoded."""
        tiles = level.tiles
        length = int(tiles.length[number])
        if length > tiles.width * tiles.height * _MOST_BYTES_A_PIXEL + _HEADERS_BYTES:
            raise UndecodableTile
        try:
            content = os.pread(self._files[tiles.file[number]], length, int(tiles.offset[number]))
            if tiles.decode is not None:
                return content
            if not content.startswith(_START):
                raise DamagedTile(level.number, number, "it is no JPEG")
            return content if tiles.as_jpeg is None else tiles.as_jpeg(content)
        except (OSError, ValueError):
            raise UndecodableTile from None

    def _decode_strictly(self, level: LevelLayout, number: int, content: bytes, decode: _Decode) -> Image:
        try:
            pixels = decode(content, True)
        except ValueError as error:
            why = str(error)
            if not why.startswith(_DAMAGE):
                raise UndecodableTile from None
            if not (_PADDED.match(why) and self._is_padded(level)):
                raise DamagedTile(level.number, number, why) from None
            pixels = decode(content, False)
        shared = self._shared.get(level.number)
        if shared is not None and shared[number] and not self._known_sound(level)[number]:
            if not self._is_blank(level, number, pixels):
                raise DamagedTile(level.number, number, "it lies where another tile lies")
            self._known_sound(level)[number] = True
        return pixels

    def _known_sound(self, level: LevelLayout) -> NDArray[np.bool_]:
        """Return a mask of the tiles of a level that have been checked."""
        if level.number not in self._sound:
            self._sound[level.number] = np.zeros(len(level.tiles.length), np.bool_)
        return self._sound[level.number]

    def _is_blank(self, level: LevelLayout, number: int, pixels: Image) -> bool:
        """Return whether a tile is of one colour and a coarser level, where there is one, shows the same there."""
        if _range_of(pixels) > _BLANK_RANGE:
            return False
        coarser = next((other for other in self.levels[level.number + 1 :] if other is not None), None)
        pieces = level.pieces
        first, last = np.searchsorted(pieces.tile, [number, number + 1])
        if coarser is None:
            return True
        scale = level.downsample / coarser.downsample
        size = int(pieces.width * scale) - 2 * _MARGIN_PX, int(pieces.height * scale) - 2 * _MARGIN_PX
        if min(size) < 1:
            return True
        for piece in range(first, last):
            left, top = (
                int(corner[piece] * level.downsample + _MARGIN_PX * coarser.downsample)
                for corner in (pieces.left, pieces.top)
            )
            try:
                shown, alpha = compose_window(coarser, partial(self.tile, coarser), left, top, *size)
            except (UndecodableTile, DamagedTile):
                continue
            if alpha.min() < 255:
                continue
            is_same = np.abs(shown.mean(axis=(0, 1)) - pixels.mean(axis=(0, 1))).max() <= _BLANK_RANGE
            if not is_same or _range_of(shown) > _BLANK_RANGE:
                return False
        return True

    def _is_padded(self, level: LevelLayout) -> bool:
        """Return whether the writer of a level pads the data of its JPEGs, so that padding is no sign of damage."""
        if level.number not in self._padded:
            count = len(level.tiles.length)
            sample = sorted(set(np.linspace(0, count - 1, min(_SAMPLED, count)).round().astype(int).tolist()))
            padded = 0
            for number in sample:
                with suppress(UndecodableTile, DamagedTile):
                    why = _why_damaged(self._content(level, number), _reduced(level))
                    padded += why is not None and _PADDED.match(why) is not None
            self._padded[level.number] = padded > len(sample) / 2
        return self._padded[level.number]


def _reduced(level: LevelLayout) -> _Decode:
    def decode(content: bytes, is_strict: bool) -> Image:
        # The header first: it may claim any size.
        height, width, _, _ = simplejpeg.decode_jpeg_header(content)
        if (height, width) != (level.tiles.height, level.tiles.width):
            raise UndecodableTile
        pixels: Image = simplejpeg.decode_jpeg(
            content, "RGB", min_height=1, min_width=1, min_factor=_REDUCED, strict=is_strict
        )
        return pixels

    return decode


def _why_damaged(content: bytes, decode: _Decode) -> str | None:
    try:
        decode(content, True)
    except ValueError as error:
        return str(error)
    return None


def _range_of(pixels: Image) -> int:
    colours = pixels.reshape(-1, 3)
    return int((colours.max(axis=0) - colours.min(axis=0)).max())


def _sharing_tiles(levels: Sequence[LevelLayout | None]) -> dict[int, NDArray[np.bool_]]:
    """Return, by level, a mask of the tiles that are stored where another tile of any level is; empty without any."""
    known = [level for level in levels if level is not None]
    if not known:
        return {}
    files, offsets = (
        np.concatenate([getattr(level.tiles, column) for level in known]) for column in ("file", "offset")
    )
    order = np.lexsort((offsets, files))
    is_same = (np.diff(files[order]) == 0) & (np.diff(offsets[order]) == 0)
    if not is_same.any():
        return {}
    mask = np.zeros(len(files), np.bool_)
    mask[order[:-1]] |= is_same
    mask[order[1:]] |= is_same
    ends = np.cumsum([len(level.tiles.offset) for level in known])[:-1]
    return {level.number: part for level, part in zip(known, np.split(mask, ends), strict=True) if part.any()}


def _empty_tile(level: LevelLayout) -> Image:
    return np.empty((level.tiles.height, level.tiles.width, 3), np.uint8)


def _close_all(files: list[int]) -> None:
    for file in files:
        os.close(file)
