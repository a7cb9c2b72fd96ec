"""Metadata of a MIRAX slide from Slidedat.ini and Index.dat, without its pixels.

Format: https://openslide.org/formats/mirax/; sizes are rounded where OpenSlide 4.0 rounds them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fossilray.core.types import Level, Rect
from fossilray.slides.mirax.slidedat import Slidedat
from fossilray.slides.properties import StatedMpp, stated_mpp

ReadRange = Callable[[int, int], bytes]
"""Gives bytes [start, stop) of a file, or fewer at its end."""

_VERSION = b"01.02"
_CHUNK_BYTES = 4096
_MOST_READS = 8
_MOST_CELLS = 512
_ENTRY = struct.Struct("<4i")


@dataclass(frozen=True)
class MiraxIndexGrid:
    """Grid of stored tiles; lengths in px of the finest level.

    across, down: number of the smallest tiles. divisions: tiles per photo along one side. tile_px: width and height
    of a tile. overlap_px: of neighbouring photos. concats: per level, number of the smallest tiles that a stored tile
    joins along one side.
    """

    across: int
    down: int
    divisions: int
    tile_px: tuple[int, int]
    overlap_px: tuple[float, float]
    concats: tuple[int, ...]
    slide_id: str

    def rect(self, x: int, y: int, concat: int) -> Rect:
        """Return the rectangle of a stored tile, level-0 px, by nominal photo positions; real ones jitter by some px.

        x, y: column and row of its first cell. concat: cells per side.
        """
        left, right = self._extent(x, concat, self.tile_px[0], self.overlap_px[0])
        top, bottom = self._extent(y, concat, self.tile_px[1], self.overlap_px[1])
        return Rect(left, top, right, bottom)

    def _extent(self, first: int, count: int, tile_px: int, overlap_px: float) -> tuple[int, int]:
        begin, last = (
            photo * (self.divisions * tile_px - overlap_px) + within * tile_px
            for photo, within in (divmod(number, self.divisions) for number in (first, first + count - 1))
        )
        return int(begin / self.concats[0]), math.ceil((last + tile_px) / self.concats[0])


def read_grid(ini: Slidedat) -> MiraxIndexGrid:
    """Read the tile grid of a slide from its Slidedat.ini.

    Raises:
        KeyError: a group or a key is missing.
        ValueError: a value is no number, or the levels are not halves of each other.
    """
    general, tree = ini["GENERAL"], ini["HIERARCHICAL"]
    levels = _level_groups(ini)
    exponents = [int(level["IMAGE_CONCAT_FACTOR"]) for level in levels]
    if not levels or min(exponents) < 0 or sum(exponents) > 32 or tree["HIER_0_NAME"] != "Slide zoom level":
        raise ValueError("levels are not halves of each other")
    finest = levels[0]
    return MiraxIndexGrid(
        across=int(general["IMAGENUMBER_X"]),
        down=int(general["IMAGENUMBER_Y"]),
        divisions=int(general.get("CameraImageDivisionsPerSide", "1")),
        tile_px=(int(finest["DIGITIZER_WIDTH"]), int(finest["DIGITIZER_HEIGHT"])),
        overlap_px=(float(finest["OVERLAP_X"]), float(finest["OVERLAP_Y"])),
        concats=tuple(1 << sum(exponents[: number + 1]) for number in range(len(levels))),
        slide_id=general["SLIDE_ID"],
    )


def read_levels(grid: MiraxIndexGrid) -> tuple[Level, ...]:
    """Return the levels of the pyramid, with sizes as OpenSlide computes them."""
    width = _extent(grid.across, grid.divisions, grid.tile_px[0], grid.overlap_px[0])
    height = _extent(grid.down, grid.divisions, grid.tile_px[1], grid.overlap_px[1])
    return tuple(
        Level(width // concat, height // concat, float(concat // grid.concats[0])) for concat in grid.concats
    )


def read_mpp(ini: Slidedat) -> StatedMpp | None:
    """Return the um per level-0 pixel; None if no plausible value is stated."""
    return stated_mpp(read_properties(ini))


def read_properties(ini: Slidedat) -> dict[str, str]:
    """Return properties by OpenSlide's names: those of [GENERAL], the um per pixel and the objective."""
    general, finest = ini["GENERAL"], _level_groups(ini)[0]
    stated = {f"mirax.GENERAL.{name}": value for name, value in general.items()}
    stated |= {f"openslide.mpp-{axis}": finest[f"MICROMETER_PER_PIXEL_{axis.upper()}"] for axis in "xy"}
    if "OBJECTIVE_MAGNIFICATION" in general:
        stated["openslide.objective-power"] = general["OBJECTIVE_MAGNIFICATION"]
    return stated


