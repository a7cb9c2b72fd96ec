"""Merge the objects of several focus planes of one slide: an object that many planes show is kept once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fossilray.core.boxes import box_area, box_iou
from fossilray.processing.detection.detect import Detections, PassLoss
from fossilray.processing.detection.merge import (
    Merged,
    concatenate_boxes,
    in_row_order,
    overlapping_pairs,
    share_inside,
)

# Out of focus an object is larger. A box inside that of another plane which is not far larger shows the same object.
_INSIDE_SHARE, _LEAST_AREA_RATIO = 0.85, 0.3


def merge_planes(planes: Sequence[Merged], *, same_iou: float) -> Merged:
    """Return the objects of all planes, in row order; of boxes that show one object, the one with the highest score.

    Boxes of one plane never suppress each other. same_iou: IoU from which boxes of two planes are one object.
    """
    if len(planes) == 1:
        return planes[0]
    boxes = concatenate_boxes([plane.boxes for plane in planes])
    plane_of = np.repeat(np.arange(len(planes)), [len(plane.boxes) for plane in planes])
    order = np.lexsort((*boxes.xyxy.T[::-1], plane_of, -boxes.score))
    boxes, plane_of = boxes.take(order), plane_of[order]
    first, second = overlapping_pairs(boxes.xyxy, boxes.xyxy)
    apart = (first < second) & (plane_of[first] != plane_of[second])
    first, second = first[apart], second[apart]
    better, worse = boxes.xyxy[first], boxes.xyxy[second]
    areas = np.stack([box_area(better), box_area(worse)])
    inside = np.maximum(share_inside(better, worse), share_inside(worse, better))
    ratio = areas.min(axis=0) / np.maximum(areas.max(axis=0), 1e-9)
    is_same = (box_iou(better, worse) >= same_iou) | (
        (inside >= _INSIDE_SHARE) & (ratio >= _LEAST_AREA_RATIO)
    )
    first, second = first[is_same], second[is_same]
    is_gone = np.zeros(len(boxes), np.bool_)
    sequence = np.lexsort((second, first))
    for winner, loser in zip(first[sequence].tolist(), second[sequence].tolist(), strict=True):
        if not is_gone[winner]:
            is_gone[loser] = True
    return Merged(in_row_order(boxes.take(~is_gone)), sum(plane.outside for plane in planes))


def add_detections(planes: Sequence[Detections]) -> Detections:
    """Return the detections of all planes as one: counts are added, and of each pass the largest loss counts."""
    first = planes[0]
    if len(planes) == 1:
        return first
    passes: list[PassLoss] = [
        max(losses, key=lambda loss: loss.lost_share)
        for losses in zip(*(plane.passes for plane in planes), strict=True)
    ]
    return Detections(
        [part for plane in planes for part in plane.tiles],
        sum(plane.tiles_planned for plane in planes),
        sum(plane.tiles_blank for plane in planes),
        sum(plane.tiles_failed for plane in planes),
        first.coarsest_level,
        content_mm2=max(plane.content_mm2 for plane in planes),
        passes=tuple(passes),
        shown_megapixels=sum(plane.shown_megapixels for plane in planes),
    )
