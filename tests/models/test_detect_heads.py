"""Boxes computed only at anchors of sufficient score equal those of ultralytics' head, for every head."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.small_network import SMALL, build, meta
from torch import nn

from fossilray.core.config import DetectorConfig
from fossilray.core.types import Boxes, Detector
from fossilray.models.detectors.boxes import MAX_CANDIDATES, decode_rows, rows_last
from fossilray.models.detectors.detector_file import read_detector, save_detector
from fossilray.models.detectors.heads import has_box_branches, replace_head
from fossilray.models.detectors.load import load_detector
from fossilray.models.detectors.ultralytics_network import build_detector_network
from fossilray.models.weights_file import bundled_weights
from fossilray.synthetic.composites import compose_field

NEWER: dict[str, Any] = SMALL | {
    "backbone": [*SMALL["backbone"][:2], [-1, 1, "C3k2", [16, False]], *SMALL["backbone"][3:]]
}
"""With a layer of YOLO11 the class branch of the head is the depthwise one."""
OF_ANOTHER_KIND: dict[str, Any] = SMALL | {"head": [[[3, 5], 1, "v10Detect", ["nc"]]]}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "older": SMALL,
    "newer": NEWER,
    "one bin": NEWER | {"reg_max": 1},
    "of another kind": OF_ANOTHER_KIND,
}


def save(architecture: dict[str, Any], folder: Path) -> tuple[Path, Any]:
    """A file of random weights, and the network that ultralytics makes of it."""
    path = folder / "weights.safetensors"
    save_detector(path, state_dict=build(architecture).state_dict(), meta=meta(architecture))
    return path, stored(path)


def stored(path: Path) -> Any:
    state, stated = read_detector(path)
    return build_detector_network(stated.architecture, nc=stated.nc, state=state, source=path)


def noise(count: int = 2, *, height_px: int = 208, width_px: int = 160) -> np.ndarray:
    coarse = np.random.default_rng(5).integers(0, 256, (count, height_px // 8, width_px // 8, 3), np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


def dense_rows(network: Any, tiles: np.ndarray) -> torch.Tensor:
    with torch.inference_mode():
        rows: torch.Tensor = network(1 - torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 255)[0]
    return rows if network.model[-1].end2end else rows_last(rows, layout="classes")


def dense_boxes(network: Any, tiles: np.ndarray, config: DetectorConfig) -> list[Boxes]:
    return decode_rows(
        dense_rows(network, tiles),
        layout="boxes" if network.model[-1].end2end else "classes",
        confidence=config.confidence,
        iou=config.iou,
        most=config.max_per_tile,
        width_px=tiles.shape[2],
        height_px=tiles.shape[1],
    )


def detector(path: Path | str, precision: Any = "float32", **options: Any) -> Detector:
    return load_detector(DetectorConfig(weights=str(path), **options), device="cpu", precision=precision)


def assert_equal(found: list[Boxes], expected: list[Boxes]) -> None:
    """The same boxes, whatever the order of those with nearly the same score."""
    assert [len(boxes) for boxes in found] == [len(boxes) for boxes in expected]
    for one, other in zip(found, expected, strict=True):
        if len(one):
            apart = np.abs(one.xyxy[:, None] - other.xyxy[None]).max(2)
            apart += 100 * np.abs(one.score[:, None] - other.score[None])
            assert max(apart.min(0).max(), apart.min(1).max()) < 0.01


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_candidate_of_ultralytics_head_is_there_with_its_box(kind: str, tmp_path: Path) -> None:
    path, network = save(ARCHITECTURES[kind], tmp_path)
    assert has_box_branches(network.model[-1]) == (kind != "of another kind")
    tiles = noise()
    score = dense_rows(network, tiles)[..., 4:].amax(2).flatten().sort(descending=True).values
    between = [float(score[round(share * len(score)) :][:2].double().mean()) for share in (0.002, 0.1, 0.6)]
    for confidence in (1.0, *between, 0.0):
        # Of boxes that overlap wholly both are kept: everything that the head gave is compared.
        options = {"confidence": confidence, "iou": 1.0, "max_per_tile": 100_000}
        expected = dense_boxes(network, tiles, DetectorConfig(**options))
        assert (sum(len(boxes) for boxes in expected) > 0) == (confidence < 1)
        assert_equal(detector(path, **options).detect(tiles, um_per_px=1.0), expected)


def test_a_head_that_suppresses_by_itself_keeps_its_boxes() -> None:
    network = build(NEWER | {"end2end": True})
    network.end2end = True
    network.requires_grad_(False).fuse(verbose=False)
    tiles = noise()
    expected = dense_rows(network, tiles)
    assert expected.shape == (2, 300, 6)
    least = float(expected[..., 4].median())
    replace_head(network, confidence=least, most=300)
    with torch.inference_mode():
        found = network(1 - torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 255)
    for rows, (box, score) in zip(expected, found, strict=True):
        sure = rows[rows[:, 4] >= least]
        assert torch.allclose(box, sure[:, :4], atol=0.01)
        assert torch.allclose(score, sure[:, 4], atol=1e-4)


def test_the_bundled_network_finds_what_its_dense_head_finds() -> None:
    tiles = field(side_px=416)[None]
    expected = dense_boxes(stored(bundled_weights("detector")), tiles, DetectorConfig())
    assert len(expected[0]) > 20
    assert_equal(detector("bundled").detect(tiles, um_per_px=1.0), expected)


def test_a_head_with_layers_that_mix_anchors_is_left_whole(tmp_path: Path) -> None:
    _, network = save(SMALL, tmp_path)
    head = network.model[-1]
    assert has_box_branches(head)
    head.cv2[1][0].act = nn.Softmax(dim=1)
    assert not has_box_branches(head)


def test_of_too_many_candidates_the_best_are_kept(tmp_path: Path) -> None:
    path, network = save(SMALL, tmp_path)
    tiles = noise(1, height_px=1344, width_px=1344)
    options = {"confidence": 0.0, "iou": 0.3, "max_per_tile": 100_000}
    assert dense_rows(network, tiles).shape[1] > MAX_CANDIDATES
    expected = dense_boxes(network, tiles, DetectorConfig(**options))
    assert_equal(detector(path, **options).detect(tiles, um_per_px=1.0), expected)


@pytest.mark.parametrize("kind", ["older", "of another kind"])
def test_two_threads_with_tiles_of_two_sizes_find_what_one_finds(kind: str, tmp_path: Path) -> None:
    path, _ = save(ARCHITECTURES[kind], tmp_path)
    ours = detector(path, confidence=0.27)
    work = [noise(height_px=side_px) for side_px in (160, 208)] * 6
    alone = [ours.detect(tiles, um_per_px=1.0) for tiles in work]
    assert all(len(boxes) for boxes in alone[0])
    with ThreadPoolExecutor(2) as threads:
        together = threads.map(lambda tiles: ours.detect(tiles, um_per_px=1.0), work)
        for found, expected in zip(together, alone, strict=True):
            assert_equal(found, expected)


def test_half_precision_finds_the_same_objects_in_nearly_the_same_boxes() -> None:
    tiles = field(side_px=416)[None]
    (exact,) = detector("bundled").detect(tiles, um_per_px=1.0)
    (found,) = detector("bundled", precision="auto").detect(tiles, um_per_px=1.0)
    sure = exact.take(exact.score > 0.4)
    assert len(sure) > 20
    nearest = np.abs(sure.xyxy[:, None] - found.xyxy[None]).max(2)
    assert (nearest.min(1) < 2.0).mean() > 0.95
    assert (np.abs(sure.score - found.score[nearest.argmin(1)]) < 0.1).mean() > 0.95


def field(*, side_px: int) -> np.ndarray:
    """A painted field at 1 um per px with objects of all sizes."""
    return compose_field(np.random.default_rng(4), size_px=side_px, um_per_px=1.0).image
