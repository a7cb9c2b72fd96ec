"""Shuffled batches of decoded crops for one worker of a training; deterministic, and resumable at any batch."""

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

ALLOWED_FAULTS = 16
"""Failed crops that are always allowed, as a few early in an epoch do not mean that a run is damaged."""


@dataclass(frozen=True)
class CropBatch:
    """A batch of decoded crops."""

    pixels: NDArray[np.uint8]
    """(b, S, S, 3) RGB, as stored: stretched to the square unless the run letterboxes crops."""
    shape: NDArray[np.float32]
    """(b, 2) width and height before stretching, the longer one 1."""
    row: NDArray[np.int64]
    """(b,) rows of the table; a crop that could not be decoded is replaced by another of the batch."""
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
            raise UsageError("every crop has weight 0, so none can be sampled; see the curation's rules")
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
        """Number of batches in an epoch, the same for every worker."""
        return self._order.batches_per_epoch

    @property
    def failed_rows(self) -> frozenset[int]:
        """Rows of the table that this worker could not decode so far."""
        return frozenset(self._failed)

    def epoch(self, number: int, *, start: int = 0) -> Iterator[CropBatch]:
        """Yield the batches of an epoch from number `start` on; earlier ones are not read.

        Raises:
            StoreError: More crops fail to decode than allowed.
            StoreUnreachable: A store does not respond.
        """
        with (
            ThreadPoolExecutor(self._threads, "read crops") as readers,
            ThreadPoolExecutor(self._threads, "decode crops") as decoders,
        ):
            pending: deque[Future[_Decoded]] = deque()
            buffer = _Buffer(
                self._table, self._order.windows(number, start=start), readers, self._order.window_rows
            )
            try:
                for rows, encoded in buffer.batches(self._batch):
                    pending.append(decoders.submit(self._decode, rows, encoded))
                    if len(pending) > self._threads:
                        yield self._check(pending.popleft().result())
                while pending:
                    yield self._check(pending.popleft().result())
            finally:
                buffer.close()
                for future in pending:
                    future.cancel()

    def _decode(self, rows: NDArray[np.int64], encoded: list[Encoded]) -> _Decoded:
        crops = self._table.reader.decode(self._table.refs(rows), encoded, side_px=self._side_px)
        failed = np.flatnonzero(crops.failed)
        if len(failed) == len(rows):
            raise self._too_many(len(failed), len(rows), int(rows[0]), crops.faults[0])
        used = rows.copy()
        if len(failed):
            # The next decoded crop replaces a failed one, so that batches keep their size.
            decoded = np.flatnonzero(~crops.failed)
            replacement = decoded[np.searchsorted(decoded, failed) % len(decoded)]
            crops.pixels[failed], crops.shape[failed] = crops.pixels[replacement], crops.shape[replacement]
            used[failed] = rows[replacement]
        batch = CropBatch(crops.pixels, crops.shape, used, self._table.label_of(used))
        return _Decoded(batch, rows[failed], crops.faults)

    def _check(self, decoded: _Decoded) -> CropBatch:
        self._read += len(decoded.batch.row)
        self._failed.update(decoded.failed.tolist())
        share = self._max_failed_share
        allowed = max(ALLOWED_FAULTS, share * self._read) if share else 0
        if decoded.faults and len(self._failed) > allowed:
            raise self._too_many(len(self._failed), self._read, int(decoded.failed[0]), decoded.faults[0])
        return decoded.batch

    def _too_many(self, failed: int, read: int, row: int, fault: StoreError) -> StoreError:
        return StoreError(
            f"{failed} of {read} crops could not be decoded, more than {self._max_failed_share:.1%} "
            f"({self._table.name(row)}: {fault}); check with `fossilray verify`, or raise the allowed share"
        )


@dataclass(frozen=True)
class _Decoded:
    batch: CropBatch
    failed: NDArray[np.int64]
    """Rows that were replaced."""
    faults: tuple[StoreError, ...]


class _Buffer:
    """Reads ahead: while the crops of one window are yielded, later ones are read."""

    def __init__(
        self, table: CropTable, windows: Iterator[Window], readers: ThreadPoolExecutor, capacity: int
    ) -> None:
        self._table = table
        self._reader = table.reader
        self._pool = readers
        self._capacity = capacity
        self._buffered = 0
        self._loading: deque[_Loading] = deque()
        self._blocks = self._all_blocks(windows)
        self._next = next(self._blocks, None)

    def batches(self, size: int) -> Generator[tuple[NDArray[np.int64], list[Encoded]]]:
        """Yield rows and encoded crops of one batch after the other."""
        self._read_ahead()
        while self._loading:
            window = self._loading[0]
            window.wait()
            for first in range(0, len(window.order), size):
                positions = window.order[first : first + size]
                encoded = [window.take(position) for position in positions.tolist()]
                self._buffered -= len(positions)
                if first + size >= len(window.order):
                    self._loading.popleft()
                self._read_ahead()
                yield window.rows[positions], encoded

    def close(self) -> None:
        """Cancel reads that have not started."""
        for window in self._loading:
            for future in window.reads:
                future.cancel()

    def _read_ahead(self) -> None:
        while self._next is not None and self._buffered + self._next.count <= self._capacity:
            block = self._next
            if not self._loading or self._loading[-1] is not block.window:
                self._loading.append(block.window)
            block.window.reads.append(
                self._pool.submit(block.window.load, self._reader, block.begin, block.end)
            )
            self._buffered += block.count
            self._next = next(self._blocks, None)

    def _all_blocks(self, windows: Iterator[Window]) -> Iterator[_Block]:
        for window in windows:
            refs = self._table.refs(window.rows)
            loading = _Loading(window, refs.unit, refs.object_id)
            bounds = read_boundaries(refs.unit, refs.object_id).tolist()
            for begin, end in pairwise(bounds):
                yield _Block(loading, begin, end)


class _Loading:
    """A window whose crops are being read."""

    def __init__(self, window: Window, unit: NDArray[np.int32], object_id: NDArray[np.int32]) -> None:
        self.rows, self.order = window.rows, window.order
        self.reads: list[Future[None]] = []
        self._unit, self._object_id = unit, object_id
        self._encoded: list[Encoded] = [b""] * len(window.rows)

    def load(self, reader: CropReader, begin: int, end: int) -> None:
        self._encoded[begin:end] = reader.read(int(self._unit[begin]), self._object_id[begin:end])

    def wait(self) -> None:
        for future in self.reads:
            future.result()

    def take(self, position: int) -> Encoded:
        """Return an encoded crop and release it."""
        encoded, self._encoded[position] = self._encoded[position], b""
        return encoded


@dataclass(frozen=True)
class _Block:
    """Consecutive crops of one shard in a window, read by one request."""

    window: _Loading
    begin: int
    end: int

    @property
    def count(self) -> int:
        return self.end - self.begin
