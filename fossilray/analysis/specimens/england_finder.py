"""Readings of the England Finder, a glass graticule by which a point of a slide is found on any microscope.

The maker's instructions (Graticules Ltd, reprinted by SPI Supplies) state: a slide of 3 by 1 inch with squares of 1 mm;
numbers from 1 to 75 run horizontally, letters from A to Z without I vertically; a ring in the centre of each square
bears its letter and number, and the rest of the square is divided into four segments, 1 to 4. The bottom edge locates
it first, then the left or the right edge; its label stands at the bottom left. A point in the third segment of the
square K34 is read as K34/3.

No text that was found states the rest, which is therefore assumed: A is the top row and column 1 the left
one; the segments are 1 top left, 2 top right, 3 bottom left, 4 bottom right; the ring is 0.5 mm wide; row Z and column
1 begin at the edges of the glass.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from fossilray.core.errors import UsageError

FINDER_COLUMNS = 75
FINDER_ROWS = "ABCDEFGHJKLMNOPQRSTUVWXYZ"
"""From the top to the bottom."""
CENTRE = 0
"""Number of the ring in the centre of a square, beside the segments 1 to 4."""

_READING = re.compile(r"([A-HJ-Z])\s*([1-9]\d?)(?:\s*[/-]\s*([0-4]))?", re.IGNORECASE)


@dataclass(frozen=True)
class FinderReading:
    """A square of the England Finder and a part of it: `K34/3`, and `K34/0` for the ring in its centre."""

    row: str
    column: int
    segment: int | None
    """CENTRE or 1 to 4; None: the part was not read."""

    def __str__(self) -> str:
        return f"{self.row}{self.column}" + ("" if self.segment is None else f"/{self.segment}")


@dataclass(frozen=True)
class FinderGrid:
    """Where the squares of the finder lie on its glass, seen with its label at the left."""

    left_mm: float = 0.0
    """From the left edge of the glass to the left side of column 1."""
    bottom_mm: float = 0.0
    """From the bottom edge of the glass to the lower side of row Z."""
    ring_mm: float = 0.5
    """Diameter of the ring in the centre of a square."""

    def read(self, from_left_mm: float, from_bottom_mm: float) -> FinderReading | None:
        """Return the reading at a point of the glass; None beside the squares."""
        across, up = from_left_mm - self.left_mm, from_bottom_mm - self.bottom_mm
        column, row = math.floor(across), math.floor(up)
        if not (0 <= column < FINDER_COLUMNS and 0 <= row < len(FINDER_ROWS)):
            return None
        right, above = across - column - 0.5, up - row - 0.5
        if math.hypot(right, above) <= self.ring_mm / 2:
            segment = CENTRE
        else:
            segment = (1 if above >= 0 else 3) + (1 if right >= 0 else 0)
        return FinderReading(FINDER_ROWS[-1 - row], column + 1, segment)

    def locate(self, reading: FinderReading) -> tuple[float, float]:
        """Return the middle of a reading's segment, or of its square: mm from the left and from the bottom edge."""
        across, up = reading.column - 0.5, len(FINDER_ROWS) - FINDER_ROWS.index(reading.row) - 0.5
        if reading.segment:
            across += 0.25 if reading.segment in (2, 4) else -0.25
            up += 0.25 if reading.segment in (1, 2) else -0.25
        return self.left_mm + across, self.bottom_mm + up


def parse_reading(text: str) -> FinderReading:
    """Parse a reading such as K34/3, K34-3, K34/0 (the centre) or K34.

    Raises:
        UsageError: the text is no reading.
    """
    match = _READING.fullmatch(text.strip())
    if match is None or int(match[2]) > FINDER_COLUMNS:
        raise UsageError(
            f"{text!r:.60} is no reading of the England Finder; give a letter from A to Z without I, a number from 1 "
            f"to {FINDER_COLUMNS}, and 0 (the centre) or the segment from 1 to 4: K34/3"
        )
    return FinderReading(match[1].upper(), int(match[2]), None if match[3] is None else int(match[3]))
