"""The entries of a shard, list by list: written once, and read a few lists at a time.

offsets: uint64 (lists + 1), where each list begins among the entries. positions: uint32, which of the shard's objects
an entry is, counted over its slides. codes: uint8 (entries, code_bytes). All little endian, entries of a list by
position, so that the neighbours of a query are some ranges of two files.
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
_ROWS_AT_ONCE = 262_144
_BYTES_AT_ONCE = 8 * 2**20


class ShardBuilder:
    """Entries of one shard as they come; memory holds their codes and nothing else."""

    def __init__(self, lists: int, code_bytes: int) -> None:
        self._lists, self._code_bytes = lists, code_bytes
        self._of: list[NDArray[np.int32]] = []
        self._positions: list[NDArray[np.uint32]] = []
        self._codes: list[NDArray[np.uint8]] = []

    def add(self, lists: NDArray[np.int64], positions: NDArray[np.int64], codes: NDArray[np.uint8]) -> None:
        """Entries with their lists (n,), positions (n,) in rising order, and codes (n, code_bytes)."""
        self._of.append(lists.astype(np.int32))
        self._positions.append(positions.astype(np.uint32))
        self._codes.append(codes)

    def write(self, files: Files, folder: str) -> tuple[int, int, tuple[str, ...]]:
        """Write the files of the shard; how many entries they hold, their bytes, and the sha256 of each of FILES.

        Raises:
            StoreError: the store refuses a file.
        """
        of = np.concatenate([np.zeros(0, np.int32), *self._of])
        positions = np.concatenate([np.zeros(0, np.uint32), *self._positions])
        order = np.argsort(of, kind="stable")
        offsets = np.zeros(self._lists + 1, np.uint64)
        np.cumsum(np.bincount(of, minlength=self._lists), out=offsets[1:])
        written, digests = 0, []
        for name, parts in (
            ("offsets", iter([offsets.astype("<u8")])),
            ("positions", iter([positions[order].astype("<u4")])),
            ("codes", self._sorted_codes(order)),
        ):
            with stream_to(files, f"{folder}/{name}") as sink:
                for part in parts:
                    sink.write(part.tobytes())
                written += sink.bytes
                digests.append(sink.sha256)
        return len(of), written, tuple(digests)

    def _sorted_codes(self, order: NDArray[np.intp]) -> Iterator[NDArray[np.uint8]]:
        codes = np.concatenate([np.zeros((0, self._code_bytes), np.uint8), *self._codes])
        self._codes = []
        for first in range(0, len(order), _ROWS_AT_ONCE):
            yield codes[order[first : first + _ROWS_AT_ONCE]]


class ShardReader:
    """A committed shard, to read lists of; from a disk without copying what is not asked for."""

    def __init__(self, files: Files, shard: ShardRecord, *, lists: int, code_bytes: int) -> None:
        self._files, self._shard, self._code_bytes = files, shard, code_bytes
        try:
            content = files.read(f"{shard.data}/offsets")
        except FileNotFoundError:
            raise self._damaged("offsets are gone") from None
        if len(content) != 8 * (lists + 1):
            raise self._damaged(f"offsets have {len(content):,} bytes, expected {8 * (lists + 1):,}")
        self._offsets = np.frombuffer(content, "<u8").astype(np.int64)
        rising = self._offsets[0] == 0 and bool((np.diff(self._offsets) >= 0).all())
        if not rising or self._offsets[-1] != shard.entries:
            raise self._damaged("offsets do not fit its record")
        self._mapped: tuple[NDArray[np.uint32], NDArray[np.uint8]] | None = None
        if isinstance(files, LocalFiles) and shard.entries:
            self._mapped = self._map(Path(files.root) / shard.data)

    @property
    def key(self) -> str:
        """The name of the shard."""
        return self._shard.key

    def read(self, numbers: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint32], NDArray[np.uint8]]]:
        """Of each list that has entries: its number, their positions (n,) and codes (n, code_bytes).

        Raises:
            StoreError: the files are gone, cut short, or name positions that the shard has not.
        """
        for number, positions, codes in self._entries(numbers):
            if len(positions) and int(positions.max()) >= self._shard.objects:
                raise self._damaged(
                    f"list {number} names position {int(positions.max()):,} of {self._shard.objects:,} objects"
                )
            yield number, positions, codes

    def check(self) -> None:
        """Read all entries, and compare them with each other and with their checksums.

        Raises:
            StoreError: they are not what was written.
        """
        seen = np.zeros(self._shard.objects, bool)
        for number, positions, _ in self.read(range(len(self._offsets) - 1)):
            if seen[positions].any() or len(np.unique(positions)) != len(positions):
                raise self._damaged(f"list {number} names a position that is named already")
            seen[positions] = True
        for name, wanted in zip(FILES, self._shard.sha256, strict=False):
            sha256 = hashlib.sha256()
            with open_ranged(self._files, f"{self._shard.data}/{name}") as file:
                while block := file.read(_BYTES_AT_ONCE):
                    sha256.update(block)
            if sha256.hexdigest() != wanted:
                raise self._damaged(f"{name} are not what was written (sha256)")

    def _entries(self, numbers: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint32], NDArray[np.uint8]]]:
        asked = [number for number in numbers if self._offsets[number] < self._offsets[number + 1]]
        spans = [(int(self._offsets[number]), int(self._offsets[number + 1])) for number in asked]
        if self._mapped is not None:
            for number, (start, stop) in zip(asked, spans, strict=True):
                yield number, self._mapped[0][start:stop], self._mapped[1][start:stop]
            return
        if not asked:
            return
        positions, codes = (
            self._fetch(name, [(start * size, stop * size) for start, stop in spans])
            for name, size in (("positions", 4), ("codes", self._code_bytes))
        )
        for number, where, what in zip(asked, positions, codes, strict=True):
            yield (
                number,
                np.frombuffer(where, "<u4"),
                np.frombuffer(what, np.uint8).reshape(-1, self._code_bytes),
            )

    def _fetch(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        try:
            found = self._files.read_ranges(f"{self._shard.data}/{name}", ranges)
        except FileNotFoundError:
            raise self._damaged(f"{name} are gone") from None
        if any(len(content) != stop - start for content, (start, stop) in zip(found, ranges, strict=True)):
            raise self._damaged(f"{name} are cut short")
        return found

    def _map(self, folder: Path) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
        entries = self._shard.entries
        try:
            for name, size in (("positions", 4), ("codes", self._code_bytes)):
                found = (folder / name).stat().st_size
                if found != entries * size:
                    raise ValueError(f"{name} have {found:,} bytes, expected {entries * size:,}")
            positions = np.memmap(folder / "positions", "<u4", "r", shape=(entries,))
            codes = np.memmap(folder / "codes", np.uint8, "r", shape=(entries, self._code_bytes))
        except (OSError, ValueError) as error:
            raise self._damaged(str(error)) from None
        return positions, codes

    def _damaged(self, why: str) -> StoreError:
        return StoreError(
            f"{self._files.url}/{self._shard.data} is damaged ({why}); delete shards/{self._shard.key}.json there and "
            "start `fossilray index build` again"
        )
