"""Positions of the JPEG tiles of a MIRAX slide, in the files and on the levels, as OpenSlide 4.0 computes them.

Format: https://openslide.org/formats/mirax/ and OpenSlide's reader. A photo is divided into tiles; each coarser
level halves them and joins four to one. A tile that holds several photos is cut into pieces again, because photos
overlap and each has its own position.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fossilray.slides.mirax.metadata import MiraxIndexGrid, read_grid
from fossilray.slides.mirax.names import SLIDEDAT
from fossilray.slides.mirax.slidedat import Slidedat, parse_slidedat
from fossilray.slides.tile_layout import (
    LARGEST_DIRECT_TILE_PX,
    Ints,
    LevelLayout,
    SlideLayout,
    StoredTiles,
    TilePieces,
)

_VERSION = b"01.02"
_POSITION = np.dtype([("flag", "u1"), ("x", "<i4"), ("y", "<i4")])
# Smaller pieces are so many that painting them takes longer than OpenSlide does.
_LEAST_PIECE_PX = 16
# A slide of 200 gigapixels in tiles of 256 px has 3 million; 16 bytes of Index.dat describe each.
_MOST_CELLS = 4_000_000
_LARGEST_INDEX_BYTES = 40 * _MOST_CELLS
_MOST_PHOTOS_ACROSS = 64
# With up to 11 bits of fraction in each direction, float32 products are exact.
_COARSEST = 2**11


def read_mirax_layout(path: Path) -> SlideLayout:
    """Read the layout of the MIRAX slide at `path`.

    Raises:
        OSError: a file cannot be read.
        ValueError: the slide has an unknown layout.
    """
    folder = path.with_suffix("")
    try:
        ini = parse_slidedat((folder / SLIDEDAT).read_bytes())
        names = ini["DATAFILE"]
        files = tuple(folder / names[f"FILE_{number}"] for number in range(int(names["FILE_COUNT"])))
        grid = read_grid(ini)
        listing = folder / ini["HIERARCHICAL"]["INDEXFILE"]
        if grid.across * grid.down > _MOST_CELLS or listing.stat().st_size > _LARGEST_INDEX_BYTES:
            raise ValueError("it has more tiles than any known slide")
        index = MiraxIndex(listing.read_bytes(), grid.slide_id, len(files))
        return SlideLayout(files, _arrange_levels(ini, grid, index, files))
    except KeyError as error:
        raise ValueError(f"{error.args[0]!r} is missing") from None
    except (struct.error, zlib.error) as error:
        raise ValueError(str(error)) from None


def _arrange_levels(
    ini: Slidedat, grid: MiraxIndexGrid, index: MiraxIndex, files: tuple[Path, ...]
) -> tuple[LevelLayout | None, ...]:
    if grid.concats[0] != 1:
        raise ValueError("the finest tiles are joined ones")
    tree = ini["HIERARCHICAL"]
    positions = stored_positions(tree, grid, index, files)
    overlapping = positions is not None or any(grid.overlap_px)
    if positions is None:
        positions = nominal_positions(grid)
    photos = _Photos(grid, positions, overlapping=overlapping, taken=np.zeros(len(positions), np.bool_))
    levels: list[LevelLayout | None] = []
    for number in range(len(grid.concats)):
        group = ini[tree[f"HIER_0_VAL_{number}_SECTION"]]
        try:
            entries = index.entries(number, most=grid.across * grid.down)
            levels.append(_arrange_level(number, group, entries, photos))
        except ValueError:
            # Level 0 lists the photos.
            if number == 0:
                raise
            levels.append(None)
    return tuple(levels)


@dataclass(frozen=True, eq=False)
class _Photos:
    """Photos of a slide.

    positions: level-0 px of each, (n, 2). overlapping: photos overlap. taken: photos present on level 0, (n,);
    filled when that level is arranged.
    """

    grid: MiraxIndexGrid
    positions: Ints
    overlapping: bool
    taken: NDArray[np.bool_]

    @property
    def across(self) -> int:
        return self.grid.across // self.grid.divisions


def _arrange_level(number: int, group: Mapping[str, str], entries: Ints, photos: _Photos) -> LevelLayout:
    grid = photos.grid
    divisions, concat = grid.divisions, grid.concats[number]
    width, height = int(group["DIGITIZER_WIDTH"]), int(group["DIGITIZER_HEIGHT"])
    photos_a_tile = max(1, concat // divisions)
    cut = photos_a_tile if photos.overlapping else 1
    cells_joined = min(concat, divisions) if photos.overlapping else concat
    if group["IMAGE_FORMAT"] != "JPEG" or width % cut or height % cut:
        raise ValueError(f"level {number} is not made of JPEG tiles in whole pieces")
    if (
        min(width, height) // cut < _LEAST_PIECE_PX
        or width * height > LARGEST_DIRECT_TILE_PX
        or concat > _COARSEST
    ):
        raise ValueError(f"level {number} is made of pieces of an unusual size")
    image, offset, length, file = entries.T
    if len(np.unique(image)) < len(image):
        raise ValueError(f"level {number} has several tiles in a cell")
    row, column = image // grid.across, image % grid.across
    if np.any(row >= grid.down) or np.any(row % concat) or np.any(column % concat):
        raise ValueError(f"level {number} has tiles between the cells")

    # Axes: tile, piece down, piece across.
    tile, part_y, part_x = np.indices((len(entries), cut, cut)).reshape(3, -1)
    y, x = row[tile] + part_y * divisions, column[tile] + part_x * divisions
    photo = y // divisions * photos.across + x // divisions
    is_stored = (y < grid.down) & (x < grid.across)
    if np.any(photo[is_stored] >= len(photos.positions)):
        raise ValueError("there are tiles beyond the photos")
    is_stored[is_stored] &= _are_taken(
        number, photo[is_stored], photos, span=1 if photos.overlapping else photos_a_tile
    )
    tile, part_y, part_x, y, x, photo = (axis[is_stored] for axis in (tile, part_y, part_x, y, x, photo))
    within = np.stack([x % divisions, y % divisions], axis=-1) * grid.tile_px
    left, top = ((photos.positions[photo] + within) / concat).T
    share = max(1, divisions // concat)
    return LevelLayout(
        number,
        concat,
        StoredTiles(file, offset, length, width, height),
        TilePieces(
            width=width // cut,
            height=height // cut,
            tile=tile,
            source_x=part_x * (width // cut),
            source_y=part_y * (height // cut),
            left=left,
            top=top,
            column=column[tile] // cells_joined + part_x,
            row=row[tile] // cells_joined + part_y,
            advance_x=width / cut - float(group["OVERLAP_X"]) / share,
            advance_y=height / cut - float(group["OVERLAP_Y"]) / share,
        ),
    )


def _are_taken(level: int, photo: Ints, photos: _Photos, *, span: int) -> NDArray[np.bool_]:
    """Return a mask of the pieces that show photos of level 0, which is recorded in `photos.taken`.

    photo: number of the first photo of each piece. span: photos along one side of a piece.
    """
    if level == 0:
        # A photo at (0, 0) that is not the first one was never taken.
        was_taken = (photo == 0) | photos.positions[photo].any(axis=1)
        photos.taken[photo[was_taken]] = True
        return np.asarray(was_taken)
    if span == 1:
        return photos.taken[photo]
    if span > _MOST_PHOTOS_ACROSS:
        raise ValueError(f"level {level} joins too many photos")
    taken = np.zeros(len(photo), np.bool_)
    for down in range(span):
        for across in range(span):
            neighbour = photo + down * photos.across + across
            taken |= photos.taken[np.minimum(neighbour, len(photos.taken) - 1)]
    if not taken.all():
        raise ValueError(f"level {level} shows photos that level 0 does not")
    return taken


def stored_positions(
    tree: Mapping[str, str], grid: MiraxIndexGrid, index: MiraxIndex, files: tuple[Path, ...]
) -> Ints | None:
    """Return the position of each photo, (n, 2) in level-0 px; None if the slide states none.

    Raises:
        ValueError: the stored positions are damaged.
    """
    count = (grid.across // grid.divisions) * (grid.down // grid.divisions)
    for name, is_packed in (("VIMSLIDE_POSITION_BUFFER", False), ("StitchingIntensityLayer", True)):
        record = _record_number(tree, name)
        if record is None:
            continue
        offset, length, file = index.record(record)
        if length > 2 * count * _POSITION.itemsize + 1024:
            raise ValueError(f"{length} bytes of positions for {count} photos")
        with files[file].open("rb") as data:
            data.seek(offset)
            content = data.read(length)
        if is_packed:
            content = zlib.decompressobj().decompress(content, count * _POSITION.itemsize + 1)
        if len(content) != count * _POSITION.itemsize:
            raise ValueError(f"{len(content)} bytes of positions for {count} photos")
        stored = np.frombuffer(content, _POSITION)
        if np.any(stored["flag"] > 1):
            raise ValueError("positions with unknown flags")
        return np.stack([stored["x"], stored["y"]], axis=-1).astype(np.int64)
    return None


def nominal_positions(grid: MiraxIndexGrid) -> Ints:
    """Return the position of each photo by size and overlap alone, (n, 2) in level-0 px."""
    across, down = grid.across // grid.divisions, grid.down // grid.divisions
    rows, columns = np.indices((down, across)).reshape(2, -1)
    steps = [
        side * grid.divisions - overlap for side, overlap in zip(grid.tile_px, grid.overlap_px, strict=True)
    ]
    return np.stack([columns * steps[0], rows * steps[1]], axis=-1).astype(np.int64)


def _record_number(tree: Mapping[str, str], name: str) -> int | None:
    """Return the number of the first record of a list, counted over the preceding lists; None if there is none."""
    before = 0
    for number in range(int(tree["NONHIER_COUNT"])):
        if tree[f"NONHIER_{number}_NAME"] == name:
            return before
        before += int(tree[f"NONHIER_{number}_COUNT"])
    return None


class MiraxIndex:
    """Content of Index.dat: the tiles of each level, and records.

    files: number of data files.

    Raises:
        ValueError: it belongs to another slide, or a list is damaged.
    """

    def __init__(self, content: bytes, slide_id: str, files: int) -> None:
        head = _VERSION + slide_id.encode()
        if not content.startswith(head):
            raise ValueError("Index.dat belongs to another slide")
        self._content = content
        self._roots = len(head)
        self._files = files

    def entries(self, level: int, *, most: int) -> Ints:
        """Return the tiles of a level, (n, 4): cell, offset, bytes, data file; more than `most` raise ValueError."""
        page = self._first_page(self._int(self._roots) + 4 * level)
        pages = [np.empty((0, 4), "<i4")]
        left, seen = most, set[int]()
        while page:
            count, following = self._int(page), self._int(page + 4)
            left -= count
            if page in seen or count < 0 or left < 0:
                raise ValueError("Index.dat leads astray")
            seen.add(page)
            pages.append(np.frombuffer(self._content, "<i4", 4 * count, page + 8).reshape(-1, 4))
            page = following
        entries = np.concatenate(pages).astype(np.int64)
        if np.any(entries < 0) or np.any(entries[:, 3] >= self._files):
            raise ValueError("Index.dat has impossible entries")
        return entries

    def record(self, number: int) -> tuple[int, int, int]:
        """Return the offset, the number of bytes and the data file of a record."""
        page = self._first_page(self._int(self._roots + 4) + 4 * number)
        offset, length, file = (self._int(page + offset) for offset in (16, 20, 24))
        if min(offset, length, file) < 0 or file >= self._files:
            raise ValueError("Index.dat has an impossible record")
        return offset, length, file

    def _first_page(self, head: int) -> int:
        start = self._int(head)
        if self._int(start) != 0:
            raise ValueError("a list begins with an empty page")
        return self._int(start + 4)

    def _int(self, at: int) -> int:
        if at < 0:
            raise ValueError("a pointer leads out of Index.dat")
        value: int = struct.unpack_from("<i", self._content, at)[0]
        return value
