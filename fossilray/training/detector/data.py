"""Training data of the detector: synthetic composites and batches of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fossilray.synthetic.composites import Composite, compose_field
from fossilray.synthetic.crop_library import CropLibrary

if TYPE_CHECKING:
    import torch

FINEST_UM_PER_PX, COARSEST_UM_PER_PX = 0.5, 4.0


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
    """Paint composites; the result depends on the seed, not on the number of workers.

    Args:
        count: number of composites.
        seed: seed of all composites.
        image_px: side of a composite.
        library: real crops to paste besides painted ones, or None.
        workers: processes that paint.
        um_per_px: scale; by default log-uniform between the finest and the coarsest.
        on_done: called with the number of composites done.
    """
    recipe = _Recipe(seed, image_px, um_per_px)
    composites: list[Composite] = []
    if workers <= 1:
        painted: Iterator[Composite] = (recipe.make(index, library) for index in range(count))
        return _collect(painted, composites, on_done)
    # Forked children would inherit the OpenCV and torch threads of the parent in an undefined state.
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(recipe, library)
    ) as pool:
        return _collect(pool.map(_paint_in_worker, range(count), chunksize=8), composites, on_done)


@dataclass(frozen=True)
class CropSplit:
    """Real crops for training, and for validation crops of kinds that are not trained on."""

    train: CropLibrary
    held_out: CropLibrary


def split_crops(folders: Sequence[Path]) -> CropSplit | None:
    """Split the crops of folders into training and validation; None if there are no folders.

    Every fifth kind of each folder, from the third by name on, is for validation.
    """
    train, held_out = CropLibrary((), 0), CropLibrary((), 0)
    for folder in folders:
        kinds = sorted(child.name for child in folder.iterdir() if child.is_dir())
        validation = kinds[2::5]
        train = train.joined(CropLibrary.from_folder(folder, without=validation))
        held_out = held_out.joined(CropLibrary.from_folder(folder, only=validation))
    return CropSplit(train, held_out) if folders else None


def draw_batches(
    composites: Sequence[Composite], *, seed: int, batch: int, image_px: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches without end; each epoch over the composites is in a new random order."""
    rng = np.random.default_rng([seed, 7])
    order: list[int] = []
    while True:
        while len(order) < batch:
            order.extend(int(i) for i in rng.permutation(len(composites)))
        chosen, order = order[:batch], order[batch:]
        samples = []
        for index in chosen:
            image, boxes = composites[index].image, composites[index].boxes
            if rng.random() < 0.15:
                image, boxes = _superpose(image, boxes, composites[int(rng.integers(len(composites)))])
            samples.append(_augment(image, boxes, rng))
        yield _to_tensors(samples, side_px=int(rng.choice([0.8, 1.0, 1.0, 1.1]) * image_px) // 32 * 32)


@dataclass(frozen=True)
class _Recipe:
    seed: int
    image_px: int
    um_per_px: float | None

    def make(self, index: int, library: CropLibrary | None) -> Composite:
        rng = np.random.default_rng([self.seed, index])
        random_scale = float(np.exp(rng.uniform(math.log(FINEST_UM_PER_PX), math.log(COARSEST_UM_PER_PX))))
        return compose_field(
            rng, size_px=self.image_px, um_per_px=self.um_per_px or random_scale, library=library
        )


_in_worker: dict[str, Any] = {}
"""Arguments of a painting process; empty in every other process."""


def _start_worker(recipe: _Recipe, library: CropLibrary | None) -> None:
    import cv2

    cv2.setNumThreads(1)
    _in_worker.update(recipe=recipe, library=library)


def _paint_in_worker(index: int) -> Composite:
    composite: Composite = _in_worker["recipe"].make(index, _in_worker["library"])
    return composite


def _collect(
    painted: Iterator[Composite], composites: list[Composite], on_done: Callable[[int], None] | None
) -> list[Composite]:
    for composite in painted:
        composites.append(composite)
        if on_done is not None:
            on_done(len(composites))
    return composites


def _superpose(
    image: NDArray[np.uint8], boxes: NDArray[np.float32], other: Composite
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Superpose two fields by multiplying their transmitted light."""
    clear = np.percentile(other.image, 90, axis=(0, 1)).clip(32)
    product = image.astype(np.float32) * (other.image / clear.astype(np.float32))
    return np.clip(product, 0, 255).astype(np.uint8), np.concatenate([boxes, other.boxes])


def _augment(
    image: NDArray[np.uint8], boxes: NDArray[np.float32], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rotate by quarter turns, mirror, and change brightness, contrast and tint; returns 0..1, not inverted."""
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
    """Return the batch for the loss: inverted images, and boxes as centre and size relative to the side."""
    import torch

    side = samples[0][0].shape[0]
    stacked = np.stack([image for image, _ in samples]).astype(np.float32)
    images = 1 - torch.from_numpy(stacked).permute(0, 3, 1, 2)
    if side_px != side:
        images = torch.nn.functional.interpolate(
            images, size=(side_px, side_px), mode="bilinear", antialias=True, align_corners=False
        )
    boxes = np.concatenate([boxes for _, boxes in samples]).astype(np.float32) / side
    image_of_box = np.concatenate(
        [np.full(len(boxes), i, np.float32) for i, (_, boxes) in enumerate(samples)]
    )
    xywh = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)
    return {
        "img": images.contiguous(memory_format=torch.channels_last),
        "batch_idx": torch.from_numpy(image_of_box),
        "cls": torch.zeros(len(boxes), 1),
        "bboxes": torch.from_numpy(xywh.astype(np.float32)),
    }
