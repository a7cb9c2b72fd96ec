"""Whether the arrays that a commit names are there and whole: by size and shape, or by decoding all of them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fossilray.errors import StoreError
from fossilray.records import ArrayFiles
from fossilray.store import RunStore
from fossilray.store.arrays import crop_decoder
from fossilray.store.shards import ABSENT, SHARD_ROWS, index_size, read_index
from fossilray.store.stored_vectors import decode_embeddings

ArrayFaultKind = Literal["missing", "extra", "size", "checksum", "shape", "crops", "embeddings"]

_CROPS = "crops/zarr.json"
_EMBEDDINGS = "embeddings/zarr.json"
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
    store: RunStore, arrays: ArrayFiles, found: Mapping[str, int], *, objects: int, deep: bool
) -> list[ArrayFault]:
    """Faults of one slide's arrays; `found` has the size of each file of the group, by its path inside it.

    Reads the metadata of crops and embeddings; with `deep` every file, one at a time, and decodes all rows.
    """
    faults = list(_compare_listing(arrays, found))
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
    try:
        layout = _read_layout(metadata)
    except (KeyError, ValueError, TypeError) as error:
        if {"zarr.json", _CROPS} <= metadata.keys():
            faults.append(_fault(arrays, _CROPS, "shape", f"is no metadata of crops ({error})"))
        return faults
    faults += _compare_layout(arrays, layout, objects)
    if deep and layout.rows == objects:
        for name in (name for name in whole if not name.endswith("zarr.json")):
            faults += _decode_file(arrays, name, store.files.read(f"{arrays.path}/{name}"), layout)
    return faults


@dataclass(frozen=True)
class _Layout:
    """What the group's metadata promises."""

    encoding: str
    rows: int
    height: int
    width: int
    embeddings: tuple[int, int] | None
    """Rows and dimension; None where there are none."""


def _compare_listing(arrays: ArrayFiles, found: Mapping[str, int]) -> Iterator[ArrayFault]:
    for name, size in sorted(arrays.bytes.items()):
        if name not in found:
            yield _fault(arrays, name, "missing", "is missing")
        elif found[name] != size:
            yield _fault(arrays, name, "size", f"has {found[name]:,} bytes and was written with {size:,}")
    for name in ("zarr.json", _CROPS):
        if name not in arrays.bytes:
            yield _fault(arrays, name, "missing", "was never written")
    for name in sorted(found.keys() - arrays.bytes.keys()):
        yield _fault(arrays, name, "extra", "is no file that the slide's commit names")


def _compare_checksum(arrays: ArrayFiles, name: str, content: bytes) -> ArrayFault | None:
    if hashlib.sha256(content).hexdigest() == arrays.sha256.get(name):
        return None
    return _fault(arrays, name, "checksum", "is not what was written: its sha256 differs from the footer's")


def _read_layout(metadata: Mapping[str, bytes]) -> _Layout:
    encoding = json.loads(metadata["zarr.json"])["attributes"]["encoding"]
    rows, height, width, _ = json.loads(metadata[_CROPS])["shape"]
    embeddings = None
    if _EMBEDDINGS in metadata:
        described, dimension = json.loads(metadata[_EMBEDDINGS])["shape"]
        embeddings = (int(described), int(dimension))
    return _Layout(str(encoding), int(rows), int(height), int(width), embeddings)


def _compare_layout(arrays: ArrayFiles, layout: _Layout, objects: int) -> Iterator[ArrayFault]:
    if layout.rows != objects:
        yield _fault(arrays, _CROPS, "shape", f"declares {layout.rows:,} crops for {objects:,} objects")
    if layout.embeddings is not None and layout.embeddings[0] != objects:
        yield _fault(
            arrays,
            _EMBEDDINGS,
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


def _decode_file(arrays: ArrayFiles, name: str, content: bytes, layout: _Layout) -> Iterator[ArrayFault]:
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


def _lost_crops(shard: bytes, layout: _Layout, rows: int) -> list[int]:
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
