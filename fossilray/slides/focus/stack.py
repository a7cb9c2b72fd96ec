"""Pixels of the focus planes of a TIFF, decoded tile by tile, as OpenSlide would give them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fossilray.core.types import Image, Level
from fossilray.slides.direct.compositing import Alpha, compose_window
from fossilray.slides.direct.tile_files import DamagedTile, TileFiles, UndecodableTile
from fossilray.slides.focus.decoders import tile_decoder
from fossilray.slides.focus.directories import PlaneDirectories, find_planes
from fossilray.slides.focus.ndpi import arrange_ndpi_level
from fossilray.slides.pixel_handle import UndecodableRegion
from fossilray.slides.tiff.directories import TiffDirectory
from fossilray.slides.tiff.layout import arrange_level
from fossilray.slides.tiff.pixel_format import NDPI_FLAG
from fossilray.slides.tile_layout import LevelLayout, SlideLayout


class FocusStack:
    """Focus planes of one slide, for any number of threads; files close with the last reference.

    All planes share one cache of decoded tiles. planes: their number. levels: of every plane. reference: the plane that
    OpenSlide reads.
    """

    def __init__(self, files: TileFiles, levels: tuple[Level, ...], planes: int, reference: int) -> None:
        self.levels = levels
        self.planes = planes
        self.reference = reference
        self._files = files

    def read(self, plane: int, level: int, x: int, y: int, width: int, height: int) -> tuple[Image, Alpha]:
        """Return premultiplied RGB (height, width, 3) and coverage (height, width) of one plane.

        x, y: level-0 px of the top left corner; width, height: px of the level.

        Raises:
            UndecodableRegion: a stored tile there is damaged.
        """
        layout = self._files.levels[level * self.planes + plane]
        assert layout is not None
        try:
            return compose_window(layout, partial(self._files.tile, layout), x, y, width, height)
        except (DamagedTile, UndecodableTile) as error:
            raise UndecodableRegion(
                str(error) or f"a tile of focus plane {plane} cannot be decoded"
            ) from None


def open_stack(path: Path) -> FocusStack | None:
    """Open the focus planes of a TIFF; None if it has one plane, or planes in a format that cannot be read.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        directories = find_planes(path, file)
        if directories is None:
            return None
        levels = _levels(directories)
        try:
            layouts = _arrange(directories, levels, file)
        except (ValueError, KeyError, struct.error, OverflowError):
            return None
    return FocusStack(
        TileFiles(SlideLayout((path,), layouts)), levels, len(directories.planes), directories.reference
    )


def has_readable_planes(path: Path) -> bool:
    """Whether the focus planes of a slide can be read; False if it has one."""
    try:
        return open_stack(path) is not None
    except OSError:
        return False


def _levels(directories: PlaneDirectories) -> tuple[Level, ...]:
    width, height = directories.sizes[0]
    return tuple(
        Level(across, down, (width / across + height / down) / 2) for across, down in directories.sizes
    )


def _arrange(
    directories: PlaneDirectories, levels: Sequence[Level], file: BinaryIO
) -> tuple[LevelLayout, ...]:
    """Return all levels of all planes; the planes of one level follow each other, so that numbers are unique."""
    arranged: list[LevelLayout] = []
    for number, level in enumerate(levels):
        first: LevelLayout | None = None
        for plane in directories.planes:
            layout = _arrange_one(len(arranged), level, plane[number], file)
            if first is not None and _has_pieces_of(layout, first):
                layout = first.with_tiles(layout.number, layout.tiles)
            first = first or layout
            arranged.append(layout)
    return tuple(arranged)


def _arrange_one(number: int, level: Level, directory: TiffDirectory, file: BinaryIO) -> LevelLayout:
    if NDPI_FLAG in directory.tags:
        return arrange_ndpi_level(number, level, directory, file)
    return arrange_level(number, level, directory, decode=tile_decoder(directory))


def _has_pieces_of(layout: LevelLayout, other: LevelLayout) -> bool:
    return (layout.pieces.width, layout.pieces.height) == (other.pieces.width, other.pieces.height) and all(
        np.array_equal(getattr(layout.pieces, axis), getattr(other.pieces, axis))
        for axis in ("column", "row")
    )
