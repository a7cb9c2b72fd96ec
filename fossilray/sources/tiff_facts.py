"""What the directories of a TIFF say of a slide, read by range: never a pixel, never a table of tiles.

Which directories are levels, and what the vendor is called, follows OpenSlide (https://openslide.org/formats/).
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fossilray.records import Level
from fossilray.slide_properties import stated_mpp

Read = Callable[[int, int], bytes]
"""Gives bytes [start, stop) of a file, or fewer at its end."""

_CHUNK_BYTES = 4096
_MOST_READS = 48
_MOST_DIRECTORIES = 64
_MOST_ENTRIES = 256
_LONGEST_TEXT_BYTES = 4096

_SUBFILE_TYPE, _WIDTH, _HEIGHT, _DESCRIPTION = 254, 256, 257, 270
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT, _SOFTWARE = 282, 283, 296, 305
_TILE_WIDTH, _XMP = 322, 700
# Hamamatsu marks its own files by tags of its own.
_HAMAMATSU = range(65_420, 65_500)
_WANTED = (
    _SUBFILE_TYPE,
    _WIDTH,
    _HEIGHT,
    _DESCRIPTION,
    _X_RESOLUTION,
    _Y_RESOLUTION,
    _RESOLUTION_UNIT,
    _SOFTWARE,
    _TILE_WIDTH,
)
_REDUCED = 1
_UNITS = {2: "inch", 3: "centimeter"}
_OTHER_SOFTWARE = ("Philips", "MedScan")
# Struct letters of the TIFF types that the wanted tags have: byte, text, short, long, rational, long of BigTIFF.
_TYPES = {1: "B", 2: "c", 3: "H", 4: "I", 5: "II", 16: "Q"}

Value = int | float | str


@dataclass(frozen=True)
class TiffFacts:
    """What OpenSlide would say of the slide."""

    vendor: str
    levels: tuple[Level, ...]
    mpp: float | None


def read_tiff(read: Read) -> TiffFacts | None:
    """The facts of an Aperio slide or a plain tiled TIFF; None for any other, or a file that is damaged."""
    try:
        pages = list(_pages(_Chunks(read)))
        return _facts(pages) if pages else None
    except (struct.error, ValueError, KeyError, ZeroDivisionError):
        return None


def _facts(pages: list[dict[int, Value]]) -> TiffFacts | None:
    first = pages[0]
    if _TILE_WIDTH not in first:
        return None
    description = str(first.get(_DESCRIPTION, ""))
    if description.startswith("Aperio"):
        levels = _levels([page for page in pages if _TILE_WIDTH in page])
        # OpenSlide refuses levels that are out of order.
        rising = all(one.downsample <= other.downsample for one, other in itertools.pairwise(levels))
        return TiffFacts("aperio", levels, _aperio_mpp(first)) if rising else None
    if (
        description.lstrip("\ufeff \t\r\n").startswith("<")
        or str(first.get(_SOFTWARE, "")).startswith(_OTHER_SOFTWARE)
        or any(tag == _XMP or tag in _HAMAMATSU for tag in first)
    ):
        return None
    reduced = [page for page in pages[1:] if _TILE_WIDTH in page and _is_reduced(page)]
    ordered = sorted([first, *reduced], key=lambda page: -int(page[_WIDTH]))
    return TiffFacts("generic-tiff", _levels(ordered), stated_mpp(_resolution(first)))


def _levels(pages: list[dict[int, Value]]) -> tuple[Level, ...]:
    width, height = int(pages[0][_WIDTH]), int(pages[0][_HEIGHT])
    return tuple(
        Level(across, down, (width / across + height / down) / 2)
        for across, down in ((int(page[_WIDTH]), int(page[_HEIGHT])) for page in pages)
    )


def _is_reduced(page: dict[int, Value]) -> bool:
    return bool(int(page.get(_SUBFILE_TYPE, 0)) & _REDUCED)


def _aperio_mpp(page: dict[int, Value]) -> float | None:
    stated = _resolution(page)
    for item in str(page[_DESCRIPTION]).split("|")[1:]:
        name, _, value = item.partition("=")
        if name.strip() == "MPP":
            stated["openslide.mpp-x"] = stated["openslide.mpp-y"] = value.strip()
    return stated_mpp(stated)


def _resolution(page: dict[int, Value]) -> dict[str, str]:
    stated = {
        f"tiff.{axis}Resolution": str(page[tag])
        for axis, tag in (("X", _X_RESOLUTION), ("Y", _Y_RESOLUTION))
        if tag in page
    }
    stated["tiff.ResolutionUnit"] = _UNITS.get(int(page.get(_RESOLUTION_UNIT, 2)), "unknown")
    return stated


class _Chunks:
    """Pieces of a file, each read once."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._chunks: list[tuple[int, bytes]] = []

    def bytes(self, at: int, size: int) -> bytes:
        for start, chunk in self._chunks:
            if start <= at <= at + size <= start + len(chunk):
                return chunk[at - start : at - start + size]
        if len(self._chunks) == _MOST_READS:
            raise ValueError("directories lie too far apart")
        chunk = self._read(at, at + max(size, _CHUNK_BYTES))
        self._chunks.append((at, chunk))
        if len(chunk) < size:
            raise ValueError("the file is cut short")
        return chunk[:size]