def read_scanned(grid: MiraxIndexGrid, index: ReadRange) -> tuple[Rect, ...] | None:
    """Return approximate rectangles of the scanned area, level-0 px; None if unknown.

    They are the tiles of the finest level with at most 512 cells. index: reads bytes [start, stop) of Index.dat.
    """
    number = _short_level(grid)
    if number is None:
        return None
    concat = grid.concats[number]
    try:
        entries = _Index(index, grid.slide_id).entries(number)
    except (struct.error, ValueError):
        return None
    cells = sorted({divmod(image, grid.across) for image in entries})
    if any(row >= grid.down or row % concat or column % concat for row, column in cells):
        return None
    return tuple(grid.rect(column, row, concat) for row, column in cells) or None


def _level_groups(ini: Slidedat) -> list[Mapping[str, str]]:
    tree = ini["HIERARCHICAL"]
    return [ini[tree[f"HIER_0_VAL_{number}_SECTION"]] for number in range(int(tree["HIER_0_COUNT"]))]


def _extent(images: int, divisions: int, tile_px: int, overlap_px: float) -> int:
    """Return the total px of `images` tiles in a row; photos overlap. Rounded down after each, as OpenSlide does."""
    total = 0
    last_of_photo = range(divisions - 1, images - 1, divisions)
    if overlap_px == int(overlap_px):
        return images * tile_px - len(last_of_photo) * int(overlap_px)
    for number in range(images):
        total = int(total + (tile_px - overlap_px)) if number in last_of_photo else total + tile_px
    return total


def _short_level(grid: MiraxIndexGrid) -> int | None:
    for number, concat in enumerate(grid.concats):
        if math.ceil(grid.across / concat) * math.ceil(grid.down / concat) <= _MOST_CELLS:
            return number
    return None


class _Index:
    """Index.dat, read in at most 8 chunks.

    Raises:
        ValueError, struct.error: it belongs to another slide, or is damaged.
    """

    def __init__(self, read: ReadRange, slide_id: str) -> None:
        self._read = read
        self._start = 0
        self._chunk = b""
        self._reads = 0
        head = _VERSION + slide_id.encode()
        if self._bytes(0, len(head)) != head:
            raise ValueError("Index.dat belongs to another slide")
        self._roots = len(head)

    def entries(self, level: int) -> list[int]:
        """Return the cell numbers of the stored tiles of a level."""
        heads = self._int(self._roots)
        first = self._int(heads + 4 * level)
        if self._int(first) != 0:
            raise ValueError("a list begins with an empty page")
        page = self._int(first + 4)
        images: list[int] = []
        while page and len(images) <= _MOST_CELLS:
            count, following = self._int(page), self._int(page + 4)
            if not 0 <= count <= _MOST_CELLS:
                raise ValueError(f"{count} tiles")
            listed = self._bytes(page + 8, count * _ENTRY.size)
            images += [image for image, *_ in _ENTRY.iter_unpack(listed)]
            page = following
        if any(image < 0 for image in images):
            raise ValueError("a tile has a number below 0")
        return images

    def _int(self, at: int) -> int:
        value: int = struct.unpack("<i", self._bytes(at, 4))[0]
        return value

    def _bytes(self, at: int, size: int) -> bytes:
        if at < 0:
            raise ValueError("a pointer leads out of the file")
        if not self._start <= at <= at + size <= self._start + len(self._chunk):
            if self._reads == _MOST_READS:
                raise ValueError("pages lie too far apart")
            self._reads += 1
            self._start, self._chunk = at, self._read(at, at + max(size, _CHUNK_BYTES))
        offset = at - self._start
        return self._chunk[offset : offset + size]
