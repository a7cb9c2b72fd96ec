"""Positions of the objects of a slide: patches, bare ground, clumps, touching pairs and an empty corner."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_CELL_PX = 512
_PATCH_CELL_PX = 256
_MOST_TRIES = 60


@dataclass(frozen=True)
class CoverGlass:
    """The area under the cover glass of a slide of width x height px: a rectangle with rounded sides.

    The edges of the slide cut it in the middle of each side; the corners stay empty.
    """

    width: int
    height: int

    _POWER = 2.7
    _REACH = 1.02

    def holds(self, x_min: float, y_min: float, x_max: float, y_max: float) -> bool:
        """Return whether the whole rectangle is under the glass."""
        far_x = max(abs(x_min - self.width / 2), abs(x_max - self.width / 2))
        far_y = max(abs(y_min - self.height / 2), abs(y_max - self.height / 2))
        return self._norm(far_x, far_y) <= 1

    def meets(self, x_min: float, y_min: float, x_max: float, y_max: float) -> bool:
        """Return whether any part of the rectangle is under the glass."""
        near_x = max(x_min - self.width / 2, self.width / 2 - x_max, 0)
        near_y = max(y_min - self.height / 2, self.height / 2 - y_max, 0)
        return self._norm(near_x, near_y) < 1

    @property
    def area_px(self) -> float:
        """Approximate area under the glass and on the slide, in px."""
        x, y = (np.linspace(-1, 1, 401),) * 2
        inside = (
            np.abs(x[None] / self._REACH) ** self._POWER + np.abs(y[:, None] / self._REACH) ** self._POWER
        )
        return float((inside < 1).mean()) * self.width * self.height

    def _norm(self, x: float, y: float) -> float:
        return float(
            (x / (self._REACH * self.width / 2)) ** self._POWER
            + (y / (self._REACH * self.height / 2)) ** self._POWER
        )


@dataclass(frozen=True)
class Placement:
    """One object: index of its specimen, orientation (0 to 7), and top left corner and size of its sheet in px."""

    specimen: int
    turn: int
    left: int
    top: int
    width: int
    height: int

    @property
    def right(self) -> int:
        return self.left + self.width

    @property
    def bottom(self) -> int:
        return self.top + self.height

    def meets(self, x_min: float, y_min: float, x_max: float, y_max: float) -> bool:
        return self.left < x_max and x_min < self.right and self.top < y_max and y_min < self.bottom


class Field:
    """Objects indexed by position."""

    def __init__(self) -> None:
        self.placements: list[Placement] = []
        self._cells: dict[tuple[int, int], list[int]] = defaultdict(list)

    def add(self, placement: Placement) -> None:
        for cell in _cells(placement.left, placement.top, placement.right, placement.bottom):
            self._cells[cell].append(len(self.placements))
        self.placements.append(placement)

    def near(self, x_min: float, y_min: float, x_max: float, y_max: float) -> list[int]:
        """Return the indices of placements that overlap a rectangle, in the order they were added."""
        cells = _cells(x_min, y_min, x_max, y_max)
        candidates = {index for cell in cells for index in self._cells.get(cell, ())}
        return sorted(
            index for index in candidates if self.placements[index].meets(x_min, y_min, x_max, y_max)
        )


def arrange_objects(
    sheets: list[tuple[int, int]],
    count: int,
    *,
    glass: CoverGlass,
    clumping: float,
    rng: np.random.Generator,
) -> Field:
    """Arrange `count` objects under the glass, each of the specimens (height, width in px) in turn.

    An object for which no free position is found is left out. clumping: share of objects that touch another.
    """
    field = Field()
    likely = _patches(rng, glass)
    for number in range(count):
        specimen = number % len(sheets)
        turn = int(rng.integers(8))
        height, width = sheets[specimen] if turn % 2 == 0 else sheets[specimen][::-1]
        for _ in range(_MOST_TRIES):
            clumps = bool(field.placements) and rng.random() < clumping
            if clumps:
                x, y = _beside(field.placements[rng.integers(len(field.placements))], width, height, rng)
            else:
                x, y = rng.uniform(0, [glass.width, glass.height])
                if rng.random() > likely[int(y) // _PATCH_CELL_PX, int(x) // _PATCH_CELL_PX]:
                    continue
            placement = Placement(specimen, turn, round(x - width / 2), round(y - height / 2), width, height)
            corners = placement.left, placement.top, placement.right, placement.bottom
            if not glass.holds(*_clip(corners, glass)):
                continue
            # Outside clumps 6 % of the overlapping positions are accepted; objects of a clump overlap a little.
            if not clumps and field.near(*corners) and rng.random() > 0.06:
                continue
            field.add(placement)
            break
    return field


def _patches(rng: np.random.Generator, glass: CoverGlass) -> NDArray[np.float64]:
    """Return the relative density of objects in cells of 256 px, (rows, columns), 0..1; one corner is nearly empty."""
    rows, columns = -(-glass.height // _PATCH_CELL_PX), -(-glass.width // _PATCH_CELL_PX)
    coarse = rng.standard_normal((rows // 8 + 3, columns // 8 + 3)).astype(np.float32)
    patches = np.exp(0.6 * cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC))
    likely = np.clip(patches / np.quantile(patches, 0.95), 0.08, 1.0).astype(np.float64)
    corner_y, corner_x = rng.choice([0.05, 0.95], 2)
    y = np.abs((np.arange(rows) + 0.5) / rows - corner_y)[:, None]
    x = np.abs((np.arange(columns) + 0.5) / columns - corner_x)[None, :]
    likely[np.hypot(y, x) < 0.28] *= 0.04
    return np.asarray(likely, np.float64)


def _beside(other: Placement, width: int, height: int, rng: np.random.Generator) -> tuple[float, float]:
    """Return a centre from which a sheet of this size just reaches another sheet."""
    heading = rng.uniform(0, 2 * np.pi)
    reach = rng.uniform(0.62, 0.95) / 2
    x = other.left + other.width / 2 + reach * (other.width + width) * np.cos(heading)
    y = other.top + other.height / 2 + reach * (other.height + height) * np.sin(heading)
    return float(x), float(y)


def _clip(corners: tuple[int, int, int, int], glass: CoverGlass) -> tuple[int, int, int, int]:
    """Clip a rectangle to the slide; only this part has to be under the glass."""
    left, top, right, bottom = corners
    return max(left, 0), max(top, 0), min(right, glass.width), min(bottom, glass.height)


def _cells(x_min: float, y_min: float, x_max: float, y_max: float) -> list[tuple[int, int]]:
    columns = range(int(x_min // _CELL_PX), int((x_max - 1) // _CELL_PX) + 1)
    rows = range(int(y_min // _CELL_PX), int((y_max - 1) // _CELL_PX) + 1)
    return [(column, row) for row in rows for column in columns]
