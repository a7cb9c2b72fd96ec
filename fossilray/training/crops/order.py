"""In which order crops come in an epoch: known beforehand for every worker, without reading any.

An epoch lays pieces of a few hundred neighbouring crops (of one shard, so that they come with one read) in an order
drawn from the seed and the epoch's number, divides that sequence among the workers, and shuffles each worker's part
window by window. A window is as long as the buffer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fossilray.training.crops.fetch import read_boundaries
from fossilray.training.crops.table import CropTable

_ROWS_AT_ONCE = 1 << 24
"""Rows looked at together where a whole table is gone through, so that temporary arrays stay small."""


@dataclass(frozen=True)
class Window:
    """Crops that are in the buffer together."""

    rows: NDArray[np.int64]
    """Rows of the table, in the order in which they are read."""
    order: NDArray[np.int64]
    """In which order they are handed out."""


class CropOrder:
    """The order of every epoch, for one of `world` workers.

    Unweighted: every crop once an epoch over all workers, less a tail of under world x batch, another one each time.
    Weighted: an epoch has as many crops, and one of weight w comes round(w / mean weight) times, up or down as the
    epoch's draw decides (systematic sampling), so that over many epochs it comes in proportion to its weight.
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
        self._starts = _piece_starts(table, self._stored)
        self._weight = _weights(table, self._stored) if weighted else None

    @property
    def window_rows(self) -> int:
        """Crops in the buffer at most."""
        return min(self._window_batches, self.batches_per_epoch) * self._batch

    def windows(self, epoch: int, *, start: int = 0) -> Iterator[Window]:
        """The windows of an epoch from batch `start` on; of the first only what is still to come."""
        drawn = _Epoch.draw(self._starts, self._cumulated, seed=self._seed, epoch=epoch)
        begin = self._rank * self.batches_per_epoch
        for number in range(
            start // self._window_batches, -(-self.batches_per_epoch // self._window_batches)
        ):
            first = number * self._window_batches
            last = min(first + self._window_batches, self.batches_per_epoch)
            rows = self._rows(drawn, (begin + first) * self._batch, (begin + last) * self._batch)
            rng = np.random.default_rng([self._seed, epoch, self._rank, number])
            yield _still_to_come(rows, rng.permutation(len(rows)), max(0, start - first) * self._batch)

    @cached_property
    def _cumulated(self) -> NDArray[np.float64] | None:
        """The weight of all pieces before each, so scaled that all crops together weigh their number."""
        if self._weight is None:
            return None
        sums = np.add.reduceat(self._weight, self._starts[:-1], dtype=np.float64)
        cumulated = np.concatenate([[0.0], np.cumsum(sums)])
        cumulated *= self._starts[-1] / cumulated[-1]
        cumulated[-1] = self._starts[-1]
        return cumulated

    def _rows(self, drawn: _Epoch, begin: int, end: int) -> NDArray[np.int64]:
        """Rows of the table at the places begin to end of an epoch's sequence."""
        first = int(np.searchsorted(drawn.ends, begin, side="right"))
        last = int(np.searchsorted(drawn.ends, end, side="left"))
        pieces = [self._rows_of_piece(drawn, int(piece)) for piece in drawn.pieces[first : last + 1]]
        before = int(drawn.ends[first - 1]) if first else 0
        places = np.concatenate(pieces)[begin - before : end - before]
        return places if self._stored is None else self._stored[places]

    def _rows_of_piece(self, drawn: _Epoch, piece: int) -> NDArray[np.int64]:
        begin, end = int(self._starts[piece]), int(self._starts[piece + 1])
        places = np.arange(begin, end)
        if self._weight is None or self._cumulated is None:
            return places
        below, above = self._cumulated[piece], self._cumulated[piece + 1]
        weight = self._weight[begin:end].astype(np.float64)
        within = np.cumsum(weight)
        reached = np.minimum(below + within * ((above - below) / max(within[-1], 1e-300)), above)
        reached[-1] = above
        counts = np.diff(np.floor(np.concatenate([[below], reached]) + drawn.offset)).astype(np.int64)
        return np.repeat(places, counts)


@dataclass(frozen=True)
class _Epoch:
    """Pieces in the order of one epoch."""

    pieces: NDArray[np.int64]
    ends: NDArray[np.int64]
    """Crops up to and with each of them."""
    offset: float

    @staticmethod
    def draw(
        starts: NDArray[np.int64], cumulated: NDArray[np.float64] | None, *, seed: int, epoch: int
    ) -> _Epoch:
        rng = np.random.default_rng([seed, epoch])
        pieces = rng.permutation(len(starts) - 1)
        offset = float(rng.random())
        reached = starts if cumulated is None else np.floor(cumulated + offset).astype(np.int64)
        counts = np.diff(reached)
        return _Epoch(pieces, np.cumsum(counts[pieces]), offset)


def _still_to_come(rows: NDArray[np.int64], order: NDArray[np.int64], taken: int) -> Window:
    if not taken:
        return Window(rows, order)
    left = order[taken:]
    kept = np.sort(left)
    return Window(rows[kept], np.searchsorted(kept, left))


def _stored_order(table: CropTable) -> NDArray[np.int64] | None:
    """Rows by unit and object_id; None where the table lies so already, as all do but those taken at random."""
    for begin in range(0, len(table), _ROWS_AT_ONCE):
        part = slice(begin, begin + _ROWS_AT_ONCE + 1)
        unit, object_id = table.unit[part], table.object_id[part]
        if ((unit[1:] < unit[:-1]) | ((unit[1:] == unit[:-1]) & (object_id[1:] < object_id[:-1]))).any():
            return np.lexsort((table.object_id, table.unit))
    return None


def _piece_starts(table: CropTable, stored: NDArray[np.int64] | None) -> NDArray[np.int64]:
    found = []
    for begin in range(0, len(table), _ROWS_AT_ONCE):
        part = slice(begin, begin + _ROWS_AT_ONCE)
        rows = part if stored is None else stored[part]
        found.append(begin + read_boundaries(table.unit[rows], table.object_id[rows])[:-1])
    return np.concatenate([*found, [len(table)]])


def _weights(table: CropTable, stored: NDArray[np.int64] | None) -> NDArray[np.float32]:
    return table.weight if stored is None else table.weight[stored]
