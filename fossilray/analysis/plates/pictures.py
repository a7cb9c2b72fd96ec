"""Pictures of specimens for a plate: from the slide at full resolution, else the crop that the run stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from fossilray.analysis.export.boxes import has_letterboxed_crops
from fossilray.analysis.specimens.slide_files import AvailableFiles
from fossilray.analysis.specimens.specimens import RunSpecimen
from fossilray.core.errors import SlideError
from fossilray.core.images import content_box
from fossilray.core.types import Image
from fossilray.render.crops import background_colour
from fossilray.slides.slide import Slide
from fossilray.store import RunStore
from fossilray.store.query.connection import load_crops

MARGIN = 0.12
"""Of the longer side of the box, left around it on each side."""
MOST_PX = 3000
"""Longest side of a picture: 600 px per inch over 127 mm."""


@dataclass(frozen=True)
class SpecimenPicture:
    """Pixels of a specimen and of its surroundings."""

    image: Image
    width_um: float
    height_um: float
    why_reduced: str | None = None
    """Why the stored crop is shown instead of the slide's pixels; None where they are shown."""


def read_pictures(
    store: RunStore, specimens: Sequence[RunSpecimen], files: AvailableFiles, *, is_square: bool
) -> list[SpecimenPicture]:
    """Return a picture of each specimen. is_square: with as much of its surroundings as make it a square."""
    pictures: dict[int, SpecimenPicture] = {}
    for slide_id in {specimen.slide.slide_id: None for specimen in specimens}:
        numbers = [i for i, specimen in enumerate(specimens) if specimen.slide.slide_id == slide_id]
        available = files.open(specimens[numbers[0]].slide)
        if available.slide is None:
            for number in numbers:
                pictures[number] = _stored(store, specimens[number], available.reason, is_square=is_square)
            continue
        with available.slide as slide:
            for number in numbers:
                try:
                    pictures[number] = _read(slide, specimens[number], is_square=is_square)
                except SlideError as error:
                    pictures[number] = _stored(store, specimens[number], str(error), is_square=is_square)
    return [pictures[number] for number in range(len(specimens))]


def _window_px(specimen: RunSpecimen, *, is_square: bool) -> tuple[float, float, float, float]:
    """x, y, width and height of what is shown, in level-0 px."""
    left, top, right, bottom = specimen.box
    margin = MARGIN * max(right - left, bottom - top)
    width, height = right - left + 2 * margin, bottom - top + 2 * margin
    if is_square:
        width = height = max(width, height)
    return (left + right - width) / 2, (top + bottom - height) / 2, width, height


def _read(slide: Slide, specimen: RunSpecimen, *, is_square: bool) -> SpecimenPicture:
    x, y, width, height = _window_px(specimen, is_square=is_square)
    fitting = [
        number
        for number, level in enumerate(slide.info.levels)
        if max(width, height) / level.downsample <= MOST_PX
    ]
    level = min(fitting, default=len(slide.info.levels) - 1)
    downsample = slide.info.levels[level].downsample
    across, down = (max(1, round(side / downsample)) for side in (width, height))
    image = slide.read(level, round(x), round(y), across, down)
    um_per_px = specimen.slide.mpp * downsample
    return SpecimenPicture(image, across * um_per_px, down * um_per_px)


def _stored(store: RunStore, specimen: RunSpecimen, reason: str, *, is_square: bool) -> SpecimenPicture:
    """The stored crop in the middle of a window of the colour of its border."""
    row = pa.table({"arrays": [specimen.arrays], "object_id": pa.array([specimen.object_id], pa.int32())})
    crop = load_crops(store, row)[0]
    mpp = specimen.slide.mpp
    box_um = (specimen.box[2] - specimen.box[0]) * mpp, (specimen.box[3] - specimen.box[1]) * mpp
    size_px = crop.shape[0]
    px_per_um = size_px / max(box_um)
    if has_letterboxed_crops(store):
        left, top, right, bottom = content_box(*box_um, size_px=size_px, fit="letterbox")
        crop = crop[top:bottom, left:right]
    else:
        crop = _resize(crop, *(max(8, round(side * px_per_um)) for side in box_um))
    # Without surroundings, unless they make it a square: the run does not store them.
    _, _, width, height = (side * mpp for side in _window_px(specimen, is_square=True))
    if not is_square:
        width, height = box_um
    across, down = (max(1, round(side * px_per_um)) for side in (width, height))
    image = np.empty((max(down, crop.shape[0]), max(across, crop.shape[1]), 3), np.uint8)
    image[:] = np.clip(np.rint(background_colour(crop.astype(np.float32))), 0, 255).astype(np.uint8)
    top, left = (image.shape[0] - crop.shape[0]) // 2, (image.shape[1] - crop.shape[1]) // 2
    image[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    return SpecimenPicture(image, image.shape[1] / px_per_um, image.shape[0] / px_per_um, reason)


def _resize(crop: Image, width: int, height: int) -> Image:
    from PIL import Image as Pillow

    return np.asarray(Pillow.fromarray(crop).resize((width, height), Pillow.Resampling.LANCZOS))
