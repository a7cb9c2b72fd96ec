"""Read crops by slide and shard, and decode them in threads."""

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

BLOCK_ROWS = 256
"""Crops read by one request, and kept together until a buffer shuffles them: 4 MB of JPEG, an eighth of a shard."""


@dataclass(frozen=True)
class CropUnits:
    """The units that crops belong to: slides, or single images."""

    source: NDArray[np.int32]
    name: tuple[str, ...]
    """slide_id, or `<class>/<image>`."""
    path: tuple[str, ...]
    """The unit's path within its source: the Zarr group of the slide, or the image file."""
    group: NDArray[np.int32]
    """(units,) index into `groups`: the well of each unit, or its folder."""
    groups: tuple[str, ...]


@dataclass(frozen=True)
class CropRefs:
    """References to crops: unit, object_id, and width and height as far as the table has them."""

    unit: NDArray[np.int32]
    object_id: NDArray[np.int32]
    shape: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.unit)


@dataclass(frozen=True)
class FetchedCrops:
    """Decoded crops in the order of the request."""

    pixels: NDArray[np.uint8]
    """(n, S, S, 3) RGB, as stored: stretched to the square unless the run letterboxes crops."""
    shape: NDArray[np.float32]
    """(n, 2) width and height before stretching, the longer one 1."""
    failed: NDArray[np.bool_]
    """(n,) crops that could not be decoded; they are mid-grey."""
    faults: tuple[StoreError, ...]
    """The errors of the failed crops."""


@dataclass(frozen=True)
class CropReader:
    """Reads crops of several sources. It keeps nothing open and is safe to share between threads."""

    sources: tuple[CropSource, ...]
    units: CropUnits

    def fetch(self, refs: CropRefs, *, side_px: int, threads: int) -> FetchedCrops:
        """Read and decode crops.

        Raises:
            StoreUnreachable: A store does not respond.
            StoreAccessDenied: A store denies access.
        """
        order = np.lexsort((refs.object_id, refs.unit))
        bounds = read_boundaries(refs.unit[order], refs.object_id[order])
        blocks = [order[begin:end] for begin, end in pairwise(bounds.tolist())]
        pixels = np.empty((len(refs), side_px, side_px, 3), np.uint8)
        shape = refs.shape.copy()

        def read_block(rows: NDArray[np.intp]) -> list[StoreError | None]:
            encoded_crops = self.read(int(refs.unit[rows[0]]), refs.object_id[rows])
            return [
                self._decode_into(int(refs.unit[row]), encoded, pixels[row], shape[row])
                for row, encoded in zip(rows.tolist(), encoded_crops, strict=True)
            ]

        faults: dict[int, StoreError] = {}
        with ThreadPoolExecutor(threads) as pool:
            for rows, results in zip(blocks, pool.map(read_block, blocks), strict=True):
                faults |= {int(r): fault for r, fault in zip(rows, results, strict=True) if fault is not None}
        return _fetched(pixels, shape, faults)

    def read(self, unit: int, object_id: NDArray[np.int32]) -> Sequence[Encoded]:
        """Read the encoded crops of one unit."""
        return self.sources[int(self.units.source[unit])].read(self.units.path[unit], object_id)

    def decode(self, refs: CropRefs, encoded: Sequence[Encoded], *, side_px: int) -> FetchedCrops:
        """Decode crops that were read."""
        pixels = np.empty((len(refs), side_px, side_px, 3), np.uint8)
        shape = refs.shape.copy()
        faults = {}
        for row, crop in enumerate(encoded):
            fault = self._decode_into(int(refs.unit[row]), crop, pixels[row], shape[row])
            if fault is not None:
                faults[row] = fault
        return _fetched(pixels, shape, faults)

    def _decode_into(
        self, unit: int, encoded: Encoded, out: NDArray[np.uint8], shape: NDArray[np.float32]
    ) -> StoreError | None:
        """Decode one crop into `out`, and its shape if only the file has it; return the error of a failed crop."""
        if isinstance(encoded, StoreError):
            fault = encoded
        else:
            try:
                decoded_shape = self.sources[int(self.units.source[unit])].decode(encoded, out)
            except StoreError as error:
                fault = error
            else:
                if decoded_shape is not None:
                    shape[:] = decoded_shape
                return None
        out[:] = FAILED_GREY
        return fault


def read_boundaries(unit: NDArray[np.int32], object_id: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the starts of blocks, and the end: consecutive rows of one shard, at most BLOCK_ROWS each."""
    if not len(unit):
        return np.zeros(1, np.int64)
    shard = object_id // SHARD_ROWS
    changes = np.flatnonzero((unit[1:] != unit[:-1]) | (shard[1:] != shard[:-1])) + 1
    starts = np.concatenate([[0], changes])
    sizes = np.diff(starts, append=len(unit))
    blocks = -(-sizes // BLOCK_ROWS)
    within = np.arange(blocks.sum()) - np.repeat(np.cumsum(blocks) - blocks, blocks)
    return np.append(np.repeat(starts, blocks) + within * BLOCK_ROWS, len(unit))


def _fetched(
    pixels: NDArray[np.uint8], shape: NDArray[np.float32], faults: dict[int, StoreError]
) -> FetchedCrops:
    failed = np.zeros(len(pixels), bool)
    failed[list(faults)] = True
    return FetchedCrops(pixels, shape, failed, tuple(faults[row] for row in sorted(faults)))
