"""Directories of a TIFF, plain or BigTIFF in either byte order, read by range.

The tags are those of TIFF 6.0; BigTIFF differs in the width of its numbers.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, KeysView
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

ReadBytes = Callable[[int, int], bytes]
"""Gives bytes [start, stop) of a file, or fewer at its end."""

Value = int | float | str

_CHUNK_BYTES = 4096
# A stack of focus planes has a directory for each level of each plane.
_MOST_READS_OF_A_FILE = 8192
_MOST_DIRECTORIES = 4096
_MOST_ENTRIES = 256
_LONGEST_TEXT_BYTES = 1 << 16
_SUB_DIRECTORIES = 330
# Struct letters of the TIFF types: byte, ASCII, short, long, rational, undefined, signed long, float, directory, and of
# BigTIFF long8 and directory.
_TYPES = {1: "B", 2: "c", 3: "H", 4: "I", 5: "II", 7: "B", 9: "i", 11: "f", 13: "I", 16: "Q", 18: "Q"}


def read_directories(read: ReadBytes, *, most_reads: int, is_ndpi: bool = False) -> Iterator[TiffDirectory]:
    """Yield the directories of the main chain in order; values are read on access.

    is_ndpi: the file is an NDPI of Hamamatsu, whose offsets have 64 bits although it is no BigTIFF.

    Raises:
        ValueError, KeyError, struct.error: the file is no TIFF, is damaged, or needs more than `most_reads` reads.
    """
    chunks = _Chunks(read, most_reads)
    head = chunks.bytes(0, 16)
    order = {b"II": "<", b"MM": ">"}[head[:2]]
    (magic,) = struct.unpack(order + "H", head[2:4])
    shape = _Shape.of({42: False, 43: True}[magic], order, is_ndpi=is_ndpi)
    start = 8 if shape.is_big else 4
    (offset,) = struct.unpack(shape.pointer, head[start : start + struct.calcsize(shape.pointer)])
    yield from _chain(chunks, offset, shape)


def directories_in(file: BinaryIO, *, is_ndpi: bool = False) -> Iterator[TiffDirectory]:
    """Yield the directories of a file on a disk, which must stay open while values are read.

    is_ndpi: as of `read_directories`.

    Raises:
        OSError: the file cannot be read.
        ValueError, KeyError, struct.error: as read_directories.
    """
    return read_directories(
        lambda start, stop: os.pread(file.fileno(), stop - start, start),
        most_reads=_MOST_READS_OF_A_FILE,
        is_ndpi=is_ndpi,
    )


class TiffDirectory:
    """Tags of one directory; methods raise as `read_directories` does, and KeyError for a tag it lacks."""

    def __init__(self, chunks: _Chunks, shape: _Shape, entries: dict[int, _Entry]) -> None:
        self._chunks = chunks
        self._shape = shape
        self._order = shape.order
        self._entries = entries

    @property
    def tags(self) -> KeysView[int]:
        return self._entries.keys()

    def count(self, tag: int) -> int:
        """Return the number of values of a tag; 0 for one that it lacks."""
        return self._entries[tag].length if tag in self._entries else 0

    def first(self, tag: int) -> Value:
        """Return the text of a tag, or the first of its numbers; a rational as a float, 0.0 over zero."""
        entry = self._entries[tag]
        letters = _TYPES[entry.kind]
        if letters == "c":
            return self.text(tag, most_bytes=_LONGEST_TEXT_BYTES)
        numbers = struct.unpack(
            self._order + letters, self._stored(entry, struct.calcsize(self._order + letters))
        )
        if len(numbers) == 1:
            return float(numbers[0]) if letters == "f" else int(numbers[0])
        return numbers[0] / numbers[1] if numbers[1] else 0.0

    def text(self, tag: int, *, most_bytes: int) -> str:
        """Return the text of a tag, cut after `most_bytes`."""
        entry = self._entries[tag]
        stored = self._stored(entry, min(entry.length, most_bytes))
        return stored.split(b"\0")[0].decode("utf-8", errors="replace")

    def sub_directories(self, *, most: int) -> list[TiffDirectory]:
        """Return the directories in the tag SubIFDs, each with those that follow it; empty without the tag."""
        if _SUB_DIRECTORIES not in self._entries:
            return []
        heads = self.numbers(_SUB_DIRECTORIES, most=most).tolist()
        below = [directory for head in heads for directory in _chain(self._chunks, head, self._shape)]
        if len(below) > most:
            raise ValueError(f"{len(below)} directories in SubIFDs")
        return below

    def numbers(self, tag: int, *, most: int) -> NDArray[np.int64]:
        """Return all integers of a tag; values from 2**63 on turn negative, and more than `most` raise ValueError."""
        entry = self._entries[tag]
        letters = {1: "u1", 3: "u2", 4: "u4", 7: "u1", 9: "i4", 13: "u4", 16: "u8", 18: "u8"}
        kind = np.dtype(self._order + letters[entry.kind])
        if entry.length > most:
            raise ValueError(f"{entry.length} numbers under tag {tag}")
        values = np.frombuffer(self._stored(entry, entry.length * kind.itemsize), kind).astype(np.int64)
        return values + (entry.high << 32) if entry.kind == 4 and entry.length == 1 else values

    def _stored(self, entry: _Entry, size: int) -> bytes:
        """Return the first `size` bytes of a value, which is stored in the entry itself if it fits there."""
        whole = struct.calcsize(self._order + _TYPES[entry.kind]) * entry.length
        if max(whole, size) <= len(entry.field):
            return entry.field[:size]
        (offset,) = struct.unpack(self._order + ("Q" if self._shape.is_big else "I"), entry.field)
        return self._chunks.bytes(offset + (entry.high << 32), size)


class _Entry(NamedTuple):
    kind: int
    length: int
    field: bytes
    high: int = 0
    """Upper 32 bits of the value or its offset in an NDPI."""


class _Shape(NamedTuple):
    """Widths of the numbers of a file: of directories, their entries, and pointers to directories."""

    order: str
    is_big: bool
    is_ndpi: bool
    number: str
    entry: str
    pointer: str

    @classmethod
    def of(cls, is_big: bool, order: str, *, is_ndpi: bool) -> _Shape:
        if is_big:
            return cls(order, True, False, order + "Q", order + "HHQ8s", order + "Q")
        return cls(order, False, is_ndpi, order + "H", order + "HHI4s", order + ("Q" if is_ndpi else "I"))


class _Chunks:
    """Cached chunks of a file, each read once."""

    def __init__(self, read: ReadBytes, most_reads: int) -> None:
        self._read = read
        self._most_reads = most_reads
        self._chunks: list[tuple[int, bytes]] = []

    def bytes(self, at: int, size: int) -> bytes:
        for start, chunk in reversed(self._chunks):
            if start <= at <= at + size <= start + len(chunk):
                return chunk[at - start : at - start + size]
        if len(self._chunks) == self._most_reads:
            raise ValueError("directories lie too far apart")
        chunk = self._read(at, at + max(size, _CHUNK_BYTES))
        self._chunks.append((at, chunk))
        if len(chunk) < size:
            raise ValueError("the file is cut short")
        return chunk[:size]


def _chain(chunks: _Chunks, offset: int, shape: _Shape) -> Iterator[TiffDirectory]:
    """Yield the directory at an offset and those that follow it."""
    seen: set[int] = set()
    while offset:
        if offset in seen or len(seen) == _MOST_DIRECTORIES:
            raise ValueError("directories go round in a circle")
        seen.add(offset)
        directory, offset = _read_directory(chunks, offset, shape)
        yield directory


def _read_directory(chunks: _Chunks, offset: int, shape: _Shape) -> tuple[TiffDirectory, int]:
    head_size, entry_size = struct.calcsize(shape.number), struct.calcsize(shape.entry)
    (count,) = struct.unpack(shape.number, chunks.bytes(offset, head_size))
    if count > _MOST_ENTRIES:
        raise ValueError(f"{count} tags")
    end = count * entry_size + struct.calcsize(shape.pointer)
    body = chunks.bytes(offset + head_size, end + (4 * count if shape.is_ndpi else 0))
    high = struct.unpack(f"{shape.order}{count}I", body[end:]) if shape.is_ndpi else (0,) * count
    entries = {
        tag: _Entry(kind, length, field, upper)
        for (tag, kind, length, field), upper in zip(
            struct.iter_unpack(shape.entry, body[: count * entry_size]), high, strict=True
        )
    }
    (following,) = struct.unpack(shape.pointer, body[count * entry_size : end])
    return TiffDirectory(chunks, shape, entries), int(following)
