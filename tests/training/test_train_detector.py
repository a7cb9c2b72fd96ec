"""Training the detector: a tiny run through the command, its functions, and the arithmetic of its figures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fossilray.core.config import DetectorConfig, PassConfig
from fossilray.core.types import Boxes
from fossilray.models.detectors.detector_file import read_detector, save_detector
from fossilray.models.detectors.load import load_detector
from fossilray.synthetic.composites import Composite
from fossilray.training.detector.data import make_composites, split_crops
from fossilray.training.detector.evaluate import (
    ValidationField,
    evaluate_detector,
    figures_table,
    find_objects,
    paper_passes,
    single_pass,
)
from fossilray.training.detector.train import (
    TrainingPlan,
    architecture,
    build_training_network,
    train_detector,
)

ROOT = Path(__file__).parents[2]


class Oracle:
    """A detector that knows the truth, with given boxes in um and scores."""

    stride_px = 32

    def __init__(self, xyxy: list[list[float]], score: list[float]) -> None:
        self._xyxy = np.array(xyxy, np.float64).reshape(-1, 4)
        self._score = np.array(score, np.float32)

    def detect(self, tiles: np.ndarray, *, um_per_px: float) -> list[Boxes]:
        return [Boxes(self._xyxy / um_per_px, self._score) for _ in tiles]


def field_with(xyxy: list[list[float]], touching: list[bool]) -> ValidationField:
    boxes = np.array(xyxy, np.float32).reshape(-1, 4)
    sizes = (boxes[:, 2:] - boxes[:, :2]).max(1)
    image = np.full((256, 256, 3), 220, np.uint8)
    composite = Composite(image, boxes, ("x",) * len(boxes), np.array(touching), sizes.astype(np.float32))
    return ValidationField(composite, 1.0)


def test_composites_are_the_same_however_many_workers_paint() -> None:
    alone = make_composites(4, seed=3, image_px=64, library=None, workers=1)
    together = make_composites(4, seed=3, image_px=64, library=None, workers=2)
    for one, other in zip(alone, together, strict=True):
        assert (one.image == other.image).all()
        assert (one.boxes == other.boxes).all()


def test_equal_plans_give_equal_weights_that_load(tmp_path: Path) -> None:
    fields = make_composites(4, seed=1, image_px=64, library=None)
    plan = TrainingPlan(seed=5, steps=2, image_px=64, batch=2, width=0.5)
    first, second = (train_detector(plan, fields) for _ in range(2))
    assert all((first.state_dict[name] == second.state_dict[name]).all() for name in first.state_dict)
    path = tmp_path / "tiny.safetensors"
    save_detector(path, state_dict=first.state_dict, meta=first.meta)
    detector = load_detector(DetectorConfig(weights=str(path), confidence=0.0), device="cpu")
    found = detector.detect(np.full((1, 96, 96, 3), 220, np.uint8), um_per_px=1.0)
    assert len(found) == 1


def test_training_starts_from_given_weights(tmp_path: Path) -> None:
    fields = make_composites(2, seed=1, image_px=64, library=None)
    plan = TrainingPlan(steps=1, image_px=64, batch=2, width=0.5)
    trained = train_detector(plan, fields)
    path = tmp_path / "start.safetensors"
    save_detector(path, state_dict=trained.state_dict, meta=trained.meta)
    still = TrainingPlan(steps=1, image_px=64, batch=2, width=0.5, learning_rate=0.0, start_from=path)
    kept, _ = read_detector(path)
    again = train_detector(still, fields)
    kernels = [name for name, tensor in kept.items() if tensor.ndim > 1]
    assert all((again.state_dict[name] == kept[name]).all() for name in kernels)


def test_the_network_has_heads_at_strides_4_8_16_and_no_attention() -> None:
    network = build_training_network(architecture())
    assert network.stride.tolist() == [4.0, 8.0, 16.0]
    layers = {type(module).__name__ for module in network.modules()}
    assert not layers & {"C2PSA", "PSA", "Attention", "SPPF", "AdaptiveAvgPool2d"}
    assert 1e6 < sum(p.numel() for p in network.parameters()) < 3e6


def test_one_kind_in_five_is_held_out_of_training(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    for kind in "abcdefgh":
        crop = np.full((80, 80, 3), 220, np.uint8)
        cv2.circle(crop, (40, 40), 20, (90, 70, 40), -1)
        (tmp_path / kind).mkdir()
        cv2.imwrite(str(tmp_path / kind / "a.png"), crop)
    split = split_crops([tmp_path])
    assert split is not None
    assert split.held_out.kinds == ("c", "h")
    assert split.train.kinds == ("a", "b", "d", "e", "f", "g")


def test_perfect_boxes_score_one_and_a_stray_box_costs_precision() -> None:
    truth = [[10.0, 10.0, 40.0, 40.0], [100.0, 100.0, 130.0, 125.0]]
    field = field_with(truth, [False, True])
    perfect = evaluate_detector(Oracle(truth, [0.9, 0.8]), [field], passes=single_pass(1.0), confidence=0.25)
    row = next(row for row in perfect if row.low_um == 20)
    assert (row.objects, row.ap50) == (2, 1.0)
    assert (row.recall_isolated, row.recall_touching) == (1.0, 1.0)
    stray = Oracle([*truth, [200.0, 200.0, 230.0, 230.0]], [0.9, 0.8, 0.7])
    row = next(
        r
        for r in evaluate_detector(stray, [field], passes=single_pass(1.0), confidence=0.25)
        if r.low_um == 20
    )
    assert row.precision_isolated == 0.5
    assert row.precision_touching == 1.0
    assert row.ap50 == 1.0


def test_an_object_detected_in_two_passes_is_kept_once() -> None:
    box = [[10.0, 10.0, 140.0, 140.0]]
    passes = (
        PassConfig(um_per_px=1.0, largest_um=160.0),
        PassConfig(um_per_px=4.0, smallest_um=100.0, largest_um=1000.0),
    )
    found = find_objects(Oracle(box, [0.9]), field_with(box, [False]), passes=passes, same_object_iou=0.5)
    assert len(found) == 1


def test_figures_print_as_a_table() -> None:
    truth = [[10.0, 10.0, 40.0, 40.0]]
    rows = evaluate_detector(
        Oracle(truth, [0.9]), [field_with(truth, [False])], passes=paper_passes(), confidence=0.25
    )
    assert "| 20–50 | 1 | 1.00 | 1.00 | – | 1.00 | – |" in figures_table(rows)


@pytest.mark.slow
def test_the_command_trains_saves_and_evaluates(tmp_path: Path) -> None:
    out = tmp_path / "tiny.safetensors"
    command = [sys.executable, str(ROOT / "pipelines" / "train_detector.py"), "--out", str(out)]
    command += ["--steps", "3", "--composites", "6", "--image-px", "64", "--batch", "2", "--width", "0.5"]
    command += ["--fields", "2", "--threads", "1", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert out.is_file()
    assert "The classical method" in done.stdout
