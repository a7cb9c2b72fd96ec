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
"""Upper bound of a length in a shard's index, by which memory is allocated; a lossless crop of 1,024 px has 3 MB."""
MOST_SHARD_BYTES = 2**40
"""Wanted crops this near to each other come with one read: 2 crops on a disk, 16 where each read is a request."""


def read_crops(store: RunStore, path: str, rows: Sequence[int] | NDArray[np.integer]) -> NDArray[np.uint8]:
    """Return the crops (k, S, S, 3) of k objects of one slide, in the order of `object_id`.

    Raises:
        StoreError: the arrays are missing or damaged, or lack a row.
    """
    layout = read_layout(store, path)
    wanted = np.asarray(rows, dtype=np.int64)
    if wanted.size and (wanted.min() < 0 or wanted.max() >= layout.rows):
        raise StoreError(
            f"{path} holds crops 0 to {layout.rows - 1}, requested were {wanted.min()} to {wanted.max()}"
        )
    decode = crop_decoder(layout.encoding, height=layout.height, width=layout.width)
    crops = np.empty((len(wanted), layout.height, layout.width, 3), np.uint8)
    for position, encoded in enumerate(read_encoded_crops(store, path, wanted)):
        try:
            crops[position] = decode(encoded)
        except StoreError as error:
            raise DamagedFile(f"{store.url}/{path}/crops, object {wanted[position]}: {error}") from None
    return crops


def read_encoded_crops(store: RunStore, path: str, rows: Sequence[int] | NDArray[np.integer]) -> list[bytes]:
    """Return the stored bytes of the crops of one slide's objects, in the order of `object_id`.

    Raises:
        StoreError: the arrays are missing or damaged, or lack a row.
    """
    if not is_arrays_path(path):
        raise StoreError(
            f"{path!r:.200} is not the path of a slide's arrays; the objects file that names it is damaged or forged"
        )
    wanted = np.asarray(rows, dtype=np.int64)
    encoded: list[bytes] = [b""] * len(wanted)
    for shard in np.unique(wanted // SHARD_ROWS).tolist():
        positions = np.flatnonzero(wanted // SHARD_ROWS == shard)
        name = f"{path}/crops/c/{shard}/0/0/0"
        try:
            contents = _read_from_shard(store, name, wanted[positions] % SHARD_ROWS)
        except FileNotFoundError:
            raise StoreError(
                f"{store.url}/{name} is gone although its slide is committed; see what else is with `fossilray verify`"
            ) from None
        for position, content in zip(positions.tolist(), contents, strict=True):
            encoded[position] = content
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
    contents: list[bytes] = [b""] * len(slots)
    for position, number in zip(order.tolist(), group.tolist(), strict=True):
        offset = int(starts[position] - begin[number])
        contents[position] = blocks[number][offset : offset + int(lengths[position])]
    return contents


def _damaged(store: RunStore, name: str, what: str) -> DamagedFile:
    return DamagedFile(
        f"{store.url}/{name} {what}; check the rest with `fossilray verify --deep`; with --withdraw the next start "
        "processes the slide again"
    )
