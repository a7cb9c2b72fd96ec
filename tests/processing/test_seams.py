"""Neither the size of tiles nor windows fitted to content change what is found: read, detected, merged for real."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from support.box_overlaps import iou_matrix
from support.tiff_pyramid import write_tiff_pyramid

from fossilray.core.config import DetectorConfig, MergeConfig, PassConfig, TilingConfig
from fossilray.models.detectors.load import load_detector
from fossilray.processing.detection.foreground import find_foreground, foreground_units
from fossilray.processing.detection.merge import TileBoxes, merge_tiles
from fossilray.processing.detection.passes import plan_passes, read_tile
from fossilray.processing.detection.windows import plan_windows
from fossilray.slides.slide import Slide, open_slide
from fossilray.synthetic.writers.mirax import MiraxOptions, write_mirax
from fossilray.synthetic.writers.pixels import ArrayPixels

SIDE_PX = 4600
DETECTOR = DetectorConfig(kind="classical", passes=(PassConfig(um_per_px=1.0, largest_um=200.0),))


def painted(seed: int, *, count: int) -> NDArray[np.uint8]:
    """Absorbing ellipses of 20 to 150 um at 0.25 um per pixel, many touching, on a shaded background."""
    rng = np.random.default_rng(seed)
    light = np.ones((SIDE_PX, SIDE_PX), np.float32)
    for _ in range(count):
        x, y = rng.integers(0, SIDE_PX, 2).tolist()
        axes = np.exp(rng.uniform(np.log(40), np.log(300), 2)).astype(int).tolist()
        left, top = max(0, x - 300), max(0, y - 300)
        part = light[top : y + 300, left : x + 300]
        passed = np.ones_like(part)
        cv2.ellipse(
            passed, (x - left, y - top), axes, rng.uniform(0, 180), 0, 360, rng.uniform(0.35, 0.75), -1
        )
        part *= passed
    shade = np.linspace(220, 232, SIDE_PX, dtype=np.float32)[None, :]
    grey = (shade * light).astype(np.uint8)
    return np.stack(
        [grey, cv2.convertScaleAbs(grey, alpha=0.97), cv2.convertScaleAbs(grey, alpha=0.95)], axis=-1
    )


def find(slide: Slide, tiling: TilingConfig) -> NDArray[np.float64]:
    detector = load_detector(DETECTOR, device="cpu")
    passes = plan_passes(slide.info, tiling, DETECTOR, detector.stride_px)
    found = []
    content = find_foreground(slide, tiling)
    for detection_pass in passes:
        for tile in plan_windows(detection_pass, foreground_units(detection_pass, content)).tiles:
            window = read_tile(slide, detection_pass, tile)
            (boxes,) = detector.detect(window[None], um_per_px=detection_pass.um_per_px)
            found.append(TileBoxes(detection_pass, tile, boxes))
    boxes = merge_tiles(found, info=slide.info, merge=MergeConfig()).xyxy
    # Beyond the slide's rim there is white: to the classical detector the rim is dark all along.
    return boxes[(boxes > 64).all(axis=1) & (boxes < SIDE_PX - 64).all(axis=1)]


def write_slide(path: Path, rgb: NDArray[np.uint8]) -> Path:
    if path.suffix == ".mrxs":
        write_mirax(path, ArrayPixels(image=rgb), MiraxOptions(photo_px=512, levels=5))
        return path
    return write_tiff_pyramid(path, rgb, mpp=0.25, levels=5, tile_px=256)


@pytest.mark.parametrize(("name", "count"), [("a.tif", 220), ("a.mrxs", 220), ("a.tif", 12)])
def test_tiles_do_not_change_the_objects(tmp_path: Path, name: str, count: int) -> None:
    path = write_slide(tmp_path / name, painted(3, count=count))
    fixed = [TilingConfig(tile_px=tile_px, blank_contrast=0) for tile_px in (1024, 2048, 4096)]
    fitted = [TilingConfig(tile_px=1024), TilingConfig()]
    with open_slide(path) as slide:
        reference, *others = [find(slide, tiling) for tiling in (*fixed, *fitted)]
    assert len(reference) > count / 4
    for boxes in others:
        same = iou_matrix(reference, boxes) >= 0.9
        assert (same.sum(axis=1) <= 1).all(), "an object is there twice"
        assert same.any(axis=1).mean() >= 0.995
        assert same.any(axis=0).mean() >= 0.995
