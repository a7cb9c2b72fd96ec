"""Train the shipped detector: composites in, a weight file's content out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fossilray.detect.network import quiet_ultralytics
from fossilray.detect.weights_file import DetectorMeta, read_weights
from fossilray.synthetic.composites import Composite, compose
from fossilray.synthetic.crop_library import CropLibrary

if TYPE_CHECKING:
    import torch

FINEST_UM_PER_PX, COARSEST_UM_PER_PX = 0.5, 4.0
SMALLEST_UM = 8.0
"""Longest side of the smallest object the detector is meant to find in its 1 um per px sweep."""
_LOSS_GAINS = {"box": 7.5, "cls": 0.5, "dfl": 1.5}
"""Of Ultralytics YOLOv8 (its default.yaml)."""
_DISTANCE_BINS = 10
"""A side lies at most 9 strides from an anchor: at stride 16 that spans objects of 288 px, and no more is asked."""
_WARM_UP_SHARE, _LAST_RATE_SHARE = 0.05, 0.02


@dataclass(frozen=True)
class TrainingPlan:
    """How long, on what, and how; equal plans on one machine with `steps` set give equal weights."""

    seed: int = 1
    steps: int | None = None
    minutes: float = 60.0
    """Counts only when steps is None."""
    composites: int = 3000
    image_px: int = 320
    batch: int = 4
    width: float = 1.0
    learning_rate: float = 2e-3
    start_from: Path | None = None
    """Weights of the same width to go on from; None starts from random ones."""
    device: str = "cpu"
    workers: int = 2


@dataclass(frozen=True)
class Progress:
    """Where a training stands: share done 0..1, step, and the losses smoothed over about 50 steps."""

    share: float
    step: int
    box: float
    cls: float
    dfl: float


@dataclass(frozen=True)
class TrainedDetector:
    """What goes into a weight file."""

    state_dict: dict[str, torch.Tensor]
    meta: DetectorMeta
    steps: int
    seconds: float


def train_detector(
    plan: TrainingPlan, composites: Sequence[Composite], *, on_step: Callable[[Progress], None] | None = None
) -> TrainedDetector:
    """A YOLO trained from nothing on composites; the weights are the running mean of the last steps.

    The loss is Ultralytics' own (task-aligned assignment, CIoU and distribution focal loss, YOLOv8);
    the loop is ours, so that nothing is downloaded and no settings are read.
    """
    import torch

    torch.manual_seed(plan.seed)
    device = torch.device(plan.device)
    design = architecture(plan.width)
    model = build_network(design).to(device)
    if plan.start_from is not None:
        state, _ = read_weights(plan.start_from)
        model.load_state_dict(state)
    averaged = build_network(design).to(device)
    averaged.load_state_dict(model.state_dict())
    model.train()
    optimizer = torch.optim.AdamW(_decay_groups(model), lr=plan.learning_rate, betas=(0.9, 0.99))
    batches = _batches(plan, composites)
    started = time.monotonic()
    smoothed: NDArray[np.float64] | None = None
    step, share = 0, 0.0
    while share < 1.0:
        rate = plan.learning_rate * _rate_share(share)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = {name: tensor.to(device) for name, tensor in next(batches).items()}
        losses, parts = model(batch)
        optimizer.zero_grad(set_to_none=True)
        (losses.sum() / len(batch["img"])).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        step += 1
        _average(averaged, model, keep=min(0.998, step / (step + 12)))
        share = step / plan.steps if plan.steps else (time.monotonic() - started) / (60 * plan.minutes)
        values = np.array([float(parts[name]) for name in ("box_loss", "cls_loss", "dfl_loss")])
        smoothed = values if smoothed is None else 0.98 * smoothed + 0.02 * values
        if on_step is not None:
            on_step(Progress(min(share, 1.0), step, *(float(value) for value in smoothed)))
    return TrainedDetector(
        state_dict={name: tensor.detach().cpu() for name, tensor in averaged.state_dict().items()},
        meta=DetectorMeta(
            architecture=design,
            nc=1,
            names=("object",),
            stride=32,
            invert=True,
            um_per_px=(1.0, COARSEST_UM_PER_PX),
            smallest_um=SMALLEST_UM,
        ),
        steps=step,
        seconds=time.monotonic() - started,
    )


def architecture(width: float = 1.0) -> dict[str, Any]:
    """A YOLOv8-like network as Ultralytics reads it: heads at strides 4, 8 and 16, one class.

    Convolutions only: no attention and no pooling over the image, so that what is found at a place
    depends on its surroundings and not on the tile it was read in. width scales the channels.
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


