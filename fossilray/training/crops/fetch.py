"""From rows of a table of crops to pixels: read by slide and shard, decoded by threads."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import StoreError
from fossilray.core.images import FAILED_GREY
from fossilray.store.arrays.sharding import SHARD_ROWS
from fossilray.training.crops.sources import CropSource, Encoded

PIECE_ROWS = 256
"""Crops that are read together and stay so until a buffer mixes them: 4 MB of JPEG, an eighth of a shard."""


@dataclass(frozen=True)
class CropUnits:
    """The slides, or single images, that crops belong to."""

    source: NDArray[np.int32]
    name: tuple[str, ...]
    """slide_id, or `<class>/<image>`."""
    place: tuple[str, ...]
    """What the source reads the unit by."""
    group: NDArray[np.int32]
    groups: tuple[str, ...]


@dataclass(frozen=True)
class CropRefs:
    """Some crops: where they lie, and their true proportions as far as the table knows."""

    unit: NDArray[np.int32]
    object_id: NDArray[np.int32]
    shape: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.unit)


@dataclass(frozen=True)
class FetchedCrops:
    """Pixels in the order asked for."""

    pixels: NDArray[np.uint8]
    """(n, S, S, 3) RGB, as stored: stretched to the square unless the run letterboxed them."""
    shape: NDArray[np.float32]
    """(n, 2) width and height before stretching, the longer one 1."""
    failed: NDArray[np.bool_]
    """(n,) crops that did not decode; they are mid-grey."""
    faults: tuple[StoreError, ...]
    """Why, for each of those."""


@dataclass(frozen=True)
class CropReader:
    """Reads crops of several sources; holds nothing open, safe to share between threads."""

    sources: tuple[CropSource, ...]
    units: CropUnits

    def fetch(self, refs: CropRefs, *, side_px: int, threads: int) -> FetchedCrops:
        """The pixels of these crops.

        Raises:
            StoreUnreachable: a store does not answer.
            StoreAccessDenied: a store answers that it was not allowed.
        """
        order = np.lexsort((refs.object_id, refs.unit))
        bounds = read_boundaries(refs.unit[order], refs.object_id[order])
        groups = [order[begin:end] for begin, end in pairwise(bounds.tolist())]
        pixels = np.empty((len(refs), side_px, side_px, 3), np.uint8)
        shape = refs.shape.copy()

        def work(places: NDArray[np.intp]) -> list[StoreError | None]:
            found = self.read(int(refs.unit[places[0]]), refs.object_id[places])
            return [
                self._decode_into(int(refs.unit[place]), encoded, pixels[place], shape[place])
                for place, encoded in zip(places.tolist(), found, strict=True)
            ]

        faults: dict[int, StoreError] = {}
        with ThreadPoolExecutor(threads) as pool:
            for places, told in zip(groups, pool.map(work, groups), strict=True):
                faults |= {int(p): fault for p, fault in zip(places, told, strict=True) if fault is not None}
        return _fetched(pixels, shape, faults)

    def read(self, unit: int, object_id: NDArray[np.int32]) -> Sequence[Encoded]:
        """The stored bytes of some crops of one unit."""
        return self.sources[int(self.units.source[unit])].read(self.units.place[unit], object_id)

    def decode(self, refs: CropRefs, encoded: Sequence[Encoded], *, side_px: int) -> FetchedCrops:
        """The pixels of crops whose bytes were read."""
        pixels = np.empty((len(refs), side_px, side_px, 3), np.uint8)
        shape = refs.shape.copy()
        faults = {}
        for place, one in enumerate(encoded):
            fault = self._decode_into(int(refs.unit[place]), one, pixels[place], shape[place])
            if fault is not None:
                faults[place] = fault
        return _fetched(pixels, shape, faults)

    def _decode_into(
        self, unit: int, encoded: Encoded, out: NDArray[np.uint8], shape: NDArray[np.float32]
    ) -> StoreError | None:
        """Fill one crop's pixels, and its shape where only the bytes tell it; what went wrong if anything did."""
        if isinstance(encoded, StoreError):
            fault = encoded
        else:
            try:
                known = self.sources[int(self.units.source[unit])].decode(encoded, out)
            except StoreError as error:
                fault = error
            else:
                if known is not None:
                    shape[:] = known
                return None
        out[:] = FAILED_GREY
        return fault


def read_boundaries(unit: NDArray[np.int32], object_id: NDArray[np.int32]) -> NDArray[np.int64]:
    """Where pieces begin, and the end: neighbouring rows of one shard, PIECE_ROWS at most."""
    if not len(unit):
        return np.zeros(1, np.int64)
    shard = object_id // SHARD_ROWS
    changes = np.flatnonzero((unit[1:] != unit[:-1]) | (shard[1:] != shard[:-1])) + 1
    starts = np.concatenate([[0], changes])
    sizes = np.diff(starts, append=len(unit))
    pieces = -(-sizes // PIECE_ROWS)
    within = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    return np.append(np.repeat(starts, pieces) + within * PIECE_ROWS, len(unit))


def _fetched(
    pixels: NDArray[np.uint8], shape: NDArray[np.float32], faults: dict[int, StoreError]
) -> FetchedCrops:
    failed = np.zeros(len(pixels), bool)
    failed[list(faults)] = True
    return FetchedCrops(pixels, shape, failed, tuple(faults[place] for place in sorted(faults)))
