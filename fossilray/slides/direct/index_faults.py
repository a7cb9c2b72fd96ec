"""Tiles whose entry in a slide's index leads to no image of their own.

OpenSlide ignores the length of a MIRAX tile and decodes the JPEG at its offset, whatever that is, and shows an
Aperio tile of zero bytes by a coarser level, as if it were whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fossilray.slides.tile_layout import Floats, Ints

NO_BYTES, BEYOND_THE_FILE, LISTED_TWICE = 1, 2, 3
FAULTS = {
    NO_BYTES: "of 0 bytes",
    BEYOND_THE_FILE: "beyond the end of their file",
    LISTED_TWICE: "listed twice at different offsets",
}
"""What is wrong with an entry, by code; 0 is a sound entry."""

# Level-0 px; rectangles of coarser levels end at fractions of a pixel.
_TOUCH_PX = 1e-3


@dataclass(frozen=True, eq=False)
class FaultyTiles:
    """Tiles of one level with faulty entries.

    rects: (n, 4) x_min y_min x_max y_max, level-0 px. reason: (n,) codes of FAULTS.
    """

    rects: Floats
    reason: Ints

    @classmethod
    def of(cls, rects: Ints | Floats, reason: Ints) -> Self:
        return cls(rects.astype(np.float64), reason)

    def reason_within(self, x_min: float, y_min: float, x_max: float, y_max: float) -> str | None:
        """Return what is wrong with a tile that intersects a rectangle in level-0 px; None if there is none."""
        if not len(self.rects):
            return None
        left, top, right, bottom = self.rects.T
        meets = (left < x_max - _TOUCH_PX) & (right > x_min + _TOUCH_PX)
        meets &= (top < y_max - _TOUCH_PX) & (bottom > y_min + _TOUCH_PX)
        reasons = self.reason[meets]
        return FAULTS[int(reasons[0])] if len(reasons) else None


def count_reasons(levels: Iterable[FaultyTiles]) -> Counter[str]:
    """Return the number of tiles of all levels by what is wrong with them."""
    return Counter(FAULTS[code] for level in levels for code in level.reason.tolist())


def entry_faults(offset: Ints, length: Ints, file_bytes: NDArray[np.int64] | int) -> Ints:
    """Return the reason of each entry, 0 for a sound one. file_bytes: size of the entry's file, one or (n,)."""
    reason = np.zeros(len(offset), np.int64)
    is_beyond = (offset < 0) | (length < 0) | (offset > file_bytes - length)
    reason[is_beyond] = BEYOND_THE_FILE
    reason[length == 0] = NO_BYTES
    return reason


def repeated_cells(cells: Ints, positions: Sequence[Ints]) -> NDArray[np.bool_]:
    """Return a mask of the entries whose cell another entry has at another position. positions: as columns (n,)."""
    order = np.lexsort((*positions, cells))
    is_same = np.diff(cells[order]) == 0
    differs = np.zeros(len(is_same), np.bool_)
    for column in positions:
        differs |= np.diff(column[order]) != 0
    clash = is_same & differs
    mask = np.zeros(len(cells), np.bool_)
    mask[order[:-1]] |= clash
    mask[order[1:]] |= clash
    # A cell that is listed three times has sound neighbours in the order.
    return np.isin(cells, cells[mask]) if mask.any() else mask
