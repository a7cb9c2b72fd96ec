"""The binary layout of one shard of Zarr v3's `sharding_indexed` codec, written and read whole.

Zarr's own writer spends 1.2 ms of event loop on every inner chunk, five times what the JPEG in it costs, and
pads the last shard in memory; a shard whose chunks are all known is only their concatenation and an index.
Layout: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html, with the index at
the end through the codecs `bytes` (little endian) and `crc32c`.
"""

from __future__ import annotations

from collections.abc import Sequence

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import StoreError

SHARD_ROWS = 2048
"""Objects per shard: 33 MB of JPEG at 224 px, some tens of files for a crowded slide."""

ABSENT = np.uint64(2**64 - 1)
"""Offset and length of a chunk that the shard does not hold, by the specification."""

_CHECKSUM_BYTES = 4


def pack_shard(chunks: Sequence[bytes], *, slots: int) -> bytes:
    """A shard of `slots` inner chunks whose first ones are given; the others read as the fill value."""
    index = np.full((slots, 2), ABSENT, dtype="<u8")
    lengths = np.fromiter((len(chunk) for chunk in chunks), dtype="<u8", count=len(chunks))
    index[: len(chunks), 1] = lengths
    index[: len(chunks), 0] = np.cumsum(lengths) - lengths
    encoded = index.tobytes()
    return b"".join((*chunks, encoded, _checksum(encoded)))


def index_size(slots: int) -> int:
    """Bytes of the index at the end of a shard of that many inner chunks."""
    return slots * 16 + _CHECKSUM_BYTES


def read_index(tail: bytes, *, slots: int) -> NDArray[np.uint64]:
    """(slots, 2) offset and length of every inner chunk, from the last `index_size(slots)` bytes of a shard.

    Raises:
        StoreError: the bytes are too few or fail their checksum.
    """
    encoded, checksum = tail[:-_CHECKSUM_BYTES], tail[-_CHECKSUM_BYTES:]
    if len(tail) != index_size(slots) or checksum != _checksum(encoded):
        raise StoreError(
            "the index of a stored shard fails its checksum; its array file is damaged: compare it with the "
            "sha256 in the footer of the slide's objects file"
        )
    return np.frombuffer(encoded, dtype="<u8").reshape(slots, 2)


def _checksum(encoded: bytes) -> bytes:
    return int(google_crc32c.value(encoded)).to_bytes(_CHECKSUM_BYTES, "little")
