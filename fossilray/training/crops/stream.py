"""Batches of decoded crops in a shuffled order, for one worker of a training: deterministic, and resumable anywhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import StoreError, UsageError
from fossilray.training.crops.fetch import CropReader, read_boundaries
from fossilray.training.crops.order import CropOrder, Window
from fossilray.training.crops.sources import Encoded
from fossilray.training.crops.table import CropTable

FORGIVEN_FAULTS = 16
"""Crops that may fail before their share counts: one early in an epoch is no sign of a damaged run."""


@dataclass(frozen=True)
class CropBatch:
    """Some crops of the table."""

    pixels: NDArray[np.uint8]
    """(b, S, S, 3) RGB, as stored: stretched to the square unless the run letterboxed them."""
    shape: NDArray[np.float32]
    """(b, 2) width and height before stretching, the longer one 1."""
    row: NDArray[np.int64]
    """(b,) rows of the table; one that did not decode has given its place to another of the batch."""
    label: NDArray[np.int64]
    """(b,) index into the table's classes, -1 where unknown."""


class CropStream:
    """Batches of decoded crops in random order, epoch by epoch, for one worker of a training.

    Workers of one `world` get disjoint crops and equally many batches. The order depends on the table, seed, epoch,
    rank, world, batch and buffer, not on threads. Memory holds `buffer` crops as stored (16 kB each as JPEG) and
    threads + 1 decoded batches.

    Args:
        table: what `open_crops` returned.
        batch: crops per batch.
        seed: equal seeds give equal orders.
        side_px: side S of the decoded crops.
        rank, world: number of this worker, from 0, and the number of workers.
        buffer: crops among which the order is mixed.
        threads: threads that read, and as many that decode.
        weighted: draw crops in proportion to the weights of the curation.
        max_failed_share: largest share of the crops read that may fail to decode.

    Raises:
        UsageError: there are too few crops for one batch of each worker, or no weight above 0.

    Example:
        >>> import fossilray
        >>> stream = fossilray.CropStream(fossilray.open_crops("census"), batch=16, seed=0, side_px=96)
        >>> for batch in stream.epoch(0):
        ...     pixels, label = batch.pixels, batch.label  # (16, 96, 96, 3) uint8 RGB and (16,) int64
    """

    def __init__(
        self,
        table: CropTable,
        *,
        batch: int,
        seed: int,
        side_px: int,
        rank: int = 0,
        world: int = 1,
        buffer: int = 8192,
        threads: int = 4,
        weighted: bool = False,
        max_failed_share: float = 0.01,
    ) -> None:
        if len(table) < world * batch:
            raise UsageError(
                f"{len(table)} crops do not fill a batch of {batch} for each of {world} workers; lower the batch, or "
                "give more crops"
            )
        if weighted and not (table.weight > 0).any():
            raise UsageError("every crop weighs 0, so none can be drawn; see the curation's rules")
        self._table = table
        self._side_px = side_px
        self._threads = threads
        self._max_failed_share = max_failed_share
        self._order = CropOrder(
            table, batch=batch, buffer=buffer, seed=seed, rank=rank, world=world, weighted=weighted
        )
        self._batch = batch
        self._read = 0
        self._failed: set[int] = set()

    @property
    def batches_per_epoch(self) -> int:
        """The same for every worker."""
        return self._order.batches_per_epoch

    @property
    def failed_rows(self) -> frozenset[int]:
        """Rows of the table that this worker could not decode so far."""
        return frozenset(self._failed)

    def epoch(self, number: int, *, start: int = 0) -> Iterator[CropBatch]:
        """The batches of one epoch, of which `start` were taken before; those are not read again.

        Raises:
            StoreError: more crops fail to decode than is allowed.
            StoreUnreachable: a store does not answer.
        """
        with (
            ThreadPoolExecutor(self._threads, "read crops") as readers,
            ThreadPoolExecutor(self._threads, "decode crops") as decoders,
        ):
            begun: deque[Future[_Decoded]] = deque()
            buffer = _Buffer(
                self._table, self._order.windows(number, start=start), readers, self._order.window_rows
            )
            try:
                for rows, encoded in buffer.batches(self._batch):
                    begun.append(decoders.submit(self._decode, rows, encoded))
                    if len(begun) > self._threads:
                        yield self._checked(begun.popleft().result())
                while begun:
                    yield self._checked(begun.popleft().result())
            finally:
                buffer.close()
                for future in begun:
                    future.cancel()

    def _decode(self, rows: NDArray[np.int64], encoded: list[Encoded]) -> _Decoded:
        found = self._table.reader.decode(self._table.refs(rows), encoded, side_px=self._side_px)
        failed = np.flatnonzero(found.failed)
        if len(failed) == len(rows):
            raise self._too_many(len(failed), len(rows), int(rows[0]), found.faults[0])
        shown = rows.copy()
        if len(failed):
            # The next that decoded stands in, so that batches keep their size; nobody counts on the failed one.
            good = np.flatnonzero(~found.failed)
            stand_in = good[np.searchsorted(good, failed) % len(good)]
            found.pixels[failed], found.shape[failed] = found.pixels[stand_in], found.shape[stand_in]
            shown[failed] = rows[stand_in]
        batch = CropBatch(found.pixels, found.shape, shown, self._table.label_of(shown))
        return _Decoded(batch, rows[failed], found.faults)

    def _checked(self, decoded: _Decoded) -> CropBatch:
        self._read += len(decoded.batch.row)
        self._failed.update(decoded.failed.tolist())
        share = self._max_failed_share
        allowed = max(FORGIVEN_FAULTS, share * self._read) if share else 0
        if decoded.faults and len(self._failed) > allowed:
            raise self._too_many(len(self._failed), self._read, int(decoded.failed[0]), decoded.faults[0])
        return decoded.batch

    def _too_many(self, failed: int, read: int, row: int, fault: StoreError) -> StoreError:
        return StoreError(
            f"{failed} of {read} crops could not be decoded, more than {self._max_failed_share:.1%} "
            f"({self._table.name(row)}: {fault}); find out with `fossilray verify`, or raise the share that may fail"
        )


