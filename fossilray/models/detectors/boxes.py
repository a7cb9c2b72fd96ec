"""From what a network puts out to boxes: rows read right, overlaps within a tile suppressed, clipped to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import WeightsError
from fossilray.core.types import Boxes

if TYPE_CHECKING:
    import torch

RowLayout = Literal["classes", "objectness", "boxes"]
"""classes: centre x, centre y, width, height, one score a class (YOLOv8 and later).
objectness: the same with the objectness before the class scores (YOLOv5).
boxes: x_min, y_min, x_max, y_max, score, class (end-to-end heads, exports with suppression inside)."""

_MEDIAN_STEP_PX = 8
"""Of every pixel, the median of a tile would take a third as long as the network."""

Candidates: TypeAlias = "tuple[torch.Tensor, torch.Tensor]"
"""Of one image: (n, 4) boxes as x_min, y_min, x_max, y_max, and their n scores, in float32."""

MOST_CANDIDATES = 30_000
"""Boxes that enter suppression, best first; its memory grows with their square on CUDA."""


def decode_rows(
    rows: torch.Tensor,
    *,
    layout: RowLayout,
    confidence: float,
    iou: float,
    most: int,
    width_px: int,
    height_px: int,
) -> list[Boxes]:
    """One Boxes per image from (b, n, channels) rows: class-agnostic, best first, clipped to the window."""
    found = find_candidates(rows, layout=layout, confidence=confidence)
    return suppress(found, iou=iou, most=most, width_px=width_px, height_px=height_px)


def find_candidates(rows: torch.Tensor, *, layout: RowLayout, confidence: float) -> list[Candidates]:
    """Of each image's rows those whose score reaches the confidence.

    The score is the best class's, times the objectness where there is one.
    """
    found = []
    for image in rows.float():
        score = _scores(image, layout)
        kept = score >= confidence
        score, box = score[kept], image[kept, :4]
        if len(score) > MOST_CANDIDATES:
            score, best = score.topk(MOST_CANDIDATES)
            box = box[best]
        found.append((box if layout == "boxes" else _corners(box), score))
    return found


def suppress(
    found: Sequence[Candidates], *, iou: float, most: int, width_px: int, height_px: int
) -> list[Boxes]:
    """One Boxes per image: best first, of two that overlap by more than `iou` the better, clipped to the window.

    Each image is suppressed on its own, so its boxes do not depend on its neighbours in the batch.
    """
    import torch
    from torchvision.ops import nms

    winners = [nms(xyxy, score, iou)[:most] for xyxy, score in found]
    # One copy for all of them: each one from a GPU waits for it.
    rows = torch.cat(
        [
            torch.cat([xyxy[best], score[best, None]], 1)
            for (xyxy, score), best in zip(found, winners, strict=True)
        ]
    )
    parts = torch.split(rows.cpu(), [len(best) for best in winners])
    return [_clipped(part.numpy(), width_px=width_px, height_px=height_px) for part in parts]


def rows_last(raw: torch.Tensor, *, layout: RowLayout) -> torch.Tensor:
    """(b, n, channels) whichever way round the network put them out; there are more boxes than channels."""
    if layout != "boxes" and raw.shape[1] < raw.shape[2]:
        return raw.transpose(1, 2)
    return raw


def guess_layout(shape: tuple[int, ...], *, subject: str) -> RowLayout:
    """The layout that an output's shape gives away.

    Raises:
        WeightsError: the shape fits several layouts or none.
    """
    if len(shape) == 3:
        _, first, last = shape
        if last == 6 and first <= 300:
            raise _unclear(shape, subject)  # six channels: suppressed boxes, or objectness and one class
        if first >= 2 * last:
            if last >= 6:
                return "objectness"
            if last == 5:
                return "classes"
        elif last >= 2 * first and first >= 5:
            return "classes"
    raise _unclear(shape, subject)


def _unclear(shape: tuple[int, ...], subject: str) -> WeightsError:
    return WeightsError(
        f"{subject} puts out an array of shape {shape}, which does not tell how its rows read; set "
        "detector.output to objectness (YOLOv5), classes (YOLOv8 and later) or boxes (suppressed already)"
    )


def pad_tiles(tiles: NDArray[np.uint8], *, height_px: int, width_px: int) -> NDArray[np.uint8]:
    """Tiles enlarged to the right and below with each tile's median colour, which is its background."""
    count, height, width, channels = tiles.shape
    if (height, width) == (height_px, width_px):
        return tiles
    few = tiles[:, ::_MEDIAN_STEP_PX, ::_MEDIAN_STEP_PX].reshape(count, -1, channels)
    median = np.median(few, axis=1).astype(np.uint8)
    padded = np.empty((count, height_px, width_px, channels), np.uint8)
    padded[:] = median[:, None, None]
    padded[:, :height, :width] = tiles
    return padded


def to_input(tiles: torch.Tensor, *, invert: bool, dtype: torch.dtype) -> torch.Tensor:
    """(b, 3, H, W) in 0..1, channels last in memory, from (b, H, W, 3) uint8."""
    seen = tiles.bitwise_not() if invert else tiles  # of a byte: 255 less it
    return seen.permute(0, 3, 1, 2).to(dtype).div_(255)


def _scores(image: torch.Tensor, layout: RowLayout) -> torch.Tensor:
    if layout == "boxes":
        return image[:, 4]
    if layout == "objectness":
        return image[:, 4] * image[:, 5:].amax(1)
    return image[:, 4:].amax(1)


def _corners(box: torch.Tensor) -> torch.Tensor:
    import torch

    half = box[:, 2:] / 2
    return torch.cat((box[:, :2] - half, box[:, :2] + half), 1)


def _clipped(rows: NDArray[np.float32], *, width_px: int, height_px: int) -> Boxes:
    corners = np.clip(rows[:, :4].astype(np.float64), 0, [width_px, height_px, width_px, height_px])
    # Padding lies outside the window, so a box found there has no extent left.
    inside = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    return Boxes(corners, rows[:, 4].copy()).take(inside)