def _pages(chunks: _Chunks) -> Iterator[dict[int, Value]]:
    """The wanted tags of every directory of the main chain, and which other tags there are (0 for their value)."""
    head = chunks.bytes(0, 16)
    order = {b"II": "<", b"MM": ">"}[head[:2]]
    (magic,) = struct.unpack(order + "H", head[2:4])
    big = {42: False, 43: True}[magic]
    (offset,) = struct.unpack(order + "Q", head[8:16]) if big else struct.unpack(order + "I", head[4:8])
    seen: set[int] = set()
    while offset:
        if offset in seen or len(seen) == _MOST_DIRECTORIES:
            raise ValueError("directories go round in a circle")
        seen.add(offset)
        page, offset = _read_page(chunks, offset, order, big=big)
        yield page


def _read_page(chunks: _Chunks, offset: int, order: str, *, big: bool) -> tuple[dict[int, Value], int]:
    number, entry, pointer = (
        (order + "Q", order + "HHQ8s", order + "Q") if big else (order + "H", order + "HHI4s", order + "I")
    )
    head_size, entry_size = struct.calcsize(number), struct.calcsize(entry)
    (count,) = struct.unpack(number, chunks.bytes(offset, head_size))
    if count > _MOST_ENTRIES:
        raise ValueError(f"{count} tags")
    body = chunks.bytes(offset + head_size, count * entry_size + struct.calcsize(pointer))
    page: dict[int, Value] = {}
    for tag, kind, length, field in struct.iter_unpack(entry, body[: count * entry_size]):
        page[tag] = _value(chunks, order, pointer, kind, length, field) if tag in _WANTED else 0
    return page, int(struct.unpack(pointer, body[count * entry_size :])[0])


def _value(chunks: _Chunks, order: str, pointer: str, kind: int, length: int, field: bytes) -> Value:
    letters = _TYPES[kind]
    if letters == "c":
        size = min(length, _LONGEST_TEXT_BYTES)
        inline = length <= len(field)
        text = field[:size] if inline else chunks.bytes(struct.unpack(pointer, field)[0], size)
        return text.split(b"\0")[0].decode("utf-8", errors="replace")
    size = struct.calcsize(order + letters)
    stored = field[:size] if size <= len(field) else chunks.bytes(struct.unpack(pointer, field)[0], size)
    numbers = struct.unpack(order + letters, stored)
    if len(numbers) == 1:
        return int(numbers[0])
    return numbers[0] / numbers[1] if numbers[1] else 0.0