@dataclass(frozen=True)
class _Decoded:
    batch: CropBatch
    failed: NDArray[np.int64]
    """Rows whose places others have taken."""
    faults: tuple[StoreError, ...]


class _Buffer:
    """Reads windows ahead: as crops of one are handed out, the next ones of the sequence come in."""

    def __init__(
        self, table: CropTable, windows: Iterator[Window], readers: ThreadPoolExecutor, capacity: int
    ) -> None:
        self._table = table
        self._reader = table.reader
        self._pool = readers
        self._capacity = capacity
        self._held = 0
        self._begun: deque[_Loading] = deque()
        self._pieces = self._all_pieces(windows)
        self._next = next(self._pieces, None)

    def batches(self, size: int) -> Generator[tuple[NDArray[np.int64], list[Encoded]]]:
        """Rows and stored bytes of batch after batch."""
        self._read_ahead()
        while self._begun:
            window = self._begun[0]
            window.wait()
            for first in range(0, len(window.order), size):
                places = window.order[first : first + size]
                encoded = [window.take(place) for place in places.tolist()]
                self._held -= len(places)
                if first + size >= len(window.order):
                    self._begun.popleft()
                self._read_ahead()
                yield window.rows[places], encoded

    def close(self) -> None:
        """Begin no more reads."""
        for window in self._begun:
            for future in window.reads:
                future.cancel()

    def _read_ahead(self) -> None:
        while self._next is not None and self._held + self._next.count <= self._capacity:
            piece = self._next
            if not self._begun or self._begun[-1] is not piece.window:
                self._begun.append(piece.window)
            piece.window.reads.append(
                self._pool.submit(piece.window.load, self._reader, piece.begin, piece.end)
            )
            self._held += piece.count
            self._next = next(self._pieces, None)

    def _all_pieces(self, windows: Iterator[Window]) -> Iterator[_Piece]:
        for window in windows:
            refs = self._table.refs(window.rows)
            loading = _Loading(window, refs.unit, refs.object_id)
            bounds = read_boundaries(refs.unit, refs.object_id).tolist()
            for begin, end in pairwise(bounds):
                yield _Piece(loading, begin, end)


class _Loading:
    """A window whose bytes are coming in."""

    def __init__(self, window: Window, unit: NDArray[np.int32], object_id: NDArray[np.int32]) -> None:
        self.rows, self.order = window.rows, window.order
        self.reads: list[Future[None]] = []
        self._unit, self._object_id = unit, object_id
        self._encoded: list[Encoded] = [b""] * len(window.rows)

    def load(self, reader: CropReader, begin: int, end: int) -> None:
        found = reader.read(int(self._unit[begin]), self._object_id[begin:end])
        self._encoded[begin:end] = found

    def wait(self) -> None:
        for future in self.reads:
            future.result()

    def take(self, place: int) -> Encoded:
        """The bytes of a crop, kept no longer."""
        taken, self._encoded[place] = self._encoded[place], b""
        return taken


@dataclass(frozen=True)
class _Piece:
    """Crops of one shard in a window, read together."""

    window: _Loading
    begin: int
    end: int

    @property
    def count(self) -> int:
        return self.end - self.begin