def build_network(design: dict[str, Any]) -> Any:
    """The untrained Ultralytics model of a design, with its loss's gains set."""
    import torch

    quiet_ultralytics()
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel(design, nc=1, verbose=False)
    model.args = SimpleNamespace(**_LOSS_GAINS)
    return model.to(memory_format=torch.channels_last)


def make_composites(
    count: int,
    *,
    seed: int,
    image_px: int,
    library: CropLibrary | None,
    workers: int = 1,
    um_per_px: float | None = None,
    on_done: Callable[[int], None] | None = None,
) -> list[Composite]:
    """count composites, the same for a seed however many workers paint them.

    um_per_px: None draws a scale for each, even in its logarithm, between the finest and the coarsest.
    """
    recipe = _Recipe(seed, image_px, um_per_px)
    made: list[Composite] = []
    if workers <= 1:
        painted: Iterator[Composite] = (recipe.make(index, library) for index in range(count))
        return _collect(painted, made, on_done)
    # Forked children would inherit the parent's OpenCV and torch threads in whatever state they are.
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(recipe, library)
    ) as pool:
        return _collect(pool.map(_paint_in_worker, range(count), chunksize=8), made, on_done)


@dataclass(frozen=True)
class CropSplit:
    """Real crops for training and, of kinds the training never sees, for validation."""

    train: CropLibrary
    held_out: CropLibrary


def split_crops(folders: Sequence[Path]) -> CropSplit | None:
    """The crops of several folders, one kind in five of each (from its third, by name) held out; None of none."""
    train, held_out = CropLibrary((), 0), CropLibrary((), 0)
    for folder in folders:
        kinds = sorted(child.name for child in folder.iterdir() if child.is_dir())
        apart = kinds[2::5]
        train = train.joined(CropLibrary.from_folder(folder, without=apart))
        held_out = held_out.joined(CropLibrary.from_folder(folder, only=apart))
    return CropSplit(train, held_out) if folders else None


@dataclass(frozen=True)
class _Recipe:
    seed: int
    image_px: int
    um_per_px: float | None

    def make(self, index: int, library: CropLibrary | None) -> Composite:
        rng = np.random.default_rng([self.seed, index])
        drawn = float(np.exp(rng.uniform(math.log(FINEST_UM_PER_PX), math.log(COARSEST_UM_PER_PX))))
        return compose(rng, size_px=self.image_px, um_per_px=self.um_per_px or drawn, library=library)


_in_worker: dict[str, Any] = {}
"""What a painting process was started with; empty in every other process."""


def _start_worker(recipe: _Recipe, library: CropLibrary | None) -> None:
    import cv2

    cv2.setNumThreads(1)
    _in_worker.update(recipe=recipe, library=library)


def _paint_in_worker(index: int) -> Composite:
    composite: Composite = _in_worker["recipe"].make(index, _in_worker["library"])
    return composite


def _collect(
    painted: Iterator[Composite], made: list[Composite], on_done: Callable[[int], None] | None
) -> list[Composite]:
    for composite in painted:
        made.append(composite)
        if on_done is not None:
            on_done(len(made))
    return made


def _decay_groups(model: torch.nn.Module) -> list[dict[str, Any]]:
    kernels = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    return [{"params": kernels, "weight_decay": 0.02}, {"params": vectors, "weight_decay": 0.0}]


