"""The procedure of Martinsen et al. (2024) on one slide, implemented directly from its text, as a careful user would.

A pass over the scanned area at full resolution by OpenSlide's DeepZoom, tiles of 2048 px that do not overlap; each
tile is inverted and seen at 128 px by a YOLO network; its boxes are scaled up again; every object is cut from the
tile in its original colours, as far as the tile shows it, and resized to 224 px; at the end the boxes of the slide
are all compared with each other, and an object is isolated if its IoU with no other reaches 0.001. Crops stay in
memory: nothing is written.

What the text leaves open is done in the procedure's favour. The tile is made small by averaging areas, without
which the network would see aliases. The thresholds are YOLOv5's own. The weights are those of fossilray's detector
in float32, for those of the paper, made for aerial photographs, are not ours to ship; so both sides see with the
same eyes. PyTorch takes all cores, as it does by default.

I. Martinsen, D. Wade, B. Ricaud, F. Godtliebsen, "The 3-billion fossil question: how to automate classification of
microfossils", Artificial Intelligence in Geosciences 5 (2024) 100080.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import openslide
from numpy.typing import NDArray
from openslide.deepzoom import DeepZoomGenerator
from PIL import Image, ImageOps

if TYPE_CHECKING:
    import torch

TILE_PX = 2048
SEEN_AT_PX = 128
CROP_PX = 224
ISOLATED_BELOW = 0.001

# YOLOv5's defaults.
_CONFIDENCE = 0.25
_SAME_BOX_IOU = 0.45
_MOST_PER_TILE = 1000

STAGES = ("read", "detect", "cut", "compare")


@dataclass
class Stopwatch:
    """Seconds of CPU (of the whole process) and on the clock, by stage."""

    cpu_s: dict[str, float] = field(default_factory=dict)
    wall_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add what passes inside to a stage."""
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        yield
        self.cpu_s[name] = self.cpu_s.get(name, 0.0) + time.process_time() - cpu_s
        self.wall_s[name] = self.wall_s.get(name, 0.0) + time.perf_counter() - wall_s


@dataclass(frozen=True)
class PaperObjects:
    """What the procedure finds. xyxy: (n, 4) level-0 px; crops: n of 224 px; isolated: (n,) bool."""

    xyxy: NDArray[np.float64]
    scores: NDArray[np.float32]
    crops: list[Image.Image]
    isolated: NDArray[np.bool_]


def load_network() -> torch.nn.Module:
    """The detector's network in float32, as ultralytics builds it."""
    from fossilray.models.detectors.detector_file import read_detector
    from fossilray.models.detectors.ultralytics_network import build_detector_network
    from fossilray.models.weights_file import bundled_weights

    state, meta = read_detector(path := bundled_weights("detector"))
    return build_detector_network(meta.architecture, nc=meta.nc, state=state, source=path)


def run_paper_procedure(path: Path, network: torch.nn.Module, watch: Stopwatch) -> PaperObjects:
    """All objects of the slide at `path`; the stopwatch gets the time of each of STAGES."""
    boxes: list[NDArray[np.float64]] = []
    scores: list[NDArray[np.float32]] = []
    crops: list[Image.Image] = []
    with openslide.OpenSlide(path) as slide:
        zoom = DeepZoomGenerator(slide, tile_size=TILE_PX, overlap=0, limit_bounds=True)
        level = zoom.level_count - 1
        columns, rows = zoom.level_tiles[level]
        for row in range(rows):
            for column in range(columns):
                with watch.stage("read"):
                    tile = zoom.get_tile(level, (column, row))
                with watch.stage("detect"):
                    detected, sure = detect(tile, network)
                with watch.stage("cut"):
                    crops += [cut(tile, box) for box in detected]
                corner, _, _ = zoom.get_tile_coordinates(level, (column, row))
                boxes.append(detected + np.tile(corner, 2))
                scores.append(sure)
    xyxy = np.concatenate(boxes)
    with watch.stage("compare"):
        isolated = largest_iou(xyxy) < ISOLATED_BELOW
    return PaperObjects(xyxy, np.concatenate(scores), crops, isolated)


def detect(tile: Image.Image, network: torch.nn.Module) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Boxes (n, 4) in px of the tile, inside it, and their scores."""
    import torch
    from torchvision.ops import box_convert, nms

    factor = TILE_PX // SEEN_AT_PX
    inverted = np.asarray(ImageOps.invert(tile))
    small = (max(1, tile.width // factor), max(1, tile.height // factor))
    seen = cv2.resize(inverted, small, interpolation=cv2.INTER_AREA)
    # Tiles at the right and the lower rim are smaller.
    rim = ((0, SEEN_AT_PX - small[1]), (0, SEEN_AT_PX - small[0]), (0, 0))
    square = np.pad(seen, rim, mode="edge")
    with torch.inference_mode():
        image = torch.from_numpy(square).permute(2, 0, 1)[None].float() / 255
        rows = network(image)[0][0].T
        score = rows[:, 4:].amax(1)
        sure = score > _CONFIDENCE
        corners, score = box_convert(rows[sure, :4], "cxcywh", "xyxy"), score[sure]
        best = nms(corners, score, _SAME_BOX_IOU)[:_MOST_PER_TILE]
    scaled = corners[best].numpy().astype(np.float64) * factor
    inside = np.clip(scaled, 0, [tile.width, tile.height] * 2)
    some = (inside[:, 2] - inside[:, 0] >= 1) & (inside[:, 3] - inside[:, 1] >= 1)
    return inside[some], score[best].numpy()[some]


def cut(tile: Image.Image, box: NDArray[np.float64]) -> Image.Image:
    """The pixels in a box of the tile as a square of 224 px."""
    left, top = (int(edge) for edge in np.floor(box[:2]))
    right, bottom = (int(edge) for edge in np.ceil(box[2:]))
    return tile.crop((left, top, right, bottom)).resize((CROP_PX, CROP_PX), Image.Resampling.BICUBIC)


def largest_iou(xyxy: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) of each box the largest IoU with another; every box is compared with all."""
    area = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
    largest = np.zeros(len(xyxy))
    for number, box in enumerate(xyxy):
        low, high = np.maximum(box[:2], xyxy[:, :2]), np.minimum(box[2:], xyxy[:, 2:])
        both = np.clip(high - low, 0, None).prod(axis=1)
        iou = both / (area[number] + area - both)
        iou[number] = 0.0
        largest[number] = iou.max()
    return largest
