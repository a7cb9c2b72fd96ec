"""Files of a shard, ordered by list, so that a search reads a few ranges of two files.

offsets: uint64 (lists + 1,), index of the first entry of each list. positions: uint32 (entries,), number of each
entry's object, counted over the slides of the shard. codes: uint8 (entries, code_bytes). All in little endian; entries
of a list are sorted by position.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.search.index_record import ShardRecord
from fossilray.core.errors import StoreError
from fossilray.store.files.base import Files
from fossilray.store.files.local import LocalFiles
from fossilray.store.files.streaming import open_ranged, stream_to

FILES = ("offsets", "positions", "codes")
_BATCH_ROWS = 262_144
_BLOCK_BYTES = 8 * 2**20


class ShardBuilder:
    """Collects the entries of one shard; memory holds their codes."""

    def __init__(self, lists: int, code_bytes: int) -> None:
        self._lists, self._code_bytes = lists, code_bytes
        self._list_of_entry: list[NDArray[np.int32]] = []
        self._positions: list[NDArray[np.uint32]] = []
        self._codes: list[NDArray[np.uint8]] = []

    def add(self, lists: NDArray[np.int64], positions: NDArray[np.int64], codes: NDArray[np.uint8]) -> None:
        """Add n entries: lists (n,), positions (n,) in rising order, and codes (n, code_bytes)."""
        self._list_of_entry.append(lists.astype(np.int32))
        self._positions.append(positions.astype(np.uint32))
        self._codes.append(codes)

    def write(self, files: Files, folder: str) -> tuple[int, int, tuple[str, ...]]:
        """Write the files of the shard; return the number of entries, the bytes, and the SHA-256 of each of FILES.

        Raises:
            StoreError: a file cannot be written.
        """
        list_of_entry = np.concatenate([np.zeros(0, np.int32), *self._list_of_entry])
        positions = np.concatenate([np.zeros(0, np.uint32), *self._positions])
        order = np.argsort(list_of_entry, kind="stable")
        offsets = np.zeros(self._lists + 1, np.uint64)
        np.cumsum(np.bincount(list_of_entry, minlength=self._lists), out=offsets[1:])
        written, digests = 0, []
        for name, blocks in (
            ("offsets", iter([offsets.astype("<u8")])),
            ("positions", iter([positions[order].astype("<u4")])),
            ("codes", self._sorted_codes(order)),
        ):
            with stream_to(files, f"{folder}/{name}") as sink:
                for block in blocks:
                    sink.write(block.tobytes())
                written += sink.bytes
                digests.append(sink.sha256)
        return len(list_of_entry), written, tuple(digests)

    def _sorted_codes(self, order: NDArray[np.intp]) -> Iterator[NDArray[np.uint8]]:
        codes = np.concatenate([np.zeros((0, self._code_bytes), np.uint8), *self._codes])
        self._codes = []
        for first in range(0, len(order), _BATCH_ROWS):
            yield codes[order[first : first + _BATCH_ROWS]]


class ShardReader:
    """Reads lists of a committed shard; files on a local disk are memory-mapped."""

    def __init__(self, files: Files, shard: ShardRecord, *, lists: int, code_bytes: int) -> None:
        self._files, self._shard, self._code_bytes = files, shard, code_bytes
        try:
            content = files.read(f"{shard.data}/offsets")
        except FileNotFoundError:
            raise self._damaged("offsets are missing") from None
        if len(content) != 8 * (lists + 1):
            raise self._damaged(f"offsets have {len(content):,} bytes, expected {8 * (lists + 1):,}")
        self._offsets = np.frombuffer(content, "<u8").astype(np.int64)
        is_rising = self._offsets[0] == 0 and bool((np.diff(self._offsets) >= 0).all())
        if not is_rising or self._offsets[-1] != shard.entries:
            raise self._damaged("offsets disagree with its record")
        self._mapped: tuple[NDArray[np.uint32], NDArray[np.uint8]] | None = None
        if isinstance(files, LocalFiles) and shard.entries:
            self._mapped = self._map(Path(files.root) / shard.data)

    @property
    def key(self) -> str:
        """The name of the shard."""
        return self._shard.key

    def read(self, numbers: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint32], NDArray[np.uint8]]]:
        """Yield each list that has entries: its number, positions (n,) and codes (n, code_bytes).

        Raises:
            StoreError: files are missing or truncated, or hold positions beyond the shard's objects.
        """
        for number, positions, codes in self._entries(numbers):
            if len(positions) and int(positions.max()) >= self._shard.objects:
                raise self._damaged(
                    f"list {number} holds position {int(positions.max()):,} of {self._shard.objects:,} objects"
                )
            yield number, positions, codes

    def check(self) -> None:
        """Read all entries, look for repeated positions, and compare checksums.

        Raises:
            StoreError: the files differ from what was written.
        """
        seen = np.zeros(self._shard.objects, bool)
        for number, positions, _ in self.read(range(len(self._offsets) - 1)):
            if seen[positions].any() or len(np.unique(positions)) != len(positions):
                raise self._damaged(f"list {number} repeats a position")
            seen[positions] = True
        for name, expected in zip(FILES, self._shard.sha256, strict=False):
            sha256 = hashlib.sha256()
            with open_ranged(self._files, f"{self._shard.data}/{name}") as file:
                while block := file.read(_BLOCK_BYTES):
                    sha256.update(block)
            if sha256.hexdigest() != expected:
                raise self._damaged(f"{name} differ from what was written (SHA-256)")

    def _entries(self, numbers: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint32], NDArray[np.uint8]]]:
        filled = [number for number in numbers if self._offsets[number] < self._offsets[number + 1]]
        spans = [(int(self._offsets[number]), int(self._offsets[number + 1])) for number in filled]
        if self._mapped is not None:
            for number, (start, stop) in zip(filled, spans, strict=True):
                yield number, self._mapped[0][start:stop], self._mapped[1][start:stop]
            return
        if not filled:
            return
        positions, codes = (
            self._fetch(name, [(start * size, stop * size) for start, stop in spans])
            for name, size in (("positions", 4), ("codes", self._code_bytes))
        )
        for number, position_bytes, code_bytes in zip(filled, positions, codes, strict=True):
            yield (
                number,
                np.frombuffer(position_bytes, "<u4"),
                np.frombuffer(code_bytes, np.uint8).reshape(-1, self._code_bytes),
            )

    def _fetch(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        try:
            contents = self._files.read_ranges(f"{self._shard.data}/{name}", ranges)
        except FileNotFoundError:
            raise self._damaged(f"{name} are missing") from None
        if any(len(content) != stop - start for content, (start, stop) in zip(contents, ranges, strict=True)):
            raise self._damaged(f"{name} are truncated")
        return contents

    def _map(self, folder: Path) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
        entries = self._shard.entries
        try:
            for name, size in (("positions", 4), ("codes", self._code_bytes)):
                file_bytes = (folder / name).stat().st_size
                if file_bytes != entries * size:
                    raise ValueError(f"{name} have {file_bytes:,} bytes, expected {entries * size:,}")
            positions = np.memmap(folder / "positions", "<u4", "r", shape=(entries,))
            codes = np.memmap(folder / "codes", np.uint8, "r", shape=(entries, self._code_bytes))
        except (OSError, ValueError) as error:
            raise self._damaged(str(error)) from None
        return positions, codes

    def _damaged(self, reason: str) -> StoreError:
        return StoreError(
            f"{self._files.url}/{self._shard.data} is damaged ({reason}); delete shards/{self._shard.key}.json there "
            "and start `fossilray index build` again"
        )
