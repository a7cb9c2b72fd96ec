"""The bytes of a coder gone through field by field before FAISS, which believes what they claim, is given them.

The layout is that of FAISS's write_index for `PCA<a>,IVF<n>,SQ<b>`, of versions 1.10 to 1.15: all integers and floats
little endian, arrays behind their length. Every byte is either one of a number of an array or compared with the one
value that it has in a coder of this name, so that nothing is left to choose.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_METRIC_L2 = 1
_QUANTIZERS = {"SQ8": (0, 8), "SQ6": (6, 6), "SQ4": (1, 4)}
"""FAISS's number for the type, and bits of each number."""


class NoCoder(ValueError):
    """The bytes are not those of a coder; the text says which field is another."""


def check_coder(content: bytes, *, axes: int, bits: str, dimension: int, lists: int) -> None:
    """Refuse what is not an empty inverted file with these axes, bits, dimension and number of lists.

    Raises:
        NoCoder: a field has another value, an array another length or numbers that are not finite, or bytes are left.
    """
    reader = _Reader(content)
    quantizer, width = _QUANTIZERS[bits]
    if dimension > axes:
        reader.expect("kind", b"IxPT")
        reader.index(dimension)
        reader.number("transforms", "i", 1)
        reader.expect("kind of transform", b"Pcam")
        reader.skip("f")  # power of eigenvalues, which training alone uses
        reader.skip("f")
        reader.skip("B")
        reader.skip("i")
        reader.floats("mean", (dimension,))
        # Of fewer vectors than dimensions FAISS finds as many axes as there were vectors.
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
    reader.skip("Q")  # lists that a search looks into by itself; here they are named
    reader.expect("kind of centres", b"IxF2")
    reader.index(kept, entries=lists)
    reader.floats("centres", (lists * kept,))
    reader.number("direct map", "B", 0)
    reader.number("direct map", "Q", 0)
    reader.number("kind of quantizer", "i", quantizer)
    reader.skip("i")  # how ranges are found
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
        self._place = 0

    def expect(self, what: str, wanted: bytes) -> None:
        found = self._take(len(wanted))
        if found != wanted:
            raise NoCoder(f"its {what} is {found!r}, not {wanted!r}")

    def number(self, what: str, kind: str, wanted: int) -> None:
        (found,) = self._unpack(kind)
        if found != wanted:
            raise NoCoder(f"its {what} is {found:,}, not {wanted:,}")

    def skip(self, kind: str) -> None:
        """A field that nothing here depends on."""
        (found,) = self._unpack(kind)
        if kind == "f" and not np.isfinite(found):
            raise NoCoder("a setting of it is not finite")

    def index(self, dimension: int, entries: int = 0) -> None:
        """What every index of FAISS begins with."""
        self.number("dimension", "i", dimension)
        self.number("entries", "q", entries)
        self._take(16)
        self.number("trained", "B", 1)
        self.number("metric", "i", _METRIC_L2)

    def floats(self, what: str, lengths: Sequence[int]) -> None:
        (found,) = self._unpack("Q")
        if found not in lengths:
            raise NoCoder(f"its {what} are {found:,} numbers, not {lengths[-1]:,}")
        values: NDArray[np.float32] = np.frombuffer(self._take(4 * found), "<f4")
        if not np.isfinite(values).all():
            raise NoCoder(f"its {what} are not all finite")

    def end(self) -> None:
        if self._place != len(self._content):
            raise NoCoder(f"{len(self._content) - self._place:,} bytes follow its end")

    def _unpack(self, kind: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{kind}", self._take(struct.calcsize(f"<{kind}")))

    def _take(self, count: int) -> bytes:
        found = self._content[self._place : self._place + count]
        if len(found) != count:
            raise NoCoder("it is cut short")
        self._place += count
        return found
