"""Exported detectors: the road for the paper's YOLOv5 weights."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from fossilray.core.config import DetectorConfig
from fossilray.core.errors import WeightsError
from fossilray.models.detectors.boxes import guess_layout
from fossilray.models.detectors.load import load_detector

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")

SIDE_PX = 24


class SquareFinder(torch.nn.Module):
    """Finds bright squares of 24 px on multiples of 4 px, and puts out rows as YOLOv5 or YOLOv8 does.

    Mean brightness of the square is the objectness of YOLOv5's layout, whose classes score 0.9 and 0.2
    everywhere, or the first class of YOLOv8's.
    """

    def __init__(self, *, objectness: bool) -> None:
        super().__init__()
        self.objectness = objectness

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        brightness = torch.nn.functional.avg_pool2d(images.mean(1, keepdim=True), SIDE_PX, 4)
        one = torch.ones_like(brightness)
        x = (one.cumsum(3) - 1) * 4 + SIDE_PX / 2
        y = (one.cumsum(2) - 1) * 4 + SIDE_PX / 2
        box = [x, y, one * SIDE_PX, one * SIDE_PX]
        scores = [brightness, one * 0.9, one * 0.2] if self.objectness else [brightness, one * 0.2]
        columns = torch.cat([*box, *scores], 1).flatten(2)
        return columns.transpose(1, 2) if self.objectness else columns


EXAMPLE = torch.zeros(1, 3, 64, 96)


def export_onnx(path: Path, *, objectness: bool, dynamic: bool = True, **metadata: str) -> Path:
    axes = {"images": {0: "batch", 2: "height", 3: "width"}} if dynamic else {}
    model = SquareFinder(objectness=objectness)
    torch.onnx.export(model, (EXAMPLE,), str(path), input_names=["images"], dynamic_axes=axes, dynamo=False)
    if metadata:
        stored = onnx.load(path)
        onnx.helper.set_model_props(stored, metadata)
        onnx.save(stored, path)
    return path


def export_torchscript(path: Path, *, objectness: bool, **config: Any) -> Path:
    traced = torch.jit.trace(SquareFinder(objectness=objectness), EXAMPLE)
    torch.jit.save(traced, str(path), _extra_files={"config.txt": json.dumps(config)} if config else {})
    return path


@pytest.fixture
def tiles() -> np.ndarray:
    """Two tiles of 128 x 160 px with dark squares on a bright field, the last square paler."""
    field = np.full((2, 128, 160, 3), 235, np.uint8)
    for tile, x, y, grey in [(0, 20, 8, 0), (0, 100, 72, 20), (1, 60, 40, 10), (1, 136, 104, 60)]:
        field[tile, y : y + SIDE_PX, x : x + SIDE_PX] = grey
    return field


EXPECTED = [
    np.array([[20, 8, 44, 32], [100, 72, 124, 96]]),
    np.array([[60, 40, 84, 64], [136, 104, 160, 128]]),
]
BRIGHTNESS = [np.array([255, 235]) / 255, np.array([245, 195]) / 255]


def assert_squares_found(path: Path, tiles: np.ndarray, *, factor: float, **options: Any) -> None:
    config = DetectorConfig(weights=str(path), confidence=0.65, iou=0.3, **options)
    found = load_detector(config, device="cpu").detect(tiles, um_per_px=1.0)
    for boxes, expected, brightness in zip(found, EXPECTED, BRIGHTNESS, strict=True):
        assert np.allclose(boxes.xyxy, expected, atol=0.01)
        assert np.allclose(boxes.score, brightness * factor, atol=0.001)


@pytest.mark.parametrize("output", ["auto", "objectness"])
def test_yolov5_exports_multiply_objectness_by_the_best_class(
    output: str, tiles: np.ndarray, tmp_path: Path
) -> None:
    script = export_torchscript(tmp_path / "v5.torchscript", objectness=True)
    assert_squares_found(script, tiles, factor=0.9, output=output)
    assert_squares_found(export_onnx(tmp_path / "v5.onnx", objectness=True), tiles, factor=0.9, output=output)


@pytest.mark.parametrize("output", ["auto", "classes"])
def test_yolov8_exports_score_by_the_best_class(output: str, tiles: np.ndarray, tmp_path: Path) -> None:
    script = export_torchscript(tmp_path / "v8.torchscript", objectness=False)
    assert_squares_found(script, tiles, factor=1.0, output=output)
    assert_squares_found(
        export_onnx(tmp_path / "v8.onnx", objectness=False), tiles, factor=1.0, output=output
    )


def test_a_torchscript_named_pt_is_recognised(tiles: np.ndarray, tmp_path: Path) -> None:
    assert_squares_found(export_torchscript(tmp_path / "model.pt", objectness=True), tiles, factor=0.9)


def test_a_fixed_batch_of_one_is_fed_tile_by_tile(tiles: np.ndarray, tmp_path: Path) -> None:
    path = export_torchscript(tmp_path / "v5.torchscript", objectness=True, shape=[1, 3, 128, 160], stride=32)
    assert_squares_found(path, tiles, factor=0.9)


def test_a_fixed_batch_is_filled_up(tiles: np.ndarray, tmp_path: Path) -> None:
    path = export_torchscript(tmp_path / "v5.torchscript", objectness=True, shape=[3, 3, 128, 160])
    assert_squares_found(path, tiles, factor=0.9)


def test_tiles_smaller_than_a_fixed_size_are_padded(tiles: np.ndarray, tmp_path: Path) -> None:
    path = export_torchscript(tmp_path / "v5.torchscript", objectness=True, imgsz=[256, 320], batch=1)
    assert_squares_found(path, tiles, factor=0.9)


def test_tiles_larger_than_a_fixed_size_name_the_settings_to_change(
    tiles: np.ndarray, tmp_path: Path
) -> None:
    path = export_onnx(tmp_path / "v5.onnx", objectness=True, dynamic=False)
    detector = load_detector(DetectorConfig(weights=str(path)), device="cpu")
    with pytest.raises(WeightsError, match=r"64 px high, .* 128 px .*--dynamic .*tiling\.tile_px"):
        detector.detect(tiles, um_per_px=1.0)


def test_stride_comes_from_the_export_where_it_states_one(tmp_path: Path) -> None:
    stated = {
        export_onnx(tmp_path / "a.onnx", objectness=True): 32,
        export_onnx(tmp_path / "b.onnx", objectness=True, stride="64", names="{0: 'cell'}"): 64,
        export_torchscript(tmp_path / "c.torchscript", objectness=True, stride=64, shape=[1, 3, 64, 96]): 64,
    }
    for path, stride_px in stated.items():
        assert load_detector(DetectorConfig(weights=str(path)), device="cpu").stride_px == stride_px


def test_rows_suppressed_by_the_export_are_corners_and_a_score(tmp_path: Path) -> None:
    class Suppressed(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            rows = [[4.0, 6.0, 20.0, 30.0, 0.8, 1.0], [40.0, 6.0, 200.0, 30.0, 0.7, 0.0], [0.0] * 6]
            return torch.tensor([rows]) + images.mean() * 0

    traced = torch.jit.trace(Suppressed(), EXAMPLE)
    path = tmp_path / "nms.torchscript"
    torch.jit.save(traced, str(path), _extra_files={"config.txt": json.dumps({"args": {"nms": True}})})
    detector = load_detector(DetectorConfig(weights=str(path)), device="cpu")
    (boxes,) = detector.detect(np.zeros((1, 64, 96, 3), np.uint8), um_per_px=1.0)
    assert boxes.xyxy.tolist() == [[4, 6, 20, 30], [40, 6, 96, 30]]
    assert boxes.score.tolist() == pytest.approx([0.8, 0.7])


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((1, 25200, 85), "objectness"),
        ((1, 25200, 6), "objectness"),
        ((1, 84, 8400), "classes"),
        ((1, 5, 8400), "classes"),
        ((1, 8400, 5), "classes"),
    ],
)
def test_layouts_are_inferred_from_shapes(shape: tuple[int, ...], layout: str) -> None:
    assert guess_layout(shape, subject="a.onnx") == layout


@pytest.mark.parametrize("shape", [(1, 300, 6), (100, 7), (1, 90, 85), (1, 3, 80, 80, 85), (1, 4, 8400)])
def test_ambiguous_shapes_require_the_setting(shape: tuple[int, ...]) -> None:
    with pytest.raises(WeightsError, match=r"a\.onnx .*set detector\.output"):
        guess_layout(shape, subject="a.onnx")


def test_a_wrong_output_setting_is_refused(tiles: np.ndarray, tmp_path: Path) -> None:
    path = export_onnx(tmp_path / "v8.onnx", objectness=False)
    detector = load_detector(DetectorConfig(weights=str(path), output="boxes"), device="cpu")
    with pytest.raises(WeightsError, match=r"set detector\.output"):
        detector.detect(tiles[:, :32, :32], um_per_px=1.0)


def test_without_onnxruntime_the_message_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = export_onnx(tmp_path / "v5.onnx", objectness=True)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(WeightsError, match=r"pip install 'fossilray\[onnx\]'"):
        load_detector(DetectorConfig(weights=str(path)), device="cpu")
