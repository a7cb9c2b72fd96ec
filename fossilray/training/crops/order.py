"""The order of crops in an epoch, known in advance for every worker without reading any crop.

An epoch arranges blocks of a few hundred consecutive crops (of one shard, so that one request reads them) in a random
order seeded by the seed and the epoch's number, divides that sequence among the workers, and shuffles each worker's
share window by window. A window is as long as the buffer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fossilray.training.crops.fetch import read_boundaries
from fossilray.training.crops.table import CropTable

_ROWS_PER_PASS = 1 << 24
"""Rows handled together in a pass over the table, so that temporary arrays stay small."""


@dataclass(frozen=True)
class Window:
    """Crops that are shuffled together in the buffer."""

    rows: NDArray[np.int64]
    """Rows of the table, in the order of reading."""
    order: NDArray[np.int64]
    """The order in which they are yielded, as indices into `rows`."""


class CropOrder:
    """The order of every epoch, for one of `world` workers.

    Unweighted: an epoch contains every crop once over all workers, except a tail of less than world x batch crops,
    which differs between epochs. Weighted: an epoch has the same number of crops, and a crop of weight w occurs
    w / mean weight times, rounded up or down at random (systematic sampling), so that over many epochs its frequency is
    proportional to its weight.
    """

    def __init__(
        self, table: CropTable, *, batch: int, buffer: int, seed: int, rank: int, world: int, weighted: bool
    ) -> None:
        self.batches_per_epoch = len(table) // (world * batch)
        self._batch = batch
        self._window_batches = max(1, buffer // batch)
        self._seed = seed
        self._rank = rank
        self._stored = _stored_order(table)
        self._starts = _block_starts(table, self._stored)
        self._weight = _weights(table, self._stored) if weighted else None

    @property
    def window_rows(self) -> int:
        """Maximum number of crops in the buffer."""
        return min(self._window_batches, self.batches_per_epoch) * self._batch

    def windows(self, epoch: int, *, start: int = 0) -> Iterator[Window]:
        """Yield the windows of an epoch from batch `start` on; the first without the batches before `start`."""
        sequence = _Epoch.draw(self._starts, self._cumulated, seed=self._seed, epoch=epoch)
        begin = self._rank * self.batches_per_epoch
        for number in range(
            start // self._window_batches, -(-self.batches_per_epoch // self._window_batches)
        ):
            first = number * self._window_batches
            last = min(first + self._window_batches, self.batches_per_epoch)
            rows = self._rows(sequence, (begin + first) * self._batch, (begin + last) * self._batch)
            rng = np.random.default_rng([self._seed, epoch, self._rank, number])
            yield _without_taken(rows, rng.permutation(len(rows)), max(0, start - first) * self._batch)

    @cached_property
    def _cumulated(self) -> NDArray[np.float64] | None:
        """Cumulative weight at the boundaries of blocks, scaled so that the total is the number of crops."""
        if self._weight is None:
            return None
        sums = np.add.reduceat(self._weight, self._starts[:-1], dtype=np.float64)
        cumulated = np.concatenate([[0.0], np.cumsum(sums)])
        cumulated *= self._starts[-1] / cumulated[-1]
        cumulated[-1] = self._starts[-1]
        return cumulated

    def _rows(self, sequence: _Epoch, begin: int, end: int) -> NDArray[np.int64]:
        """Return the rows of the table at positions begin to end of an epoch's sequence."""
        first = int(np.searchsorted(sequence.ends, begin, side="right"))
        last = int(np.searchsorted(sequence.ends, end, side="left"))
        blocks = [self._rows_of_block(sequence, int(block)) for block in sequence.blocks[first : last + 1]]
        before = int(sequence.ends[first - 1]) if first else 0
        positions = np.concatenate(blocks)[begin - before : end - before]
        return positions if self._stored is None else self._stored[positions]

    def _rows_of_block(self, sequence: _Epoch, block: int) -> NDArray[np.int64]:
        begin, end = int(self._starts[block]), int(self._starts[block + 1])
        positions = np.arange(begin, end)
        if self._weight is None or self._cumulated is None:
            return positions
        below, above = self._cumulated[block], self._cumulated[block + 1]
        weight = self._weight[begin:end].astype(np.float64)
        within = np.cumsum(weight)
        reached = np.minimum(below + within * ((above - below) / max(within[-1], 1e-300)), above)
        reached[-1] = above
        counts = np.diff(np.floor(np.concatenate([[below], reached]) + sequence.offset)).astype(np.int64)
        return np.repeat(positions, counts)


@dataclass(frozen=True)
class _Epoch:
    """The order of blocks in one epoch."""

    blocks: NDArray[np.int64]
    ends: NDArray[np.int64]
    """Number of crops up to the end of each block."""
    offset: float
    """Random offset of the systematic sampling, 0..1."""

    @staticmethod
    def draw(
        starts: NDArray[np.int64], cumulated: NDArray[np.float64] | None, *, seed: int, epoch: int
    ) -> _Epoch:
        rng = np.random.default_rng([seed, epoch])
        blocks = rng.permutation(len(starts) - 1)
        offset = float(rng.random())
        reached = starts if cumulated is None else np.floor(cumulated + offset).astype(np.int64)
        counts = np.diff(reached)
        return _Epoch(blocks, np.cumsum(counts[blocks]), offset)


def _without_taken(rows: NDArray[np.int64], order: NDArray[np.int64], taken: int) -> Window:
    if not taken:
        return Window(rows, order)
    remaining = order[taken:]
    kept = np.sort(remaining)
    return Window(rows[kept], np.searchsorted(kept, remaining))


def _stored_order(table: CropTable) -> NDArray[np.int64] | None:
    """Return the rows sorted by unit and object_id; None if the table is sorted, as it is unless rows were taken."""
    for begin in range(0, len(table), _ROWS_PER_PASS):
        rows = slice(begin, begin + _ROWS_PER_PASS + 1)
        unit, object_id = table.unit[rows], table.object_id[rows]
        if ((unit[1:] < unit[:-1]) | ((unit[1:] == unit[:-1]) & (object_id[1:] < object_id[:-1]))).any():
            return np.lexsort((table.object_id, table.unit))
    return None


def _block_starts(table: CropTable, stored: NDArray[np.int64] | None) -> NDArray[np.int64]:
    starts = []
    for begin in range(0, len(table), _ROWS_PER_PASS):
        chunk = slice(begin, begin + _ROWS_PER_PASS)
        rows = chunk if stored is None else stored[chunk]
        starts.append(begin + read_boundaries(table.unit[rows], table.object_id[rows])[:-1])
    return np.concatenate([*starts, [len(table)]])


def _weights(table: CropTable, stored: NDArray[np.int64] | None) -> NDArray[np.float32]:
    return table.weight if stored is None else table.weight[stored]
