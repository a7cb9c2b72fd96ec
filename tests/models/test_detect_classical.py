"""The paper's classical segmentation."""

import cv2
import numpy as np
import pytest

from fossilray.core.config import ClassicalConfig, DetectorConfig
from fossilray.core.types import Boxes
from fossilray.models.detectors.classical import measure_darkness
from fossilray.models.detectors.load import load_detector


def find(tile: np.ndarray, *, um_per_px: float = 1.0, confidence: float = 0.25, **options: float) -> Boxes:
    config = DetectorConfig(kind="classical", confidence=confidence, classical=ClassicalConfig(**options))
    return load_detector(config, device="cpu").detect(tile[None], um_per_px=um_per_px)[0]


def field(side: int = 256, *, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 2, (side, side, 3))
    return np.clip(np.array([226, 222, 219]) + noise, 0, 255).astype(np.uint8)


def disc(
    tile: np.ndarray, x: int, y: int, radius: int, colour: tuple[int, int, int] = (190, 130, 60)
) -> None:
    cv2.circle(tile, (x, y), radius, colour, -1)


def test_an_amber_disc_is_boxed() -> None:
    tile = field()
    disc(tile, 90, 120, 20)
    boxes = find(tile)
    assert len(boxes) == 1
    assert np.abs(boxes.xyxy[0] - [70, 100, 111, 141]).max() <= 2
    assert 0.5 < boxes.score[0] <= 1


def test_an_empty_field_has_no_boxes() -> None:
    assert len(find(field())) == 0


def test_red_alone_is_not_looked_at() -> None:
    tile = field()
    disc(tile, 90, 120, 20, (20, 222, 219))
    assert len(find(tile)) == 0


def test_objects_that_meet_at_a_corner_are_one() -> None:
    tile = field()
    tile[100:130, 100:130] = 60
    tile[130:160, 130:160] = 60
    boxes = find(tile, gaussian_um=0.2)
    assert len(boxes) == 1
    assert boxes.xyxy[0].tolist() == [100, 100, 160, 160]


def test_small_components_are_dropped_by_area_in_um2() -> None:
    tile = field()
    disc(tile, 60, 60, 12)  # about 450 px
    disc(tile, 180, 180, 20)  # about 1260 px
    assert len(find(tile, min_area_um2=800.0)) == 1
    assert len(find(tile, min_area_um2=300.0)) == 2
    assert len(find(tile, um_per_px=2.0, gaussian_um=2.5, block_um=200.0, min_area_um2=3200.0)) == 1


def test_the_same_field_at_two_scales_gives_the_same_boxes_in_um() -> None:
    fine = np.full((512, 512, 3), 224, np.uint8)
    disc(fine, 200, 220, 40)
    disc(fine, 380, 330, 60)
    coarse = cv2.resize(fine, (256, 256), interpolation=cv2.INTER_AREA)
    one, other = find(fine, um_per_px=0.5), find(coarse, um_per_px=1.0)
    assert len(one) == len(other) == 2
    assert np.abs(one.xyxy * 0.5 - other.xyxy).max() <= 1.5


def test_confidence_and_count_bound_the_boxes() -> None:
    tile = field()
    disc(tile, 60, 60, 20, (90, 40, 20))
    disc(tile, 180, 180, 20, (210, 200, 190))
    assert len(find(tile)) == 2
    dark = find(tile, confidence=0.7)
    assert len(dark) == 1
    assert dark.xyxy[0, 0] < 100


def test_score_is_a_third_where_darkness_just_reaches_the_threshold() -> None:
    tile = np.full((400, 400, 3), 220, np.uint8)
    tile[200:203, :, 1:] = 200
    darkness = measure_darkness(tile, sigma_px=0.01, block_px=101)[201, 0]
    (score,) = find(tile, gaussian_um=0.01, offset=float(darkness) - 0.05, min_area_um2=100.0).score
    assert score == pytest.approx(1 / 3, abs=0.005)


def test_darkness_thresholds_as_opencv_does() -> None:
    rng = np.random.default_rng(2)
    grey = cv2.GaussianBlur(rng.integers(0, 256, (200, 240)).astype(np.uint8), (0, 0), 3)
    tile = np.stack([grey] * 3, axis=-1)
    ours = measure_darkness(tile, sigma_px=0.01, block_px=31) > 4
    theirs = cv2.adaptiveThreshold(
        grey, 1, cv2.ADAPTIVE_THRESH_GAUSSIAN_C, cv2.THRESH_BINARY_INV, 31, 4
    )  # rounds the neighbourhood's mean to whole grey levels
    assert (ours != theirs.astype(bool)).mean() < 0.1
    certain = np.abs(measure_darkness(tile, sigma_px=0.01, block_px=31) - 4) > 1
    assert (ours == theirs.astype(bool))[certain].all()
