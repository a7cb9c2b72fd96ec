"""Use of a slide's focus planes: which of them objects are detected in, and which one each crop is read from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config import RunConfig
from fossilray.slides.focus.plane_slides import PlaneSlides, open_planes
from fossilray.slides.slide import Slide

PlaneChoice: TypeAlias = Callable[[NDArray[np.int32]], tuple[Slide, NDArray[np.float32]]]
"""Gives, for a box (level-0 px), the slide that its crop is read from and the object's sharpness in each plane."""


@dataclass(frozen=True, eq=False)
class FocusedSlide:
    """What the stages read of one slide. detected: slides in which objects are detected. shown: the one of its picture.

    planes: number that is read.
    """

    detected: tuple[Slide, ...]
    shown: Slide
    planes: int
    crop_source: PlaneChoice
    check_losses: Callable[[], None]
    """As of `Slide`, for all planes."""


@contextmanager
def open_focused(slide: Slide, config: RunConfig) -> Iterator[FocusedSlide]:
    """Yield the slide with the focus planes that `slides.planes` names, or as it is where they cannot be read."""
    planes = None if config.slides.planes == "middle" else open_planes(slide)
    if planes is None:
        none = np.zeros(0, np.float32)
        yield FocusedSlide((slide,), slide, 1, lambda _: (slide, none), slide.check_losses)
        return
    with planes:
        detected: tuple[Slide, ...] = (planes.projection,)
        if config.slides.planes == "all":
            # Extended focus as well, so that no object is lost that all planes show a part of.
            detected = (*planes.planes, planes.projection)

        def choose(box: NDArray[np.int32]) -> tuple[Slide, NDArray[np.float32]]:
            sharpness = planes.sharpness(box)
            if config.crops.focus == "extended":
                return planes.projection, sharpness
            return _sharpest(planes, sharpness), sharpness

        def check_losses() -> None:
            for each in (*planes.planes, planes.projection, slide):
                each.check_losses()

        yield FocusedSlide(detected, planes.projection, len(planes.planes), choose, check_losses)


def _sharpest(planes: PlaneSlides, sharpness: NDArray[np.float32]) -> Slide:
    """Return the plane in which an object is sharpest; the reference plane if no plane can be read there."""
    known = ~np.isnan(sharpness)
    return planes.planes[int(np.nanargmax(sharpness)) if known.any() else planes.reference]
