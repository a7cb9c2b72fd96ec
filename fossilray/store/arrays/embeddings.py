"""Encoding of embeddings in shards, and reading of single embeddings by their row.

A shard holds 2,048 rows as chunks of 16, each its numbers (float16, little endian, rows one after the other) and the
CRC-32C of them, and then the index that Zarr's `sharding_indexed` requires. Every chunk is of one length, so that a row
is one ranged read, without the index; nothing is compressed, for vectors hardly are compressible.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import StoreError
from fossilray.core.records import ArrayFiles
from fossilray.store.arrays.sharding import ABSENT, SHARD_ROWS, index_size, pack_shard, read_index
from fossilray.store.files.base import Files
from fossilray.store.run.objects_file import read_committed

CHUNK_ROWS = 16
"""Rows that are read and checked together: 16 kB of 512 numbers each."""
_SLOTS = SHARD_ROWS // CHUNK_ROWS
_CHECKSUM_BYTES = 4


def chunk_size(dimension: int) -> int:
    """Bytes of a chunk of vectors."""
    return CHUNK_ROWS * dimension * 2 + _CHECKSUM_BYTES


def encode_embeddings(vectors: NDArray[np.float16]) -> bytes:
    """A shard of the vectors (n, d) of at most 2,048 rows; the last chunk is filled up with 0."""
    count, dimension = vectors.shape
    rows = np.zeros((-(-count // CHUNK_ROWS) * CHUNK_ROWS, dimension), "<f2")
    rows[:count] = vectors
    chunks = []
    for first in range(0, count, CHUNK_ROWS):
        content = rows[first : first + CHUNK_ROWS].tobytes()
        chunks.append(content + _checksum(content))
    return pack_shard(chunks, slots=_SLOTS)


def decode_embeddings(shard: bytes, *, rows: int, dimension: int) -> NDArray[np.float16]:
    """The rows (rows, dimension) of a stored shard.

    Raises:
        StoreError: the bytes are not such a shard.
    """
    index = read_index(shard[-index_size(_SLOTS) :], slots=_SLOTS)
    held, size = int((index[:, 0] != ABSENT).sum()), chunk_size(dimension)
    if len(shard) != held * size + index_size(_SLOTS) or rows > held * CHUNK_ROWS:
        raise StoreError(
            f"a stored shard of {len(shard)} bytes does not hold {rows} embeddings of {dimension}; it is damaged: "
            "compare it with the sha256 in the footer of the slide's objects file"
        )
    chunks = _decode((shard[first : first + size] for first in range(0, held * size, size)), dimension)
    return np.concatenate([np.zeros((0, dimension), np.float16), *chunks])[:rows]


def read_embeddings(
    files: Files, path: str, chunks: Sequence[int], *, dimension: int
) -> list[NDArray[np.float16]]:
    """Chunks of one slide's embeddings by number, (16, dimension) each: rows 16 n to 16 n + 15 of chunk n.

    path: of the Zarr group. Chunks that follow each other come with one read.

    Raises:
        FileNotFoundError: the shard is missing.
        StoreError: it is cut short or damaged.
    """
    size = chunk_size(dimension)
    decoded: list[NDArray[np.float16]] = []
    for shard, neighbours in groupby(chunks, key=lambda chunk: chunk // _SLOTS):
        name = f"{path}/embeddings/c/{shard}/0"
        slots = [chunk % _SLOTS for chunk in neighbours]
        begins = [n for n, slot in enumerate(slots) if not n or slot != slots[n - 1] + 1]
        runs = [slots[first:last] for first, last in pairwise([*begins, len(slots)])]
        contents = files.read_ranges(name, [(run[0] * size, (run[-1] + 1) * size) for run in runs])
        try:
            for content, run in zip(contents, runs, strict=True):
                decoded += _decode((content[n * size : (n + 1) * size] for n in range(len(run))), dimension)
        except StoreError as error:
            raise StoreError(f"{files.url}/{name}: {error}") from None
    return decoded


def iter_shards(
    files: Files, arrays: ArrayFiles, *, rows: int, dimension: int
) -> Iterator[NDArray[np.float16]]:
    """Yield the embeddings (n, dimension) of one slide shard by shard, the next ones read ahead.

    rows: objects of the slide.

    Raises:
        StoreError: a shard is missing, or its sha256 is not the one in the footer of the slide's objects file.
    """
    starts = range(0, rows, SHARD_ROWS)
    names = [f"embeddings/c/{shard}/0" for shard in range(len(starts))]
    contents = read_committed(files, [f"{arrays.path}/{name}" for name in names])
    for start, name, content in zip(starts, names, contents, strict=True):
        if hashlib.sha256(content).hexdigest() != arrays.sha256.get(name):
            raise StoreError(
                f"{files.url}/{arrays.path}/{name} is not what was written; see what else is damaged with "
                "`fossilray verify`"
            )
        yield decode_embeddings(content, rows=min(SHARD_ROWS, rows - start), dimension=dimension)


def _decode(chunks: Iterable[bytes], dimension: int) -> list[NDArray[np.float16]]:
    decoded = []
    for chunk in chunks:
        content, checksum = chunk[:-_CHECKSUM_BYTES], chunk[-_CHECKSUM_BYTES:]
        if len(chunk) != chunk_size(dimension) or checksum != _checksum(content):
            raise StoreError(
                f"stored embeddings of {dimension} fail their checksum; their array file is damaged: compare it with "
                "the sha256 in the footer of the slide's objects file"
            )
        decoded.append(np.frombuffer(content, "<f2").reshape(CHUNK_ROWS, dimension))
    return decoded


def _checksum(content: bytes) -> bytes:
    return int(google_crc32c.value(content)).to_bytes(_CHECKSUM_BYTES, "little")
