"""Small MIRAX and TIFF slides whose stored tiles can be found, zeroed, emptied and left out, one by one."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from support.slides_on_disk import discs, write_slide

from fossilray.synthetic.writers.pixels import ArrayPixels
from fossilray.synthetic.writers.tiff import TiffOptions, write_pyramidal_tiff

INDEX_START = 37
"""Version and id stand before the numbers of Index.dat."""


@dataclass(frozen=True)
class StoredTile:
    """One stored tile of a slide.

    x, y, side: level-0 px inside the picture. offset, length: of its bytes in `file`. fields: where the index states
    offset and length, and in which file.
    """

    level: int
    x: int
    y: int
    side: int
    file: Path
    offset: int
    length: int
    index: Path
    offset_at: int
    length_at: int

    def zero(self) -> None:
        """Overwrite its bytes."""
        with self.file.open("r+b") as file:
            file.seek(self.offset)
            file.write(bytes(self.length))

    def corrupt(self) -> None:
        """Overwrite some bytes of its entropy-coded data by ones, which are no code."""
        with self.file.open("r+b") as file:
            file.seek(self.offset + 3 * self.length // 4)
            file.write(b"\xff\x00" * 6)

    def point_beyond(self) -> None:
        """State an offset in the index from which the file ends before the tile does."""
        self._state(self.offset_at, self.file.stat().st_size - self.length // 2)

    def point_into(self, other: StoredTile) -> None:
        """State a place inside another tile's data in the index, where no image begins."""
        self._state(self.offset_at, other.offset + other.length // 3)
        self._state(self.length_at, other.length // 2)

    def point_at_nothing(self) -> None:
        """State an offset of 0 in the index, which with a length of 0 means in a TIFF that it is not stored."""
        self._state(self.offset_at, 0)

    def point_at(self, other: StoredTile) -> None:
        """State the offset and length of another tile of the same file in the index."""
        self._state(self.offset_at, other.offset)
        self._state(self.length_at, other.length)

    def _state(self, at: int, value: int) -> None:
        with self.index.open("r+b") as file:
            file.seek(at)
            file.write(struct.pack("<i", value))

    def empty(self) -> None:
        """State a length of 0 in the index."""
        with self.index.open("r+b") as file:
            file.seek(self.length_at)
            file.write(bytes(4))


def write_mirax(path: Path, *, size: int = 2048, objects: int = 30) -> Path:
    write_slide(path, size=size, objects=objects)
    return path


def write_tiff(path: Path, *, size: int = 2048, objects: int = 30) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_pyramidal_tiff(path, ArrayPixels(image=discs(size, objects)), TiffOptions(tile_px=128, levels=5))
    return path


WRITERS: dict[str, Callable[..., Path]] = {".mrxs": write_mirax, ".tif": write_tiff}


def copy_slide(slide: Path, folder: Path) -> Path:
    """The slide, with its folder if it has one, in another folder."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(slide, folder / slide.name)
    if slide.with_suffix("").is_dir():
        shutil.copytree(slide.with_suffix(""), folder / slide.stem)
    return folder / slide.name


def stored_tiles(slide: Path) -> list[StoredTile]:
    """Every stored tile of every level of a slide that this module wrote."""
    return list(_of_mirax(slide) if slide.suffix == ".mrxs" else _of_tiff(slide))


def _of_mirax(slide: Path) -> Iterable[StoredTile]:
    folder = slide.with_suffix("")
    index = folder / "Index.dat"
    content = index.read_bytes()
    ini = dict(
        line.split(" = ", 1)
        for line in (folder / "Slidedat.ini").read_text("utf-8-sig").splitlines()
        if " = " in line
    )
    across, tile_px = int(ini["IMAGENUMBER_X"]), int(ini["DIGITIZER_WIDTH"])
    divisions = int(ini["CameraImageDivisionsPerSide"])
    step = divisions * tile_px - float(ini["OVERLAP_X"])
    for level in range(int(ini["HIER_0_COUNT"])):
        page = _number(content, _number(content, _number(content, INDEX_START) + 4 * level) + 4)
        while page:
            count, following = _number(content, page), _number(content, page + 4)
            for entry in range(page + 8, page + 8 + 16 * count, 16):
                image, offset, length, file = struct.unpack_from("<4i", content, entry)
                row, column = divmod(image, across)
                x, y = (int(cell // divisions * step + cell % divisions * tile_px) for cell in (column, row))
                data = folder / f"Data{file:04d}.dat"
                yield StoredTile(
                    level, x, y, tile_px << level, data, offset, length, index, entry + 4, entry + 8
                )
            page = following


def _of_tiff(slide: Path) -> Iterable[StoredTile]:
    content = slide.read_bytes()
    place, level = _number(content, 4), 0
    while place:
        (count,) = struct.unpack_from("<H", content, place)
        tags = {
            tag: (number, at + 8 if number == 1 else _number(content, at + 8))
            for at in range(place + 2, place + 2 + 12 * count, 12)
            for tag, _, number in [struct.unpack_from("<HHI", content, at)]
        }
        width, side = _number(content, tags[256][1]), _number(content, tags[322][1])
        across = -(-width // side)
        for number in range(tags[324][0]):
            row, column = divmod(number, across)
            at, length_at = tags[324][1] + 4 * number, tags[325][1] + 4 * number
            offset, length = _number(content, at), _number(content, length_at)
            if length:
                yield StoredTile(
                    level,
                    column * side << level,
                    row * side << level,
                    side << level,
                    slide,
                    offset,
                    length,
                    slide,
                    at,
                    length_at,
                )
        place, level = _number(content, place + 2 + 12 * count), level + 1


def leave_out_mirax_tiles(slide: Path, level: int, *, keep: Callable[[StoredTile], bool]) -> None:
    """Take tiles of a level out of the list in Index.dat."""
    index = slide.with_suffix("") / "Index.dat"
    content = bytearray(index.read_bytes())
    page = _number(content, _number(content, _number(content, INDEX_START) + 4 * level) + 4)
    kept = [
        content[tile.offset_at - 4 : tile.offset_at + 12]
        for tile in stored_tiles(slide)
        if tile.level == level and keep(tile)
    ]
    content[page : page + 4] = struct.pack("<i", len(kept))
    entries = b"".join(kept)
    content[page + 8 : page + 8 + len(entries)] = entries
    index.write_bytes(content)


def leave_out(slide: Path, is_lost: Callable[[StoredTile], bool]) -> None:
    """Take tiles out of the index, as if they had never been stored."""
    for level in sorted({tile.level for tile in stored_tiles(slide)}):
        if slide.suffix == ".mrxs":
            leave_out_mirax_tiles(slide, level, keep=lambda tile: not is_lost(tile))
    for tile in stored_tiles(slide):
        if is_lost(tile):
            tile.empty()
            tile.point_at_nothing()


def decode(tile: StoredTile) -> np.ndarray | None:
    """The tile's picture; None if its bytes are none."""
    try:
        with tile.file.open("rb") as file:
            file.seek(tile.offset)
            content = file.read(tile.length)
    except OSError:
        return None
    if not content.startswith(b"\xff\xd8"):
        return None
    picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    return None if picture is None else np.asarray(picture)


def shows_disc(tile: StoredTile) -> bool:
    picture = decode(tile)
    return picture is not None and bool((picture.min(axis=2) < 100).mean() > 0.02)


def _number(content: bytes | bytearray, at: int) -> int:
    return int(np.frombuffer(content, "<i4", 1, at)[0])
