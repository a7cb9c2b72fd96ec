"""Which labelled crops are one and the same picture, though saved anew, resized, brightened, turned or mirrored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fossilray.core.images import resize_to

HASH_SIDE = 16
"""Frequencies a side: 16 x 16 less the mean give 255 bits, enough to keep two cysts of one genus apart."""

NEAR_BITS = 30
"""Bits that may differ: JPEG, resizing and brightness cost up to 14. Of 2,119 labelled crops, those of different
classes differ in 32 and more, and the ten pairs within 30 were all the same grain."""

_SEEN_PX = 64
_ROWS_AT_ONCE = 256


def group_duplicates(
    pixels: NDArray[np.uint8], digests: Sequence[str], *, near_bits: int = NEAR_BITS
) -> NDArray[np.int64]:
    """A number for each picture (n, S, S, 3), the same for those that are one: equal digest, or nearly equal hash.

    Numbers are those of the first of each group, so a picture of its own has its own row number.
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
    """Signs of the low frequencies of each picture's grey (n, 8, 4): turned and mirrored in all eight ways.

    The first of the eight is the picture as it is. A frequency counts as 1 above the median of all of its picture,
    so brightness and contrast do not matter (Zauner 2010, section 3.2.1).
    """
    from scipy.fft import dctn

    found = np.zeros((len(pixels), 8, HASH_SIDE * HASH_SIDE // 64), np.uint64)
    for row, picture in enumerate(pixels):
        grey = resize_to(picture, size_px=_SEEN_PX).astype(np.float32) @ np.array(
            [0.299, 0.587, 0.114], np.float32
        )
        for way in range(8):
            turned = np.rot90(grey.T if way >= 4 else grey, way % 4)
            low = dctn(turned, norm="ortho")[:HASH_SIDE, :HASH_SIDE].ravel()
            low[0] = 0.0  # the mean brightness; 0 keeps its bit out of the comparison
            bits = low > np.median(low[1:])
            bits[0] = False
            found[row, way] = np.packbits(bits).view(np.uint64)
    return found


def _near_pairs(hashes: NDArray[np.uint64], near_bits: int) -> NDArray[np.int64]:
    """(2, pairs) of rows of which one, as it is, is near the other in one of its eight ways."""
    found = [np.zeros((2, 0), np.int64)]
    plain = hashes[:, 0]
    for first in range(0, len(plain), _ROWS_AT_ONCE):
        part = plain[first : first + _ROWS_AT_ONCE]
        near = np.zeros((len(part), len(plain)), bool)
        for way in range(8):
            differing = np.zeros(near.shape, np.uint16)
            for word in range(plain.shape[1]):
                differing += np.bitwise_count(part[:, None, word] ^ hashes[None, :, way, word])
            near |= differing <= near_bits
        left, right = np.nonzero(near)
        left = left + first
        found.append(np.stack([left, right])[:, left < right])
    return np.concatenate(found, axis=1)


def _equal_pairs(digests: Sequence[str]) -> NDArray[np.int64]:
    first: dict[str, int] = {}
    pairs = [(first.setdefault(digest, row), row) for row, digest in enumerate(digests)]
    return np.array(pairs, np.int64).reshape(-1, 2).T
