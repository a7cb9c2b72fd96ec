"""Decoding of network output into boxes: row layouts, non-maximum suppression within a tile, clipping."""

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
"""classes: centre x, centre y, width, height, one score per class (YOLOv8 and later).
objectness: the same with the objectness before the class scores (YOLOv5).
boxes: x_min, y_min, x_max, y_max, score, class (end-to-end heads, exports with suppression inside)."""

_MEDIAN_STEP_PX = 8
"""Step of the pixels for a tile's median; all pixels would take a third as long as the network."""

Candidates: TypeAlias = "tuple[torch.Tensor, torch.Tensor]"
"""Boxes of one image (n, 4) as x_min, y_min, x_max, y_max, and their scores (n,), in float32."""

MAX_CANDIDATES = 30_000
"""Maximum number of boxes that enter suppression, best first; on CUDA its memory grows with their square."""


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
    """Decode rows (b, n, channels) into one Boxes per image: class-agnostic, best first, clipped to the window."""
    candidates = find_candidates(rows, layout=layout, confidence=confidence)
    return suppress(candidates, iou=iou, most=most, width_px=width_px, height_px=height_px)


def find_candidates(rows: torch.Tensor, *, layout: RowLayout, confidence: float) -> list[Candidates]:
    """Return the rows of each image whose score reaches the confidence.

    The score is that of the best class, times the objectness if there is one.
    """
    candidates = []
    for image in rows.float():
        score = _scores(image, layout)
        kept = score >= confidence
        score, box = score[kept], image[kept, :4]
        if len(score) > MAX_CANDIDATES:
            score, best = score.topk(MAX_CANDIDATES)
            box = box[best]
        candidates.append((box if layout == "boxes" else _corners(box), score))
    return candidates


def suppress(
    candidates: Sequence[Candidates], *, iou: float, most: int, width_px: int, height_px: int
) -> list[Boxes]:
    """Apply non-maximum suppression; returns one Boxes per image, best first, clipped to the window.

    iou: overlap above which the box with the lower score is dropped. Images are independent of each other, so boxes do
    not depend on the batch.
    """
    import torch
    from torchvision.ops import nms

    kept = [nms(xyxy, score, iou)[:most] for xyxy, score in candidates]
    # One copy for all images, because each copy from a GPU synchronises.
    rows = torch.cat(
        [
            torch.cat([xyxy[best], score[best, None]], 1)
            for (xyxy, score), best in zip(candidates, kept, strict=True)
        ]
    )
    per_image = torch.split(rows.cpu(), [len(best) for best in kept])
    return [_clip(image.numpy(), width_px=width_px, height_px=height_px) for image in per_image]


def rows_last(raw: torch.Tensor, *, layout: RowLayout) -> torch.Tensor:
    """Return output as (b, n, channels); the network may transpose them, but there are more boxes than channels."""
    if layout != "boxes" and raw.shape[1] < raw.shape[2]:
        return raw.transpose(1, 2)
    return raw


def guess_layout(shape: tuple[int, ...], *, subject: str) -> RowLayout:
    """Infer the layout from the shape of the output.

    Raises:
        WeightsError: the shape fits no layout, or several.
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
        f"{subject} puts out an array of shape {shape}, from which the layout of its rows cannot be inferred; set "
        "detector.output to objectness (YOLOv5), classes (YOLOv8 and later) or boxes (suppressed already)"
    )


def pad_tiles(tiles: NDArray[np.uint8], *, height_px: int, width_px: int) -> NDArray[np.uint8]:
    """Pad tiles on the right and below with the median colour of each, which is its background."""
    count, height, width, channels = tiles.shape
    if (height, width) == (height_px, width_px):
        return tiles
    sample = tiles[:, ::_MEDIAN_STEP_PX, ::_MEDIAN_STEP_PX].reshape(count, -1, channels)
    median = np.median(sample, axis=1).astype(np.uint8)
    padded = np.empty((count, height_px, width_px, channels), np.uint8)
    padded[:] = median[:, None, None]
    padded[:, :height, :width] = tiles
    return padded


def to_input(tiles: torch.Tensor, *, invert: bool, dtype: torch.dtype) -> torch.Tensor:
    """Turn tiles (b, H, W, 3) uint8 into (b, 3, H, W) in 0..1, channels last in memory."""
    pixels = tiles.bitwise_not() if invert else tiles  # 255 minus the value
    return pixels.permute(0, 3, 1, 2).to(dtype).div_(255)


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


def _clip(rows: NDArray[np.float32], *, width_px: int, height_px: int) -> Boxes:
    corners = np.clip(rows[:, :4].astype(np.float64), 0, [width_px, height_px, width_px, height_px])
    # Padding is outside the window, so a box in it has no extent.
    inside = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    return Boxes(corners, rows[:, 4].copy()).take(inside)
