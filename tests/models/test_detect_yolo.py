"""The neural detector: real ultralytics networks, read from fossilray's and ultralytics' own files."""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.small_network import SMALL, build, meta

from fossilray.core.config import DetectorConfig
from fossilray.core.types import Boxes
from fossilray.models.detectors.detector_file import save_detector
from fossilray.models.detectors.load import detector_digest, load_detector
from fossilray.models.detectors.ultralytics_network import quiet_ultralytics


@pytest.fixture(scope="module")
def network() -> Any:
    return build(SMALL)


@pytest.fixture(scope="module")
def weights(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_detector(path, state_dict=network.state_dict(), meta=meta())
    return path


@pytest.fixture(scope="module")
def tiles() -> np.ndarray:
    coarse = np.random.default_rng(5).integers(0, 256, (3, 12, 10, 3), dtype=np.uint8)
    return coarse.repeat(16, axis=1).repeat(16, axis=2)


def find(path: Path, tiles: np.ndarray, precision: Any = "float32", **options: Any) -> list[Boxes]:
    config = DetectorConfig(weights=str(path), **options)
    return load_detector(config, device="cpu", precision=precision).detect(tiles, um_per_px=1.0)


def assert_same(found: list[Boxes], expected: list[Boxes], *, px: float = 0.5) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert len(one) == len(other) > 0
        assert np.allclose(one.xyxy, other.xyxy, atol=px)
        assert np.allclose(one.score, other.score, atol=0.01)


def test_boxes_are_those_that_ultralytics_own_suppression_keeps(
    network: Any, weights: Path, tiles: np.ndarray
) -> None:
    from ultralytics.utils.nms import non_max_suppression

    state = {name: t.half().float() if t.ndim > 1 else t for name, t in network.state_dict().items()}
    reference = build(SMALL)
    reference.load_state_dict(state)
    batch = 1 - torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        raw = reference(batch)[0]
        kept = non_max_suppression(raw, 0.3, 0.5, agnostic=True, max_det=3000)
    expected = [
        Boxes(rows[:, :4].clamp(min=0).double().numpy().clip(max=[160, 192, 160, 192]), rows[:, 4].numpy())
        for rows in kept
    ]
    assert_same(find(weights, tiles, confidence=0.3, iou=0.5), expected, px=0.01)


def test_a_checkpoint_of_ultralytics_gives_the_same_boxes_as_our_own_file(
    network: Any, weights: Path, tiles: np.ndarray, tmp_path: Path
) -> None:
    from ultralytics.utils import IterableSimpleNamespace

    stored = build(SMALL).half()
    stored.args = IterableSimpleNamespace(imgsz=640, project=tmp_path)
    checkpoint = {
        "epoch": 3,
        "best_fitness": np.float64(0.5),
        "model": None,
        "ema": stored,
        "optimizer": torch.optim.AdamW(network.parameters()).state_dict(),
        "train_args": {"imgsz": 640},
    }
    torch.save(checkpoint, tmp_path / "best.pt")
    assert_same(find(tmp_path / "best.pt", tiles), find(weights, tiles))


def test_tiles_are_inverted_unless_the_weights_or_the_user_say_otherwise(
    network: Any, weights: Path, tiles: np.ndarray, tmp_path: Path
) -> None:
    plain = tmp_path / "plain.safetensors"
    save_detector(plain, state_dict=network.state_dict(), meta=meta(invert=False))
    assert_same(find(weights, tiles), find(weights, 255 - tiles, invert=False), px=1e-6)
    assert_same(find(plain, tiles), find(weights, tiles, invert=False), px=1e-6)
    assert_same(find(plain, tiles, invert=True), find(weights, tiles), px=1e-6)


def test_a_tile_has_the_same_boxes_alone_and_in_a_batch(weights: Path, tiles: np.ndarray) -> None:
    together = find(weights, tiles)
    alone = [find(weights, tiles[index : index + 1])[0] for index in range(len(tiles))]
    assert_same(together, alone, px=0.01)


def test_confidence_count_and_window_bound_the_boxes(weights: Path, tiles: np.ndarray) -> None:
    odd = tiles[:, :150, :133]
    for boxes in find(weights, odd, confidence=0.4, max_per_tile=7):
        assert 0 < len(boxes) <= 7
        assert (boxes.score >= 0.4).all()
        assert (np.diff(boxes.score) <= 0).all()
        assert (boxes.xyxy[:, :2] >= 0).all()
        assert (boxes.xyxy[:, 2] <= 133).all()
        assert (boxes.xyxy[:, 3] <= 150).all()
        assert (boxes.xyxy[:, 2:] > boxes.xyxy[:, :2]).all()


def test_no_tile_gives_no_boxes(weights: Path) -> None:
    assert find(weights, np.zeros((0, 64, 64, 3), np.uint8)) == []


def test_stride_is_the_coarsest_of_the_network(weights: Path) -> None:
    assert load_detector(DetectorConfig(weights=str(weights)), device="cpu").stride_px == 16


@pytest.mark.parametrize(
    "family", ["v8/yolov8.yaml", "11/yolo11.yaml", "v10/yolov10n.yaml", "26/yolo26.yaml"]
)
def test_every_family_of_ultralytics_loads_from_its_checkpoint(family: str, tmp_path: Path) -> None:
    quiet_ultralytics()
    import ultralytics
    from ultralytics.nn.tasks import yaml_model_load

    folder = Path(ultralytics.__file__).parent / "cfg" / "models"
    architecture = yaml_model_load(folder / family) | {"scale": "n"}
    torch.save({"model": build(architecture, nc=1)}, tmp_path / "model.pt")
    noise = np.random.default_rng(1).integers(0, 256, (1, 192, 256, 3), dtype=np.uint8)
    for precision in ("float32", "auto"):
        (boxes,) = find(tmp_path / "model.pt", noise, precision, confidence=0.0, iou=1.0, max_per_tile=500)
        assert 300 < len(boxes) <= 500  # end-to-end heads stop at 300 by default


def test_loading_leaves_the_random_state_alone(weights: Path) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    load_detector(DetectorConfig(weights=str(weights)), device="cpu")
    assert torch.equal(torch.rand(3), expected)


def test_digest_is_the_sha256_of_the_weights(weights: Path) -> None:
    expected = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert detector_digest(DetectorConfig(weights=str(weights))) == {"small.safetensors": expected}
    assert detector_digest(DetectorConfig(kind="classical")) == {}


ALONE = """
import os, socket, sys, warnings
from pathlib import Path

def refuse(*arguments, **options):
    raise SystemExit(f"network access: {arguments}")

for name in ("create_connection", "getaddrinfo", "gethostbyname"):
    setattr(socket, name, refuse)
socket.socket.connect = refuse

import cv2, torch, torchvision, numpy as np
from PIL import Image
before = dict(os.environ), torch.save, Image.open, np.get_printoptions(), cv2.getNumThreads(), torch.get_num_threads()
from fossilray.core.config import DetectorConfig
from fossilray.models.detectors.load import load_detector

detector = load_detector(DetectorConfig(weights=sys.argv[1], confidence=0.0), device="cpu")
assert len(detector.detect(np.zeros((1, 64, 64, 3), np.uint8), um_per_px=1.0)[0])
after = dict(os.environ), torch.save, Image.open, np.get_printoptions(), cv2.getNumThreads(), torch.get_num_threads()
assert before == after, [pair for pair in zip(before, after) if pair[0] != pair[1]]
"""


def test_ultralytics_writes_nothing_and_uses_no_network(weights: Path, tmp_path: Path) -> None:
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    home.mkdir()
    scratch.mkdir()
    environment = {"HOME": str(home), "TMPDIR": str(scratch), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(weights)],
        env=environment,
        cwd=scratch,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert list(home.rglob("*")) == []
    # PyTorch's compiler makes an empty folder of its own when torchvision is imported.
    assert [path for path in scratch.rglob("*") if not path.name.startswith("torchinductor")] == []
