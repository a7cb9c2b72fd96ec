"""Validation of a serialised quantizer, field by field, before FAISS reads it, because FAISS trusts its input.

The layout is that of FAISS's write_index for `PCA<a>,IVF<n>,SQ<b>`, versions 1.10 to 1.15: integers and floats in
little endian, each array after its length. Every byte belongs either to an array or to a field that must have the one
value of a quantizer of this name.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_METRIC_L2 = 1
_QUANTIZERS = {"SQ8": (0, 8), "SQ6": (6, 6), "SQ4": (1, 4)}
"""FAISS's number of each type, and its bits per component."""


class NotAQuantizer(ValueError):
    """The bytes are not a quantizer; the message names the field."""


def check_quantizer(content: bytes, *, axes: int, bits: str, dimension: int, lists: int) -> None:
    """Check that the bytes are an empty inverted file with these axes, bits, dimension and number of lists.

    Raises:
        NotAQuantizer: a field has another value, an array has another length or values that are not finite, or bytes
            follow the end.
    """
    reader = _Reader(content)
    quantizer, width = _QUANTIZERS[bits]
    if dimension > axes:
        reader.expect("kind", b"IxPT")
        reader.index(dimension)
        reader.number("transforms", "i", 1)
        reader.expect("kind of transform", b"Pcam")
        reader.skip("f")  # power of eigenvalues, used in training only
        reader.skip("f")
        reader.skip("B")
        reader.skip("i")
        reader.floats("mean", (dimension,))
        # With fewer training vectors than dimensions FAISS finds as many axes as vectors.
        reader.floats("eigenvalues", (0, *range(axes, dimension + 1)))
        reader.floats("axes", range(dimension * axes, dimension * dimension + 1, dimension))
        reader.number("offset", "B", 1)
        reader.floats("rotation", (dimension * axes,))
        reader.floats("offsets", (axes,))
        reader.number("dimension in", "i", dimension)
        reader.number("dimension out", "i", axes)
        reader.number("trained", "B", 1)
    kept = min(dimension, axes)
    code = (kept * width + 7) // 8
    reader.expect("kind of list", b"IwSq")
    reader.index(kept)
    reader.number("lists", "Q", lists)
    reader.skip("Q")  # default number of probes; a search passes its own
    reader.expect("kind of centres", b"IxF2")
    reader.index(kept, entries=lists)
    reader.floats("centres", (lists * kept,))
    reader.number("direct map", "B", 0)
    reader.number("direct map", "Q", 0)
    reader.number("kind of quantizer", "i", quantizer)
    reader.skip("i")  # statistic behind the ranges
    reader.skip("f")
    reader.number("quantizer's dimension", "Q", kept)
    reader.number("bytes of a code", "Q", code)
    reader.floats("ranges", (2 * kept,))
    reader.number("bytes of a code", "Q", code)
    reader.number("coding of differences", "B", 1)
    reader.expect("kind of entries", b"ilar")
    reader.number("lists", "Q", lists)
    reader.number("bytes of a code", "Q", code)
    reader.expect("kind of lengths", b"sprs")
    reader.number("entries", "Q", 0)
    reader.end()


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content = content
        self._position = 0

    def expect(self, field: str, expected: bytes) -> None:
        value = self._take(len(expected))
        if value != expected:
            raise NotAQuantizer(f"its {field} is {value!r}, not {expected!r}")

    def number(self, field: str, kind: str, expected: int) -> None:
        (value,) = self._unpack(kind)
        if value != expected:
            raise NotAQuantizer(f"its {field} is {value:,}, not {expected:,}")

    def skip(self, kind: str) -> None:
        """Skip a field that searches do not use; a float must be finite."""
        (value,) = self._unpack(kind)
        if kind == "f" and not np.isfinite(value):
            raise NotAQuantizer("a setting of it is not finite")

    def index(self, dimension: int, entries: int = 0) -> None:
        """Check the header of a FAISS index."""
        self.number("dimension", "i", dimension)
        self.number("entries", "q", entries)
        self._take(16)
        self.number("trained", "B", 1)
        self.number("metric", "i", _METRIC_L2)

    def floats(self, field: str, lengths: Sequence[int]) -> None:
        (count,) = self._unpack("Q")
        if count not in lengths:
            raise NotAQuantizer(f"its {field} are {count:,} numbers, not {lengths[-1]:,}")
        values: NDArray[np.float32] = np.frombuffer(self._take(4 * count), "<f4")
        if not np.isfinite(values).all():
            raise NotAQuantizer(f"its {field} are not all finite")

    def end(self) -> None:
        if self._position != len(self._content):
            raise NotAQuantizer(f"{len(self._content) - self._position:,} bytes follow its end")

    def _unpack(self, kind: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{kind}", self._take(struct.calcsize(f"<{kind}")))

    def _take(self, count: int) -> bytes:
        content = self._content[self._position : self._position + count]
        if len(content) != count:
            raise NotAQuantizer("it is truncated")
        self._position += count
        return content
