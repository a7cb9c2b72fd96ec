"""From what a network puts out to boxes: rows read right, overlaps within a tile suppressed, clipped to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from fossilray.errors import WeightsError
from fossilray.records import Boxes

if TYPE_CHECKING:
    import torch

RowLayout = Literal["classes", "objectness", "boxes"]
"""classes: centre x, centre y, width, height, one score a class (YOLOv8 and later).
objectness: the same with the objectness before the class scores (YOLOv5).
boxes: x_min, y_min, x_max, y_max, score, class (end-to-end heads, exports with suppression inside)."""

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
    """One Boxes per image from (b, n, channels) rows: class-agnostic, best first, clipped to the window.

    The score is the best class's, times the objectness where there is one. Each image is suppressed on its
    own, so its boxes do not depend on its neighbours in the batch.
    """
    from torchvision.ops import nms

    decoded = []
    for image in rows.float():
        score = _scores(image, layout)
        kept = score >= confidence
        score, box = score[kept], image[kept, :4]
        if len(score) > MOST_CANDIDATES:
            score, best = score.topk(MOST_CANDIDATES)
            box = box[best]
        xyxy = box if layout == "boxes" else _corners(box)
        winners = nms(xyxy, score, iou)[:most]
        decoded.append(_clipped(xyxy[winners], score[winners], width_px=width_px, height_px=height_px))
    return decoded


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
    median = np.median(tiles.reshape(count, -1, channels), axis=1).astype(np.uint8)
    padded = np.empty((count, height_px, width_px, channels), np.uint8)
    padded[:] = median[:, None, None]
    padded[:, :height, :width] = tiles
    return padded


def to_input(tiles: NDArray[np.uint8], *, invert: bool, device: torch.device) -> torch.Tensor:
    """(b, 3, H, W) float32 in 0..1 on the device, channels last in memory."""
    import torch

    batch = torch.from_numpy(np.ascontiguousarray(tiles)).to(device).permute(0, 3, 1, 2).float()
    if invert:
        batch.neg_().add_(255.0)
    return batch.div_(255.0)


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


def _clipped(xyxy: torch.Tensor, score: torch.Tensor, *, width_px: int, height_px: int) -> Boxes:
    corners = xyxy.cpu().numpy().astype(np.float64)
    corners = np.clip(corners, 0, [width_px, height_px, width_px, height_px])
    # Padding lies outside the window, so a box found there has no extent left.
    inside = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    return Boxes(corners, score.cpu().numpy().astype(np.float32)).take(inside)
