"""Check of the arrays that a commit names: by size and shape, or by decoding all of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fossilray.core.errors import DamagedFile, StoreError
from fossilray.core.records import ArrayFiles
from fossilray.store.arrays.array_layout import CROPS, EMBEDDINGS, GROUP, ArraysLayout, parse_layout
from fossilray.store.arrays.embeddings import decode_embeddings
from fossilray.store.arrays.group import crop_decoder
from fossilray.store.arrays.sharding import ABSENT, SHARD_ROWS, index_size, read_index
from fossilray.store.run.run_store import RunStore

ArrayFaultKind = Literal["missing", "extra", "size", "checksum", "shape", "crops", "embeddings"]

_SHARD = re.compile(r"(crops|embeddings)/c/(\d+)/")


@dataclass(frozen=True)
class ArrayFault:
    """What is wrong with one file of a slide's arrays."""

    path: str
    """Relative to the run directory."""
    kind: ArrayFaultKind
    what: str
    """The rest of a sentence that begins with the path."""


def check_arrays(
    store: RunStore, arrays: ArrayFiles, sizes: Mapping[str, int], *, objects: int, deep: bool
) -> list[ArrayFault]:
    """Faults of one slide's arrays; `sizes` has the size of each file of the group, by its path inside it.

    Reads the metadata of crops and embeddings; with `deep` every file, one at a time, and decodes all rows.
    """
    faults = list(_compare_listing(arrays, sizes))
    broken = {fault.path for fault in faults}
    whole = [name for name in sorted(arrays.bytes) if f"{arrays.path}/{name}" not in broken]
    metadata: dict[str, bytes] = {}
    for name in (name for name in whole if name.endswith("zarr.json")):
        content = store.files.read(f"{arrays.path}/{name}")
        fault = _compare_checksum(arrays, name, content)
        if fault is None:
            metadata[name] = content
        else:
            faults.append(fault)
    if not {GROUP, CROPS} <= metadata.keys():
        return faults
    try:
        layout = parse_layout(metadata, url=arrays.path)
    except DamagedFile as error:
        return [*faults, _fault(arrays, CROPS, "shape", f"or the metadata beside it: {error}")]
    faults += _compare_layout(arrays, layout, objects)
    if deep and layout.rows == objects:
        for name in (name for name in whole if not name.endswith("zarr.json")):
            faults += _decode_file(arrays, name, store.files.read(f"{arrays.path}/{name}"), layout)
    return faults


def _compare_listing(arrays: ArrayFiles, sizes: Mapping[str, int]) -> Iterator[ArrayFault]:
    for name, size in sorted(arrays.bytes.items()):
        if name not in sizes:
            yield _fault(arrays, name, "missing", "is missing")
        elif sizes[name] != size:
            yield _fault(arrays, name, "size", f"has {sizes[name]:,} bytes and was written with {size:,}")
    for name in (GROUP, CROPS):
        if name not in arrays.bytes:
            yield _fault(arrays, name, "missing", "was never written")
    for name in sorted(sizes.keys() - arrays.bytes.keys()):
        yield _fault(arrays, name, "extra", "is no file that the slide's commit names")


def _compare_checksum(arrays: ArrayFiles, name: str, content: bytes) -> ArrayFault | None:
    if hashlib.sha256(content).hexdigest() == arrays.sha256.get(name):
        return None
    return _fault(arrays, name, "checksum", "is not what was written: its sha256 differs from the footer's")


def _compare_layout(arrays: ArrayFiles, layout: ArraysLayout, objects: int) -> Iterator[ArrayFault]:
    if layout.rows != objects:
        yield _fault(arrays, CROPS, "shape", f"declares {layout.rows:,} crops for {objects:,} objects")
    if layout.embeddings is not None and layout.embeddings[0] != objects:
        yield _fault(
            arrays,
            EMBEDDINGS,
            "shape",
            f"declares {layout.embeddings[0]:,} embeddings for {objects:,} objects",
        )
    shards = -(-objects // SHARD_ROWS)
    wanted = [f"crops/c/{shard}/0/0/0" for shard in range(shards)]
    if layout.embeddings is not None:
        wanted += [f"embeddings/c/{shard}/0" for shard in range(shards)]
    for name in wanted:
        if name not in arrays.bytes:
            yield _fault(arrays, name, "missing", "was never written")


def _decode_file(arrays: ArrayFiles, name: str, content: bytes, layout: ArraysLayout) -> Iterator[ArrayFault]:
    """Faults of one shard; one whose checksum differs is decoded all the same, to name the objects it cost."""
    fault = _compare_checksum(arrays, name, content)
    if fault is not None:
        yield fault
    named = _SHARD.match(name)
    if named is None:
        return
    array, shard = named[1], int(named[2])
    first, rows = shard * SHARD_ROWS, min(SHARD_ROWS, layout.rows - shard * SHARD_ROWS)
    try:
        if array == "crops":
            lost = _lost_crops(content, layout, rows)
            if lost:
                yield _fault(arrays, name, "crops", _count("crops that cannot be decoded", lost, first))
        elif layout.embeddings is not None:
            vectors = decode_embeddings(content, rows=rows, dimension=layout.embeddings[1])
            odd = np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist()
            if odd:
                yield _fault(arrays, name, "embeddings", _count("embeddings that are not finite", odd, first))
    except StoreError as error:
        kind: ArrayFaultKind = "crops" if array == "crops" else "embeddings"
        yield _fault(arrays, name, kind, f"cannot be decoded ({str(error).partition(';')[0]})")


def _lost_crops(shard: bytes, layout: ArraysLayout, rows: int) -> list[int]:
    """Rows of a shard whose crop is absent, reaches out of the file or does not decode to its stated size."""
    decode = crop_decoder(layout.encoding, height=layout.height, width=layout.width)
    index = read_index(shard[-index_size(SHARD_ROWS) :], slots=SHARD_ROWS)
    lost = []
    for row, (offset, length) in enumerate(index[:rows]):
        encoded = b"" if offset == ABSENT else shard[int(offset) : int(offset) + int(length)]
        try:
            decode(encoded)
        except StoreError:
            lost.append(row)
    return lost


def _count(what: str, rows: list[int], first: int) -> str:
    return f"holds {len(rows):,} {what}, the first of object {first + rows[0]}"


def _fault(arrays: ArrayFiles, name: str, kind: ArrayFaultKind, what: str) -> ArrayFault:
    return ArrayFault(f"{arrays.path}/{name}", kind, what)
