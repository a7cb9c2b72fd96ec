"""Crops of a run as pixels, or as the bytes they are stored as: read by shard, whole runs of neighbours at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import zarr
from numpy.typing import NDArray

from fossilray.errors import StoreError
from fossilray.store.arrays import crop_decoder, open_arrays
from fossilray.store.layout import is_arrays_path
from fossilray.store.local_files import LocalFiles
from fossilray.store.run_store import RunStore
from fossilray.store.shards import ABSENT, SHARD_ROWS, index_size, read_index

LOCAL_GAP_BYTES = 32 * 1024
REMOTE_GAP_BYTES = 256 * 1024
"""Wanted crops this near to each other come with one read: 2 crops on a disk, 16 where each read is a request."""


def read_crops(store: RunStore, path: str, rows: Sequence[int] | NDArray[np.integer]) -> NDArray[np.uint8]:
    """The crops (k, S, S, 3) of k objects of one slide, in the order asked for.

    Raises:
        StoreError: the arrays are absent or damaged, or have no such row.
    """
    group = open_arrays(store, path)
    array = group["crops"]
    if not isinstance(array, zarr.Array):
        raise StoreError(f"{store.url}/{path} holds a group where its crops should be; it is damaged")
    count, height, width, _ = array.shape
    wanted = np.asarray(rows, dtype=np.int64)
    if wanted.size and (wanted.min() < 0 or wanted.max() >= count):
        raise StoreError(f"{path} holds crops 0 to {count - 1}, asked for {wanted.min()} to {wanted.max()}")
    decode = crop_decoder(str(group.attrs["encoding"]), height=height, width=width)
    crops = np.empty((len(wanted), height, width, 3), np.uint8)
    for place, encoded in enumerate(read_encoded_crops(store, path, wanted)):
        crops[place] = decode(encoded)
    return crops


def read_encoded_crops(store: RunStore, path: str, rows: Sequence[int] | NDArray[np.integer]) -> list[bytes]:
    """The stored bytes of the crops of one slide's objects, in the order asked for.

    Raises:
        StoreError: the arrays are gone or damaged, or have no such row.
    """
    if not is_arrays_path(path):
        raise StoreError(
            f"{path!r:.200} is not the path of a slide's arrays; the objects file that names it is damaged or forged"
        )
    wanted = np.asarray(rows, dtype=np.int64)
    encoded: list[bytes] = [b""] * len(wanted)
    for shard in np.unique(wanted // SHARD_ROWS).tolist():
        places = np.flatnonzero(wanted // SHARD_ROWS == shard)
        name = f"{path}/crops/c/{shard}/0/0/0"
        try:
            found = _read_from_shard(store, name, wanted[places] % SHARD_ROWS)
        except FileNotFoundError:
            raise StoreError(
                f"{store.url}/{name} is gone although its slide is committed; see what else is with `fossilray verify`"
            ) from None
        for place, content in zip(places.tolist(), found, strict=True):
            encoded[place] = content
    return encoded


def _read_from_shard(store: RunStore, name: str, slots: NDArray[np.int64]) -> list[bytes]:
    index = read_index(store.files.read_tail(name, index_size(SHARD_ROWS)), slots=SHARD_ROWS)[slots]
    if (index == ABSENT).any():
        raise StoreError(f"{store.url}/{name} lacks crops that it should hold; it is damaged")
    starts, lengths = index.astype(np.int64).T
    stops = starts + lengths
    gap = LOCAL_GAP_BYTES if isinstance(store.files, LocalFiles) else REMOTE_GAP_BYTES
    order = np.argsort(starts, kind="stable")
    # A crop begins a new read where it lies too far behind all before it.
    reached = np.maximum.accumulate(stops[order])
    first = np.concatenate([[True], starts[order][1:] > reached[:-1] + gap])
    group = np.cumsum(first) - 1
    begin = starts[order][first]
    end = np.maximum.reduceat(stops[order], np.flatnonzero(first))
    blocks = store.files.read_ranges(name, list(zip(begin.tolist(), end.tolist(), strict=True)))
    found: list[bytes] = [b""] * len(slots)
    for place, number in zip(order.tolist(), group.tolist(), strict=True):
        offset = int(starts[place] - begin[number])
        found[place] = blocks[number][offset : offset + int(lengths[place])]
    return found
