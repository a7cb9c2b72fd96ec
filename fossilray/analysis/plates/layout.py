"""Layout of the pictures of a plate, in millimetres of its page."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from fossilray.core.config.choices import PlateLetters

GAP_MM = 2.0
"""Between pictures."""
LARGEST_MM = 110.0
"""Longest side of a picture, so that a plate of few specimens is not coarse."""


_NEARLY = 0.93


@dataclass(frozen=True)
class Spot:
    """Rectangle of a picture, in mm from the top left corner of the area of the pictures."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class PlateLayout:
    """Positions of pictures and the size that they take."""

    spots: tuple[Spot, ...]
    height_mm: float
    mm_per_um: float | None
    """Magnification of all pictures; None where each has its own."""


def lay_out_grid(count: int, *, width_mm: float, height_mm: float, columns: int | None = None) -> PlateLayout:
    """Lay pictures out as equal squares, as large as fit, in rows that are centred.

    columns: pictures in a row; None: the number that makes them largest.
    """

    def side_for(across: int) -> float:
        rows = math.ceil(count / across)
        side = min(
            (width_mm - (across - 1) * GAP_MM) / across,
            (height_mm - (rows - 1) * GAP_MM) / rows,
        )
        return min(side, LARGEST_MM)

    across = columns or 1
    if columns is None:
        largest = max(side_for(number) for number in range(1, count + 1))
        # The most in a row, where that costs little: the page is then filled from side to side.
        across = max(number for number in range(1, count + 1) if side_for(number) >= _NEARLY * largest)
    side = side_for(across)
    spots = []
    for number in range(count):
        row, column = divmod(number, across)
        in_row = min(across, count - row * across)
        indent = (width_mm - in_row * side - (in_row - 1) * GAP_MM) / 2
        spots.append(Spot(indent + column * (side + GAP_MM), row * (side + GAP_MM), side, side))
    rows = math.ceil(count / across)
    return PlateLayout(tuple(spots), rows * side + (rows - 1) * GAP_MM, None)


def lay_out_scaled(
    sizes_um: Sequence[tuple[float, float]], *, width_mm: float, height_mm: float
) -> PlateLayout:
    """Lay pictures out at one magnification, the largest that fits, in rows that are filled in their order.

    sizes_um: width and height of each picture.
    """
    longest = max(max(size) for size in sizes_um)
    low, high = 0.0, min(LARGEST_MM, width_mm, height_mm) / longest
    if not _fits(sizes_um, high, width_mm, height_mm):
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if _fits(sizes_um, middle, width_mm, height_mm) else (low, middle)
    else:
        low = high
    spots: list[Spot] = []
    top = 0.0
    for row in _fill_rows(sizes_um, low, width_mm):
        used = sum(width for width, _ in row) + (len(row) - 1) * GAP_MM
        left, tallest = (width_mm - used) / 2, max(height for _, height in row)
        for width, height in row:
            spots.append(Spot(left, top + (tallest - height) / 2, width, height))
            left += width + GAP_MM
        top += tallest + GAP_MM
    return PlateLayout(tuple(spots), top - GAP_MM, low)


def letters_of(count: int, kind: PlateLetters) -> list[str]:
    """Return the letters or numbers of the figures of a plate: A, …, Z, AA, …"""
    if kind == "numbers":
        return [str(number) for number in range(1, count + 1)]
    names = ["".join(letters) for letters in itertools.islice(_letters(), count)]
    return [name.lower() for name in names] if kind == "lower" else names


def _letters() -> Iterator[tuple[str, ...]]:
    for length in itertools.count(1):
        yield from itertools.product(ascii_uppercase, repeat=length)


def _fits(sizes_um: Sequence[tuple[float, float]], scale: float, width_mm: float, height_mm: float) -> bool:
    if max(width for width, _ in sizes_um) * scale > width_mm:
        return False
    rows = list(_fill_rows(sizes_um, scale, width_mm))
    used = sum(max(height for _, height in row) for row in rows) + (len(rows) - 1) * GAP_MM
    return used <= height_mm


def _fill_rows(
    sizes_um: Sequence[tuple[float, float]], scale: float, width_mm: float
) -> Iterator[list[tuple[float, float]]]:
    row: list[tuple[float, float]] = []
    used = 0.0
    for width_um, height_um in sizes_um:
        width, height = width_um * scale, height_um * scale
        if row and used + GAP_MM + width > width_mm * (1 + 1e-9):
            yield row
            row, used = [], 0.0
        used += width + (GAP_MM if row else 0.0)
        row.append((width, height))
    yield row
