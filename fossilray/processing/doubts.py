"""Checks of a slide by its objects, after detection and crops."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config import CropsConfig
from fossilray.core.records import Doubt
from fossilray.core.types import Boxes, SlideInfo
from fossilray.processing.crops.measures import Measures
from fossilray.processing.crops.objects_table import round_outward, touches_rim

_GIANT_SHARE, _GIANT_SIDE = 0.25, 0.8
# Clumps of up to these sizes lie on sound slides; one may cover much of a field of view.
_SMALLEST_GIANT_UM, _SMALLEST_ACROSS_UM = 400.0, 500.0
_RIM_FACTOR, _RIM_SIGMAS, _LEAST_AT_RIM = 2.0, 4.0, 10
# By enlargement of a crop, from reduced to enlarged: sharpness below which it is out of focus. Of the crops of
# synthetic slides that were blurred by 2 um (standard deviation) at 0.25 um per px, with camera noise and JPEG, 95 %
# lie below these values and three quarters of the same crops in focus above; all 34 of a real field in focus lie above.
_LEAST_SHARPNESS = ((1.0, 8.0), (1.87, 5.0), (3.73, 2.5))
_MOST_BLURRED = 0.6
_FEWEST_MEASURED = 20


def check_objects(info: SlideInfo, boxes: Boxes, measures: Measures, crops: CropsConfig) -> tuple[Doubt, ...]:
    """Return the findings about the objects of a slide. boxes: level-0 px, in the order of the measures."""
    corners = round_outward(boxes.xyxy, info).astype(np.float64)
    sides = corners[:, 2:] - corners[:, :2]
    at_rim = touches_rim(corners, info)
    return (
        *_giant_doubts(info, sides),
        *_rim_doubts(info, sides, at_rim),
        *_focus_doubts(sides, measures, crops),
    )


def longest_um_quartiles(info: SlideInfo, boxes: Boxes) -> tuple[float, ...]:
    """Return the 25th, 50th and 75th percentile of the objects' longest side in um; empty without objects."""
    if not len(boxes):
        return ()
    corners = round_outward(boxes.xyxy, info)
    longest = (corners[:, 2:] - corners[:, :2]).max(axis=1) * info.mpp
    return tuple(float(value) for value in np.percentile(longest, (25, 50, 75)))


def _giant_doubts(info: SlideInfo, sides: NDArray[np.float64]) -> Iterator[Doubt]:
    scanned = np.array([info.bounds.width, info.bounds.height], np.float64)
    longest_um = sides.max(axis=1, initial=0) * info.mpp
    share = sides.prod(axis=1) / scanned.prod()
    is_large = (share >= _GIANT_SHARE) & (longest_um >= _SMALLEST_GIANT_UM)
    is_across = (sides / scanned >= _GIANT_SIDE).any(axis=1) & (longest_um >= _SMALLEST_ACROSS_UM)
    giants = np.flatnonzero(is_large | is_across)
    if len(giants):
        largest = giants[share[giants].argmax()]
        width, height = sides[largest] * info.mpp
        whole = scanned * info.mpp
        yield Doubt(
            "giant-object",
            float(longest_um[largest]),
            f"object {largest} has {width:.0f} x {height:.0f} um on a scanned area of {whole[0]:.0f} x {whole[1]:.0f}; "
            "check the um per pixel, the light and the slide's picture in the report",
        )


def _rim_doubts(info: SlideInfo, sides: NDArray[np.float64], at_rim: NDArray[np.bool_]) -> Iterator[Doubt]:
    """Compare the number of objects that touch the rim with that of objects scattered evenly over the scanned area."""
    touching = int(at_rim.sum())
    if touching < _LEAST_AT_RIM:
        return
    # The rim cuts the objects that it meets: the others show the true sizes.
    width, height = np.median(sides[~at_rim] if not at_rim.all() else sides, axis=0)
    across, down = info.bounds.width, info.bounds.height
    inside = max(across - width, 0.0) * max(down - height, 0.0) / ((across + width) * (down + height))
    expected = len(sides) * (1 - inside)
    if touching > _RIM_FACTOR * expected and touching - expected > _RIM_SIGMAS * math.sqrt(expected):
        share = touching / len(sides)
        yield Doubt(
            "objects-at-rim",
            share,
            f"{share:.0%} of the objects ({touching:,} of {len(sides):,}) touch the rim of the scanned area, where "
            f"about {expected:,.0f} would lie by chance; the rim may be taken for objects: look at the slide's picture "
            "in the report, and leave them out with NOT touches_edge",
        )


def _focus_doubts(sides: NDArray[np.float64], measures: Measures, crops: CropsConfig) -> Iterator[Doubt]:
    """Compare crops with the least sharpness at their enlargement; strongly enlarged crops are left out."""
    ratio = sides.min(axis=1, initial=np.inf) / np.maximum(sides.max(axis=1, initial=0), 1)
    shown = crops.size_px * (np.sqrt(ratio) if crops.fit == "letterbox" else np.ones(len(sides)))
    enlarged = shown / np.sqrt(np.maximum(sides.prod(axis=1), 1))
    least = np.zeros(len(sides))
    for most_enlarged, sharpness in reversed(_LEAST_SHARPNESS):
        least[enlarged <= most_enlarged] = sharpness
    is_measured = (least > 0) & ~measures.missing
    if is_measured.sum() < _FEWEST_MEASURED:
        return
    blurred = float((measures.sharpness < least)[is_measured].mean())
    if blurred > _MOST_BLURRED:
        yield Doubt(
            "out-of-focus",
            blurred,
            f"{blurred:.0%} of {is_measured.sum():,} crops are out of focus, more than {_MOST_BLURRED:.0%}; small and "
            "pale objects are lost: scan the slide again with another focus",
        )
