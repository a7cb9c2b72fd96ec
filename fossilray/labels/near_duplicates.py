"""Near duplicates among labelled crops: one picture saved again, resized, brightened, rotated or mirrored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fossilray.core.images import resize_to

HASH_SIDE = 16
"""Frequencies per side: 16 x 16 without the mean give 255 bits, which separate two cysts of one genus."""

NEAR_BITS = 30
"""Bits that may differ: JPEG, resizing and brightness change up to 14. Of 2,119 labelled crops, those of different
classes differ in at least 32, and the ten pairs within 30 were all of the same grain."""

_SEEN_PX = 64
_ROWS_AT_ONCE = 256


def group_duplicates(
    pixels: NDArray[np.uint8], digests: Sequence[str], *, near_bits: int = NEAR_BITS
) -> NDArray[np.int64]:
    """Group pictures (n, S, S, 3) by equal digests or nearly equal perceptual hashes.

    Returns:
        (n,) the row of the first picture of each group.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(pixels)
    hashes = perceptual_hashes(pixels)
    pairs = [_near_pairs(hashes, near_bits), _equal_pairs(digests)]
    left, right = np.concatenate(pairs, axis=1)
    linked = coo_array((np.ones(len(left), bool), (left, right)), shape=(count, count))
    _, component = connected_components(linked, directed=False)
    _, first, member = np.unique(component, return_index=True, return_inverse=True)
    groups: NDArray[np.int64] = first[member].astype(np.int64)
    return groups


def perceptual_hashes(pixels: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Hash the low frequencies of each picture's grey values, in its eight rotations and reflections.

    A bit is 1 if its frequency is above the median of the picture, so that brightness and contrast do not matter
    (Zauner 2010, section 3.2.1).

    Returns:
        (n, 8, 4), the unchanged picture first.
    """
    from scipy.fft import dctn

    hashes = np.zeros((len(pixels), 8, HASH_SIDE * HASH_SIDE // 64), np.uint64)
    for row, picture in enumerate(pixels):
        grey = resize_to(picture, size_px=_SEEN_PX).astype(np.float32) @ np.array(
            [0.299, 0.587, 0.114], np.float32
        )
        for way in range(8):
            turned = np.rot90(grey.T if way >= 4 else grey, way % 4)
            low = dctn(turned, norm="ortho")[:HASH_SIDE, :HASH_SIDE].ravel()
            low[0] = 0.0  # the mean brightness, which is not compared
            bits = low > np.median(low[1:])
            bits[0] = False
            hashes[row, way] = np.packbits(bits).view(np.uint64)
    return hashes


def _near_pairs(hashes: NDArray[np.uint64], near_bits: int) -> NDArray[np.int64]:
    """Return rows (2, pairs) whose unchanged hash is near one of the eight hashes of the other."""
    pairs = [np.zeros((2, 0), np.int64)]
    plain = hashes[:, 0]
    for first in range(0, len(plain), _ROWS_AT_ONCE):
        block = plain[first : first + _ROWS_AT_ONCE]
        near = np.zeros((len(block), len(plain)), bool)
        for way in range(8):
            differing = np.zeros(near.shape, np.uint16)
            for word in range(plain.shape[1]):
                differing += np.bitwise_count(block[:, None, word] ^ hashes[None, :, way, word])
            near |= differing <= near_bits
        left, right = np.nonzero(near)
        left = left + first
        pairs.append(np.stack([left, right])[:, left < right])
    return np.concatenate(pairs, axis=1)


def _equal_pairs(digests: Sequence[str]) -> NDArray[np.int64]:
    first: dict[str, int] = {}
    pairs = [(first.setdefault(digest, row), row) for row, digest in enumerate(digests)]
    return np.array(pairs, np.int64).reshape(-1, 2).T
