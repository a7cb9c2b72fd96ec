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
_MOST_READS_OF_A_FILE = 1024
_MOST_DIRECTORIES = 64
_MOST_ENTRIES = 256
_LONGEST_TEXT_BYTES = 1 << 16
# Struct letters of the TIFF types: byte, ASCII, short, long, rational, undefined, long8 of BigTIFF.
_TYPES = {1: "B", 2: "c", 3: "H", 4: "I", 5: "II", 7: "B", 16: "Q"}


def read_directories(read: ReadBytes, *, most_reads: int) -> Iterator[TiffDirectory]:
    """Yield the directories of the main chain in order; values are read on access.

    Raises:
        ValueError, KeyError, struct.error: the file is no TIFF, is damaged, or needs more than `most_reads` reads.
    """
    chunks = _Chunks(read, most_reads)
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
        directory, offset = _read_directory(chunks, offset, order, big=big)
        yield directory


def directories_in(file: BinaryIO) -> Iterator[TiffDirectory]:
    """Yield the directories of a file on a disk, which must stay open while values are read.

    Raises:
        OSError: the file cannot be read.
        ValueError, KeyError, struct.error: as read_directories.
    """
    return read_directories(
        lambda start, stop: os.pread(file.fileno(), stop - start, start), most_reads=_MOST_READS_OF_A_FILE
    )


class TiffDirectory:
    """Tags of one directory; methods raise as `read_directories` does, and KeyError for a tag it lacks."""

    def __init__(self, chunks: _Chunks, order: str, pointer: str, entries: dict[int, _Entry]) -> None:
        self._chunks = chunks
        self._order = order
        self._pointer = pointer
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
            text = self._stored(entry, min(entry.length, _LONGEST_TEXT_BYTES))
            return text.split(b"\0")[0].decode("utf-8", errors="replace")
        numbers = struct.unpack(
            self._order + letters, self._stored(entry, struct.calcsize(self._order + letters))
        )
        if len(numbers) == 1:
            return int(numbers[0])
        return numbers[0] / numbers[1] if numbers[1] else 0.0

    def numbers(self, tag: int, *, most: int) -> NDArray[np.int64]:
        """Return all integers of a tag; values from 2**63 on turn negative, and more than `most` raise ValueError."""
        entry = self._entries[tag]
        kind = np.dtype(self._order + {1: "u1", 3: "u2", 4: "u4", 7: "u1", 16: "u8"}[entry.kind])
        if entry.length > most:
            raise ValueError(f"{entry.length} numbers under tag {tag}")
        return np.frombuffer(self._stored(entry, entry.length * kind.itemsize), kind).astype(np.int64)

    def _stored(self, entry: _Entry, size: int) -> bytes:
        """Return the first `size` bytes of a value, which is stored in the entry itself if it fits there."""
        whole = struct.calcsize(self._order + _TYPES[entry.kind]) * entry.length
        if max(whole, size) <= len(entry.field):
            return entry.field[:size]
        return self._chunks.bytes(struct.unpack(self._pointer, entry.field)[0], size)


class _Entry(NamedTuple):
    kind: int
    length: int
    field: bytes


class _Chunks:
    """Cached chunks of a file, each read once."""

    def __init__(self, read: ReadBytes, most_reads: int) -> None:
        self._read = read
        self._most_reads = most_reads
        self._chunks: list[tuple[int, bytes]] = []

    def bytes(self, at: int, size: int) -> bytes:
        for start, chunk in self._chunks:
            if start <= at <= at + size <= start + len(chunk):
                return chunk[at - start : at - start + size]
        if len(self._chunks) == self._most_reads:
            raise ValueError("directories lie too far apart")
        chunk = self._read(at, at + max(size, _CHUNK_BYTES))
        self._chunks.append((at, chunk))
        if len(chunk) < size:
            raise ValueError("the file is cut short")
        return chunk[:size]


def _read_directory(chunks: _Chunks, offset: int, order: str, *, big: bool) -> tuple[TiffDirectory, int]:
    number, entry, pointer = (
        (order + "Q", order + "HHQ8s", order + "Q") if big else (order + "H", order + "HHI4s", order + "I")
    )
    head_size, entry_size = struct.calcsize(number), struct.calcsize(entry)
    (count,) = struct.unpack(number, chunks.bytes(offset, head_size))
    if count > _MOST_ENTRIES:
        raise ValueError(f"{count} tags")
    body = chunks.bytes(offset + head_size, count * entry_size + struct.calcsize(pointer))
    entries = {
        tag: _Entry(kind, length, field)
        for tag, kind, length, field in struct.iter_unpack(entry, body[: count * entry_size])
    }
    (following,) = struct.unpack(pointer, body[count * entry_size :])
    return TiffDirectory(chunks, order, pointer, entries), int(following)
