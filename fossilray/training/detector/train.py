"""Train the bundled detector on synthetic composites."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fossilray.models.detectors.detector_file import DetectorMeta, read_detector
from fossilray.models.detectors.ultralytics_network import quiet_ultralytics
from fossilray.synthetic.composites import Composite
from fossilray.training.detector.data import COARSEST_UM_PER_PX, draw_batches

if TYPE_CHECKING:
    import torch

SMALLEST_OBJECT_UM = 8.0
"""Longest side of the smallest objects to detect in a pass at 1 um per px."""
_LOSS_GAINS = {"box": 7.5, "cls": 0.5, "dfl": 1.5}
"""Ultralytics YOLOv8, default.yaml."""
_DISTANCE_BINS = 10
"""A side is at most 9 strides from an anchor, enough for objects of 288 px at stride 16."""
_WARMUP_SHARE, _LAST_RATE_SHARE = 0.05, 0.02


@dataclass(frozen=True)
class TrainingPlan:
    """Settings of a detector training. Equal plans with `steps` set give equal weights on one machine."""

    seed: int = 1
    steps: int | None = None
    minutes: float = 60.0
    """Duration of the training if `steps` is None."""
    composites: int = 3000
    image_px: int = 320
    batch: int = 4
    width: float = 1.0
    learning_rate: float = 2e-3
    start_from: Path | None = None
    """Initial weights of the same width; None for random ones."""
    device: str = "cpu"
    workers: int = 2


@dataclass(frozen=True)
class DetectorProgress:
    """Progress of a training: share done 0..1, step, and the loss terms smoothed over about 50 steps."""

    share: float
    step: int
    box: float
    cls: float
    dfl: float


@dataclass(frozen=True)
class TrainedDetector:
    """The content of a weights file."""

    state_dict: dict[str, torch.Tensor]
    meta: DetectorMeta
    steps: int
    seconds: float


def train_detector(
    plan: TrainingPlan,
    composites: Sequence[Composite],
    *,
    on_step: Callable[[DetectorProgress], None] | None = None,
) -> TrainedDetector:
    """Train a YOLO on composites; the weights are an exponential moving average over steps.

    The loss is that of Ultralytics (task-aligned assignment, CIoU and distribution focal loss, YOLOv8). The loop is
    fossilray's, so nothing is downloaded and no settings are read.

    Args:
        plan: settings.
        composites: training images with boxes.
        on_step: called after every step.
    """
    import torch

    torch.manual_seed(plan.seed)
    device = torch.device(plan.device)
    design = architecture(plan.width)
    model = build_training_network(design).to(device)
    if plan.start_from is not None:
        state, _ = read_detector(plan.start_from)
        model.load_state_dict(state)
    averaged = build_training_network(design).to(device)
    averaged.load_state_dict(model.state_dict())
    model.train()
    optimizer = torch.optim.AdamW(_decay_groups(model), lr=plan.learning_rate, betas=(0.9, 0.99))
    batches = draw_batches(composites, seed=plan.seed, batch=plan.batch, image_px=plan.image_px)
    started = time.monotonic()
    smoothed: NDArray[np.float64] | None = None
    step, share = 0, 0.0
    while share < 1.0:
        rate = plan.learning_rate * _rate_share(share)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = {name: tensor.to(device) for name, tensor in next(batches).items()}
        losses, terms = model(batch)
        optimizer.zero_grad(set_to_none=True)
        (losses.sum() / len(batch["img"])).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        step += 1
        _update_average(averaged, model, keep=min(0.998, step / (step + 12)))
        share = step / plan.steps if plan.steps else (time.monotonic() - started) / (60 * plan.minutes)
        values = np.array([float(terms[name]) for name in ("box_loss", "cls_loss", "dfl_loss")])
        smoothed = values if smoothed is None else 0.98 * smoothed + 0.02 * values
        if on_step is not None:
            on_step(DetectorProgress(min(share, 1.0), step, *(float(value) for value in smoothed)))
    return TrainedDetector(
        state_dict={name: tensor.detach().cpu() for name, tensor in averaged.state_dict().items()},
        meta=DetectorMeta(
            architecture=design,
            nc=1,
            names=("object",),
            stride=32,
            invert=True,
            um_per_px=(1.0, COARSEST_UM_PER_PX),
            smallest_um=SMALLEST_OBJECT_UM,
        ),
        steps=step,
        seconds=time.monotonic() - started,
    )


def architecture(width: float = 1.0) -> dict[str, Any]:
    """Return a YOLOv8-like network in Ultralytics' format: heads at strides 4, 8 and 16, one class.

    It has convolutions only, no attention and no global pooling, so a detection depends on its surroundings and not on
    the tile. width scales the channels.
    """

    def channels(count: int) -> int:
        return max(8, int(math.ceil(count * width / 8) * 8))

    p1, p2, p3, p4, p5 = (channels(count) for count in (16, 32, 64, 128, 160))
    return {
        "nc": 1,
        "reg_max": _DISTANCE_BINS,
        "backbone": [
            [-1, 1, "Conv", [p1, 3, 2]],
            [-1, 1, "Conv", [p2, 3, 2]],
            [-1, 1, "C2f", [p2, True]],
            [-1, 1, "Conv", [p3, 3, 2]],
            [-1, 2, "C2f", [p3, True]],
            [-1, 1, "Conv", [p4, 3, 2]],
            [-1, 2, "C2f", [p4, True]],
            [-1, 1, "Conv", [p5, 3, 2]],
            [-1, 2, "C2f", [p5, True]],
        ],
        "head": [
            [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
            [[-1, 6], 1, "Concat", [1]],
            [-1, 1, "C2f", [p4]],
            [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
            [[-1, 4], 1, "Concat", [1]],
            [-1, 1, "C2f", [p3]],
            [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
            [[-1, 2], 1, "Concat", [1]],
            [-1, 1, "C2f", [p2]],
            [[17, 14, 11], 1, "Detect", ["nc"]],
        ],
    }


def build_training_network(design: dict[str, Any]) -> Any:
    """Build the untrained Ultralytics model of an architecture, with the gains of its loss."""
    import torch

    quiet_ultralytics()
    from ultralytics.nn.tasks import DetectionModel

    untyped: Any = DetectionModel
    model = untyped(design, nc=1, verbose=False)
    model.args = SimpleNamespace(**_LOSS_GAINS)
    return model.to(memory_format=torch.channels_last)


def _decay_groups(model: torch.nn.Module) -> list[dict[str, Any]]:
    kernels = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    return [{"params": kernels, "weight_decay": 0.02}, {"params": vectors, "weight_decay": 0.0}]


def _rate_share(share: float) -> float:
    if share < _WARMUP_SHARE:
        return 0.02 + share / _WARMUP_SHARE * 0.98
    position = (share - _WARMUP_SHARE) / (1 - _WARMUP_SHARE)
    return _LAST_RATE_SHARE + (1 - _LAST_RATE_SHARE) * 0.5 * (1 + math.cos(math.pi * min(1.0, position)))


def _update_average(averaged: torch.nn.Module, model: torch.nn.Module, *, keep: float) -> None:
    import torch

    with torch.no_grad():
        current = model.state_dict()
        for name, mean in averaged.state_dict().items():
            if mean.is_floating_point():
                mean.lerp_(current[name], 1 - keep)
            else:
                mean.copy_(current[name])
