"""Types that travel between rooms: images, rectangles, levels, boxes; the protocols of a detector and an embedder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""H x W x 3 uint8 RGB."""

OnProgress = Callable[[int, int], None]
"""Called with the number of items done and the total."""


def ignore_progress(done: int, total: int, /) -> None:
    """Do nothing: the `OnProgress` of a caller that shows none."""


@dataclass(frozen=True)
class Rect:
    """A half-open rectangle in level-0 pixels."""

    x_min: int
    y_min: int
    x_max: int
    y_max: int

    @property
    def width(self) -> int:
        return self.x_max - self.x_min

    @property
    def height(self) -> int:
        return self.y_max - self.y_min


@dataclass(frozen=True)
class Level:
    """One level of a slide's pyramid; `downsample` is level-0 pixels per pixel of this level."""

    width: int
    height: int
    downsample: float


@dataclass(frozen=True)
class SlideInfo:
    """Metadata of a slide."""

    path: str
    vendor: str
    width: int
    height: int
    mpp: float
    levels: tuple[Level, ...]
    bounds: Rect
    """Scanned area; the whole canvas if the format does not state it."""
    background_rgb: tuple[int, int, int]
    """Colour of the background under transparent pixels."""
    mpp_from: str = "slide"
    """What states `mpp`: `slide`, `sidecar`, `catalog` or `config`."""
    properties: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """Properties of the slide by OpenSlide's names; empty where they were not read."""


@dataclass(frozen=True)
class Boxes:
    """Bounding boxes with scores; functions that return boxes state the coordinate frame.

    xyxy: (n, 4) float64 x_min, y_min, x_max, y_max. score: (n,) float32 from 0 to 1.
    """

    xyxy: NDArray[np.float64]
    score: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.score)

    @staticmethod
    def empty() -> Boxes:
        return Boxes(np.zeros((0, 4)), np.zeros(0, np.float32))

    def take(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> Boxes:
        """Select boxes by a mask or an index array."""
        return Boxes(self.xyxy[which], self.score[which])


class Detector(Protocol):
    """Finds objects in tiles."""

    @property
    def stride_px(self) -> int:
        """Tile origins and sides are multiples of this, in pixels of the detection scale."""
        ...

    def detect(self, tiles: NDArray[np.uint8], *, um_per_px: float) -> list[Boxes]:
        """One Boxes per tile, in tile pixels, for a batch (b, H, W, 3) uint8 RGB seen at `um_per_px`."""
        ...


class Embedder(Protocol):
    """Describes crops by vectors."""

    @property
    def name(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float16]:
        """(n, dimension) float16 for n crops (n, H, W, 3) uint8 RGB."""
        ...
