"""Options of a MIRAX scan and the positions of its photos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import ConfigError
from fossilray.synthetic.writers.pixels import PixelSource
from fossilray.synthetic.writers.pyramid import levels_down_to

_COARSEST_PX = 512


@dataclass(frozen=True, kw_only=True)
class MiraxOptions:
    """Options of the scanner.

    photo_px: side of a camera photo in level-0 px; a photo is cut into divisions_per_side^2 tiles.
    overlap_px: minimum nominal overlap of neighbours; it is increased so that photos just cover the source.
    jitter_px: largest distance of a photo from its nominal position along x and y; at most half the overlap.
    margin_photos: empty rows and columns of the grid around the scanned part.
    levels: number of levels; None for as many as reduce the longer side to 512 px.
    layout: "aligned" has neither overlap nor jitter nor a position buffer.
    data_files: number of files over which photos are distributed by rows (fewer if there are fewer rows, more if a
        file would exceed 1.9 GB).

    Raises:
        ConfigError: an option is out of range.
    """

    mpp: float = 0.25
    levels: int | None = None
    photo_px: int = 1024
    divisions_per_side: int = 4
    overlap_px: int = 40
    jitter_px: int = 8
    margin_photos: int = 2
    layout: Literal["overlapping", "aligned"] = "overlapping"
    data_files: int = 4
    jpeg_quality: int = 80
    background_rgb: tuple[int, int, int] = (226, 222, 219)
    seed: int = 0

    def __post_init__(self) -> None:
        divisions = self.divisions_per_side
        if divisions < 1 or divisions & (divisions - 1):
            raise ConfigError(f"divisions_per_side is {divisions}; it must be a power of two")
        if self.photo_px <= 0 or self.photo_px % (2 * divisions):
            raise ConfigError(
                f"photo_px is {self.photo_px}; it must be a multiple of {2 * divisions}, so that "
                f"{divisions} tiles of an even width make a photo"
            )
        if not 0 <= 2 * self.jitter_px <= self.overlap_px < self.photo_px:
            raise ConfigError(
                f"overlap_px is {self.overlap_px} and jitter_px {self.jitter_px}; photos leave no "
                f"gap only if 2 * jitter_px <= overlap_px < photo_px = {self.photo_px}"
            )
        if self.margin_photos < 0 or self.data_files < 1 or self.mpp <= 0:
            raise ConfigError(
                f"margin_photos is {self.margin_photos}, data_files {self.data_files}, mpp "
                f"{self.mpp}; they must be at least 0, at least 1 and above 0"
            )
        if self.levels is not None and not 1 <= self.levels <= 16:
            raise ConfigError(f"levels is {self.levels}; expected 1 to 16, or None")

    @property
    def tile_px(self) -> int:
        """Side of a stored tile, px."""
        return self.photo_px // self.divisions_per_side


@dataclass(frozen=True)
class MiraxScanGrid:
    """Grid of photos over the whole canvas, margins included; lengths in level-0 px.

    step_x, step_y: nominal distance of neighbours; their overlap is the side of a photo minus this.
    offset_x, offset_y: position of the source on the canvas. width, height: of the canvas.
    positions: rows x columns x 2, x and y of each photo on the canvas.
    """

    columns: int
    rows: int
    step_x: int
    step_y: int
    offset_x: int
    offset_y: int
    width: int
    height: int
    levels: int
    margin: int
    positions: NDArray[np.int32]

    def position(self, column: int, row: int) -> tuple[int, int]:
        """Return the position of a photo, x and y on the canvas, level-0 px."""
        x, y = self.positions[row, column]
        return int(x), int(y)

    def is_inside_margins(self, column: int, row: int) -> bool:
        """Return whether a photo is inside the margins, so that it may be scanned."""
        first = self.margin
        return first <= column < self.columns - first and first <= row < self.rows - first

    def file_of_row(self, row: int, data_files: int) -> int:
        """Return the number of the data file for the photos of a row; margins belong to the nearest scanned row."""
        scan_rows = self.rows - 2 * self.margin
        scan_row = min(max(row - self.margin, 0), scan_rows - 1)
        return scan_row * min(data_files, scan_rows) // scan_rows


def plan_grid(source: PixelSource, options: MiraxOptions, rng: np.random.Generator) -> MiraxScanGrid:
    """Arrange photos over the source and its margins, and jitter those inside the margins."""
    overlap_px = options.overlap_px if options.layout == "overlapping" else 0
    jitter_px = options.jitter_px if options.layout == "overlapping" else 0
    photo, margin = options.photo_px, options.margin_photos
    scan_columns, step_x = _cover(source.width, photo, overlap_px)
    scan_rows, step_y = _cover(source.height, photo, overlap_px)
    columns, rows = scan_columns + 2 * margin, scan_rows + 2 * margin
    width, height = photo + (columns - 1) * step_x, photo + (rows - 1) * step_y

    x = np.arange(columns) * step_x
    y = np.arange(rows) * step_y
    positions = np.stack(np.meshgrid(x, y), axis=-1).astype(np.int32)
    inside = positions[margin : margin + scan_rows, margin : margin + scan_columns]
    inside += rng.integers(-jitter_px, jitter_px + 1, size=inside.shape, dtype=np.int32)
    if overlap_px:
        # The stage stops at the rim of the source.
        offset = np.array([margin * step_x, margin * step_y], dtype=np.int32)
        reach = np.array([source.width, source.height], dtype=np.int32) - photo
        np.clip(inside, offset, offset + np.maximum(reach, 0), out=inside)
    return MiraxScanGrid(
        columns=columns,
        rows=rows,
        step_x=step_x,
        step_y=step_y,
        offset_x=margin * step_x,
        offset_y=margin * step_y,
        width=width,
        height=height,
        levels=options.levels or levels_down_to(width, height, coarsest_px=_COARSEST_PX),
        margin=margin,
        positions=positions,
    )


def _cover(extent_px: int, photo_px: int, overlap_px: int) -> tuple[int, int]:
    """Return the number of photos that cover an extent with at least this overlap, and their distance in px."""
    if extent_px <= photo_px:
        return 1, photo_px - overlap_px
    count = -(-(extent_px - overlap_px) // (photo_px - overlap_px))
    if overlap_px == 0:
        return count, photo_px
    return count, -(-(extent_px - photo_px) // (count - 1))