def _rate_share(share: float) -> float:
    if share < _WARM_UP_SHARE:
        return 0.02 + share / _WARM_UP_SHARE * 0.98
    along = (share - _WARM_UP_SHARE) / (1 - _WARM_UP_SHARE)
    return _LAST_RATE_SHARE + (1 - _LAST_RATE_SHARE) * 0.5 * (1 + math.cos(math.pi * min(1.0, along)))


def _average(averaged: torch.nn.Module, model: torch.nn.Module, *, keep: float) -> None:
    import torch

    with torch.no_grad():
        now = model.state_dict()
        for name, mean in averaged.state_dict().items():
            if mean.is_floating_point():
                mean.lerp_(now[name], 1 - keep)
            else:
                mean.copy_(now[name])


def _batches(plan: TrainingPlan, composites: Sequence[Composite]) -> Iterator[dict[str, torch.Tensor]]:
    """Batches without end; each pass over the composites is in a new order."""
    rng = np.random.default_rng([plan.seed, 7])
    order: list[int] = []
    while True:
        while len(order) < plan.batch:
            order.extend(int(i) for i in rng.permutation(len(composites)))
        chosen, order = order[: plan.batch], order[plan.batch :]
        samples = []
        for index in chosen:
            image, boxes = composites[index].image, composites[index].boxes
            if rng.random() < 0.15:
                image, boxes = _laid_over(image, boxes, composites[int(rng.integers(len(composites)))])
            samples.append(_augment(image, boxes, rng))
        yield _to_tensors(samples, side_px=int(rng.choice([0.8, 1.0, 1.0, 1.1]) * plan.image_px) // 32 * 32)


def _laid_over(
    image: NDArray[np.uint8], boxes: NDArray[np.float32], other: Composite
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Two fields seen through one another; light multiplies."""
    clear = np.percentile(other.image, 90, axis=(0, 1)).clip(32)
    product = image.astype(np.float32) * (other.image / clear.astype(np.float32))
    return np.clip(product, 0, 255).astype(np.uint8), np.concatenate([boxes, other.boxes])


def _augment(
    image: NDArray[np.uint8], boxes: NDArray[np.float32], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Turned by quarters, mirrored, and of other brightness, contrast and tint; 0..1, not yet inverted."""
    side = image.shape[0]
    boxes = boxes.copy()
    if rng.random() < 0.5:
        image = image[:, ::-1]
        boxes[:, [0, 2]] = side - boxes[:, [2, 0]]
    for _ in range(int(rng.integers(4))):
        # A quarter turn counter-clockwise takes (x, y) to (y, side - x).
        image = np.rot90(image)
        boxes = np.stack([boxes[:, 1], side - boxes[:, 2], boxes[:, 3], side - boxes[:, 0]], 1)
    light = image.astype(np.float32) / 255
    if rng.random() < 0.7:
        gain = rng.uniform(0.75, 1.12) * rng.normal(1, 0.04, 3)
        light = np.clip(light ** np.exp(rng.normal(0, 0.15)) * gain.astype(np.float32), 0, 1)
    if rng.random() < 0.1:
        light = light[..., rng.permutation(3)]
    return np.ascontiguousarray(light, np.float32), boxes


def _to_tensors(
    samples: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]], *, side_px: int
) -> dict[str, torch.Tensor]:
    """The batch as the loss takes it: inverted images, boxes as centre and size in shares of the side."""
    import torch

    side = samples[0][0].shape[0]
    stacked = np.stack([image for image, _ in samples]).astype(np.float32)
    images = 1 - torch.from_numpy(stacked).permute(0, 3, 1, 2)
    if side_px != side:
        images = torch.nn.functional.interpolate(
            images, size=(side_px, side_px), mode="bilinear", antialias=True, align_corners=False
        )
    boxes = np.concatenate([boxes for _, boxes in samples]).astype(np.float32) / side
    which = np.concatenate([np.full(len(boxes), i, np.float32) for i, (_, boxes) in enumerate(samples)])
    shape = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)
    return {
        "img": images.contiguous(memory_format=torch.channels_last),
        "batch_idx": torch.from_numpy(which),
        "cls": torch.zeros(len(boxes), 1),
        "bboxes": torch.from_numpy(shape.astype(np.float32)),
    }
