"""Writer of MIRAX slides as 3DHISTECH scanners write them, from any source of pixels.

The camera takes overlapping photos at positions that jitter around a grid; a position buffer states the actual
positions. A photo is cut into tiles. Every coarser level halves the tiles and joins four of them edge to edge,
including overlaps, so that a coarse tile is a patchwork of photos and the reader moves the pieces to their positions.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from fossilray.core.atomic_files import write_atomically, write_new
from fossilray.core.errors import ConfigError
from fossilray.synthetic.writers.mirax_files import (
    INDEX_FILE,
    SLIDEDAT_FILE,
    DataFiles,
    TileIndex,
    position_buffer,
    slidedat_bytes,
)
from fossilray.synthetic.writers.mirax_plan import MiraxOptions, MiraxScanGrid, plan_grid
from fossilray.synthetic.writers.pixels import PixelSource, padded_region, scanned
from fossilray.synthetic.writers.pyramid import PyramidBuilder

__all__ = ["MiraxLayout", "MiraxOptions", "write_mirax"]

_THUMBNAIL_PX = 512


@dataclass(frozen=True, kw_only=True)
class MiraxLayout:
    """Position of the source on the slide, in px of OpenSlide's level-0 frame.

    offset_x, offset_y: position of the source's (0, 0).
    width, height: of the canvas, level 0.
    bounds_x, bounds_y, bounds_width, bounds_height: scanned area, as OpenSlide reports it; all 0 if nothing was
        scanned.
    photos: number of photos stored.
    files: all files of the slide, the .mrxs first.
    """

    offset_x: int
    offset_y: int
    width: int
    height: int
    levels: int
    bounds_x: int
    bounds_y: int
    bounds_width: int
    bounds_height: int
    photos: int
    files: tuple[Path, ...]


def write_mirax(path: Path, source: PixelSource, options: MiraxOptions) -> MiraxLayout:
    """Write NAME.mrxs and the folder NAME beside it, and return the position of the source on the slide.

    Level 0 shows the source unchanged apart from JPEG. Up to jitter_px at the rim of the source may stay unscanned,
    as a jagged edge. A source smaller than one photo is padded with the background. Each photo is read from the
    source once, row by row. The .mrxs is written last: without it, the folder is no slide to any reader. Equal
    source, options and names give equal bytes.

    Raises:
        ConfigError: the name does not end in .mrxs.
    """
    if path.suffix != ".mrxs":
        raise ConfigError(f"{path} cannot be a MIRAX slide; its name must end in .mrxs")
    rng = np.random.default_rng(options.seed)
    # Slides of one seed and several names are several scans.
    slide_id = hashlib.sha256(rng.bytes(16) + path.stem.encode()).hexdigest()[:32].upper()
    grid = plan_grid(source, options, rng)
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    for stale in folder.glob("Data????.dat"):
        stale.unlink()

    index = TileIndex(grid.levels)
    with DataFiles(folder, slide_id) as data_files:
        scan = _scan(source, options, grid, index, data_files)
        records = [data_files.append(scan.thumbnail)]
        if options.layout == "overlapping":
            records.append(data_files.append(position_buffer(grid)))
    write_new(folder / INDEX_FILE, index.to_bytes(slide_id, records))
    write_new(
        folder / SLIDEDAT_FILE,
        slidedat_bytes(
            grid,
            options,
            name=path.stem,
            slide_id=slide_id,
            thumbnail_size=scan.thumbnail_size,
            data_paths=data_files.paths,
        ),
    )
    write_atomically(path, scan.thumbnail, durable=False)

    left, top, right, bottom = scan.bounds or (0, 0, 0, 0)
    return MiraxLayout(
        offset_x=grid.offset_x,
        offset_y=grid.offset_y,
        width=grid.width,
        height=grid.height,
        levels=grid.levels,
        bounds_x=left,
        bounds_y=top,
        bounds_width=right - left,
        bounds_height=bottom - top,
        photos=scan.photos,
        files=(path, folder / SLIDEDAT_FILE, folder / INDEX_FILE, *data_files.paths),
    )


@dataclass
class _Scan:
    """Result of a pass over all photos, apart from the tiles; bounds: left, top, right, bottom, level-0 px."""

    thumbnail: bytes = b""
    thumbnail_size: tuple[int, int] = (0, 0)
    photos: int = 0
    bounds: tuple[int, int, int, int] | None = None


def _scan(
    source: PixelSource,
    options: MiraxOptions,
    grid: MiraxScanGrid,
    index: TileIndex,
    data_files: DataFiles,
) -> _Scan:
    divisions, tile_px = options.divisions_per_side, options.tile_px
    images_across = grid.columns * divisions

    def store(level: int, column: int, row: int, pixels: NDArray[np.uint8]) -> None:
        stored = data_files.append(_jpeg(pixels, options.jpeg_quality))
        index.add(level, (row * images_across + column) << level, stored)

    pyramid = PyramidBuilder(
        columns=images_across,
        rows=grid.rows * divisions,
        levels=grid.levels,
        tile_px=tile_px,
        fill=options.background_rgb,
        sink=store,
    )
    scan = _Scan()
    thumbnail = _Thumbnail(grid, options)
    for photo_row, photo_column in np.ndindex(grid.rows, grid.columns):
        if grid.file_of_row(photo_row, options.data_files) == len(data_files.paths):
            data_files.start_file()
        x, y = grid.position(photo_column, photo_row)
        photo = _take_photo(source, options, grid, photo_column, photo_row)
        if photo is not None:
            scan.photos += 1
            thumbnail.draw(photo, x, y)
        for tile_row, tile_column in np.ndindex(divisions, divisions):
            left, top = tile_column * tile_px, tile_row * tile_px
            tile: NDArray[np.uint8] | None = None
            # Tiles completely beyond the source are left out.
            if (
                photo is not None
                and x + left < grid.offset_x + source.width
                and y + top < grid.offset_y + source.height
            ):
                tile = photo[top : top + tile_px, left : left + tile_px]
                scan.bounds = _with_tile(scan.bounds, x + left, y + top, tile_px)
            pyramid.add(photo_column * divisions + tile_column, photo_row * divisions + tile_row, tile)
    scan.thumbnail = _jpeg(thumbnail.pixels, options.jpeg_quality)
    scan.thumbnail_size = (thumbnail.pixels.shape[1], thumbnail.pixels.shape[0])
    return scan


def _take_photo(
    source: PixelSource, options: MiraxOptions, grid: MiraxScanGrid, column: int, row: int
) -> NDArray[np.uint8] | None:
    """Return the photo at one position of the grid; None where nothing is scanned."""
    if not grid.is_inside_margins(column, row):
        return None
    x, y = grid.position(column, row)
    x, y = x - grid.offset_x, y - grid.offset_y
    side = options.photo_px
    if not scanned(source, x, y, side, side):
        return None
    return padded_region(source, x, y, side, side, fill=options.background_rgb)


def _with_tile(
    bounds: tuple[int, int, int, int] | None, x: int, y: int, side: int
) -> tuple[int, int, int, int]:
    if bounds is None:
        return x, y, x + side, y + side
    left, top, right, bottom = bounds
    return min(left, x), min(top, y), max(right, x + side), max(bottom, y + side)


class _Thumbnail:
    """Thumbnail of the whole canvas, at most 512 px a side, drawn photo by photo."""

    def __init__(self, grid: MiraxScanGrid, options: MiraxOptions) -> None:
        self._scale = min(1.0, _THUMBNAIL_PX / max(grid.width, grid.height))
        shape = (max(1, self._scaled(grid.height)), max(1, self._scaled(grid.width)), 3)
        self.pixels: NDArray[np.uint8] = np.full(shape, options.background_rgb, dtype=np.uint8)

    def draw(self, photo: NDArray[np.uint8], x: int, y: int) -> None:
        left, top = self._scaled(x), self._scaled(y)
        right = max(self._scaled(x + photo.shape[1]), left + 1)
        bottom = max(self._scaled(y + photo.shape[0]), top + 1)
        target = self.pixels[top:bottom, left:right]
        small = cv2.resize(photo, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
        target[...] = small[: target.shape[0], : target.shape[1]]

    def _scaled(self, level0_px: int) -> int:
        return round(level0_px * self._scale)


def _jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    contiguous = np.ascontiguousarray(pixels)
    encoded: bytes = simplejpeg.encode_jpeg(contiguous, quality, "RGB", "420", False)
    return encoded
