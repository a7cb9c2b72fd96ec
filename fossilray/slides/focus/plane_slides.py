"""Focus planes of an open slide as slides of their own, and their projection in extended focus."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import UnreadableRegion
from fossilray.core.types import Image, SlideInfo
from fossilray.slides.direct.compositing import Alpha
from fossilray.slides.focus.projection import project
from fossilray.slides.focus.sharpness import SHARPNESS_UM_PER_PX, object_sharpness
from fossilray.slides.focus.stack import FocusStack, open_stack
from fossilray.slides.slide import Slide, level_for

_VENDOR = "focus-plane"
# Sharpness of larger objects is measured on a coarser level.
_MOST_MEASURED_PX = 1024


@dataclass(frozen=True, eq=False)
class PlaneSlides:
    """Focus planes of one slide, each read like a slide; a context manager that closes them.

    planes: in order. projection: all of them in extended focus. reference: the plane that OpenSlide reads.
    """

    planes: tuple[Slide, ...]
    projection: Slide
    reference: int

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as closing:
            for slide in (*self.planes, self.projection):
                closing.callback(slide.close)

    def sharpness(self, box: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return the sharpness of an object in each plane, NaN where it cannot be read. box: level-0 px."""
        x_min, y_min, x_max, y_max = (int(edge) for edge in box)
        info = self.projection.info
        smallest = max(x_max - x_min, y_max - y_min) / _MOST_MEASURED_PX
        level = level_for(info, max(SHARPNESS_UM_PER_PX, smallest * info.mpp))
        downsample = info.levels[level].downsample
        size = (
            max(1, round((edge - begin) / downsample)) for begin, edge in ((x_min, x_max), (y_min, y_max))
        )
        region = (level, x_min, y_min, *size)
        measured = np.full(len(self.planes), np.nan, np.float32)
        for number, plane in enumerate(self.planes):
            try:
                measured[number] = object_sharpness(plane.read(*region), downsample * info.mpp)
            except UnreadableRegion:
                continue
        return measured


def open_planes(slide: Slide) -> PlaneSlides | None:
    """Open the focus planes of a slide; None if it has one, or they cannot be read.

    Raises:
        OSError: the file cannot be read.
    """
    path = Path(slide.info.path)
    stack = open_stack(path)
    if stack is None or (stack.levels[0].width, stack.levels[0].height) != (
        slide.info.width,
        slide.info.height,
    ):
        return None
    info = replace(slide.info, levels=stack.levels, vendor=_VENDOR)
    return PlaneSlides(
        tuple(_as_slide(info, _PlaneHandle(stack, plane)) for plane in range(stack.planes)),
        _as_slide(info, _ProjectionHandle(stack)),
        stack.reference,
    )


def _as_slide(info: SlideInfo, handle: _PlaneHandle | _ProjectionHandle) -> Slide:
    # A read that fails leaves these handles as they are.
    return Slide(info, handle, lambda: handle, reader="openslide")


class _PlaneHandle:
    """One plane, a PixelHandle."""

    def __init__(self, stack: FocusStack, plane: int) -> None:
        self._stack = stack
        self._plane = plane

    def read(self, argb: NDArray[np.uint32], level: int, x: int, y: int) -> None:
        height, width = argb.shape
        _fill(argb, *self._stack.read(self._plane, level, x, y, width, height))

    def close(self) -> None:
        """Leave the files to the stack, which the other planes share."""


class _ProjectionHandle:
    """All planes in extended focus, a PixelHandle."""

    def __init__(self, stack: FocusStack) -> None:
        self._stack = stack

    def read(self, argb: NDArray[np.uint32], level: int, x: int, y: int) -> None:
        height, width = argb.shape
        stack = self._stack
        region = level, x, y, width, height
        downsample = stack.levels[level].downsample
        _fill(argb, *project(stack.read, stack.planes, stack.reference, region, downsample))

    def close(self) -> None:
        """Leave the files to the stack, which the planes share."""


def _fill(argb: NDArray[np.uint32], rgb: Image, alpha: Alpha) -> None:
    bgra = argb.view(np.uint8).reshape(*argb.shape, 4)
    bgra[..., :3] = rgb[..., ::-1]
    bgra[..., 3] = alpha
