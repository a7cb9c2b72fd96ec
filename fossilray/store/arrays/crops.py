"""Crops of a run as pixels, or as the bytes they are stored as: read by shard, whole runs of neighbours at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import DamagedFile, StoreError
from fossilray.store.arrays.array_layout import read_layout
from fossilray.store.arrays.group import crop_decoder
from fossilray.store.arrays.sharding import ABSENT, SHARD_ROWS, index_size, read_index
from fossilray.store.files.local import LocalFiles
from fossilray.store.run.layout import is_arrays_path
from fossilray.store.run.run_store import RunStore

LOCAL_GAP_BYTES = 32 * 1024
REMOTE_GAP_BYTES = 256 * 1024
MOST_CROP_BYTES = 16 * 2**20
"""Far above a crop of 1,024 px without loss, 3 MB: what an index may claim, because so much memory is asked for."""
MOST_SHARD_BYTES = 2**40
"""Wanted crops this near to each other come with one read: 2 crops on a disk, 16 where each read is a request."""


def read_crops(store: RunStore, path: str, rows: Sequence[int] | NDArray[np.integer]) -> NDArray[np.uint8]:
    """The crops (k, S, S, 3) of k objects of one slide, in the order asked for.

    Raises:
        StoreError: the arrays are absent or damaged, or have no such row.
    """
    layout = read_layout(store, path)
    wanted = np.asarray(rows, dtype=np.int64)
    if wanted.size and (wanted.min() < 0 or wanted.max() >= layout.rows):
        raise StoreError(
            f"{path} holds crops 0 to {layout.rows - 1}, asked for {wanted.min()} to {wanted.max()}"
        )
    decode = crop_decoder(layout.encoding, height=layout.height, width=layout.width)
    crops = np.empty((len(wanted), layout.height, layout.width, 3), np.uint8)
    for place, encoded in enumerate(read_encoded_crops(store, path, wanted)):
        try:
            crops[place] = decode(encoded)
        except StoreError as error:
            raise DamagedFile(f"{store.url}/{path}/crops, object {wanted[place]}: {error}") from None
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
    try:
        index = read_index(store.files.read_tail(name, index_size(SHARD_ROWS)), slots=SHARD_ROWS)[slots]
    except StoreError as error:
        raise DamagedFile(f"{store.url}/{name}: {error}") from None
    if (index == ABSENT).any():
        raise _damaged(store, name, "lacks crops that it should hold")
    if (index[:, 0] > MOST_SHARD_BYTES).any() or (index[:, 1] > MOST_CROP_BYTES).any():
        raise _damaged(
            store, name, f"claims a crop of {int(index[:, 1].max()):,} bytes or one far beyond its end"
        )
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


def _damaged(store: RunStore, name: str, what: str) -> DamagedFile:
    return DamagedFile(
        f"{store.url}/{name} {what}; see what else is damaged with `fossilray verify --deep`, whose --withdraw has the "
        "slide made again"
    )
