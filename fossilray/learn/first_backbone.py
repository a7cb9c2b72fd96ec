"""The first bundled backbone: a small network taught on labelled crops in minutes on a CPU.

Cross-entropy over the classes and, on a projection, supervised contrast (Khosla et al. 2020, eq. 2).
Whole classes are held out and judged by retrieval, beside a random network of the same kind.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fossilray.embed.network import IMAGENET_MEAN, IMAGENET_STD, BackboneEmbedder, Preprocessing
from fossilray.learn.labelled_crops import LabelledCrops
from fossilray.learn.metrics import Retrieval, judge_retrieval
from fossilray.learn.views import make_views

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class FirstRecipe:
    """Everything that decides the weights, next to the crops, the seed and the number of threads."""

    architecture: str = "resnet18"
    kwargs: dict[str, Any] = field(default_factory=lambda: {"channels": [32, 64, 128, 256]})
    early_px: int = 56
    """Side of the views in the first `early_share` of the time, when a step costs a third."""
    late_px: int = 96
    early_share: float = 0.7
    input_px: int = 64
    """Side at which the finished network sees crops: it told held-out genera apart better than at 96."""
    classes_per_batch: int = 16
    crops_per_class: int = 4
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    contrast_weight: float = 0.5
    temperature: float = 0.1
    label_smoothing: float = 0.1
    averaging: float = 0.99
    """Decay of the exponential average of the weights, which is what ships."""

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing(self.input_px, IMAGENET_MEAN, IMAGENET_STD, "bicubic")


@dataclass(frozen=True)
class Trained:
    """The averaged network and how far it got."""

    network: torch.nn.Module
    dimension: int
    steps: int
    seconds: float
    loss: float
    """Mean of the last twentieth of the steps."""


def train_first_backbone(
    crops: LabelledCrops,
    recipe: FirstRecipe,
    *,
    seed: int,
    steps: int | None = None,
    minutes: float = 20.0,
    report: Callable[[str], None] = print,
) -> Trained:
    """A backbone taught on the crops for so many steps, or for so many minutes if no steps are given.

    Only `steps` repeats exactly: with `minutes` the schedule follows the clock.
    """
    import torch

    rng = np.random.default_rng(seed)
    noise = torch.Generator().manual_seed(seed)
    learner = _Learner(recipe, classes=len(crops.classes), seed=seed)
    stored = {px: _stored(crops, px) for px in (recipe.early_px, recipe.late_px)}
    shape, label = torch.from_numpy(crops.shape), torch.from_numpy(crops.label)
    losses: list[float] = []
    began_s = time.monotonic()
    batches = _draw_batches(crops.label, recipe, rng)
    while (progress := _progress(len(losses), steps, time.monotonic() - began_s, minutes)) < 1:
        rows = next(batches)
        side_px = recipe.early_px if progress < recipe.early_share else recipe.late_px
        views = make_views(stored[side_px][rows], shape[rows], side_px=side_px, rng=noise)
        losses.append(learner.step(views, label[rows], progress=progress))
        if len(losses) % 50 == 0:
            report(f"step {len(losses)} ({progress:.0%}): loss {np.mean(losses[-50:]):.3f}")
    last = losses[-max(1, len(losses) // 20) :]
    return Trained(
        learner.averaged, learner.dimension, len(losses), time.monotonic() - began_s, float(np.mean(last))
    )


def random_network(recipe: FirstRecipe, *, seed: int) -> torch.nn.Module:
    """The recipe's network before it learned anything."""
    import timm
    import torch

    torch.manual_seed(seed)  # timm draws initial weights from the global generator alone
    network: torch.nn.Module = timm.create_model(recipe.architecture, num_classes=0, **recipe.kwargs)
    return network


def judge_network(network: torch.nn.Module, crops: LabelledCrops, preprocessing: Preprocessing) -> Retrieval:
    """Retrieval figures of a network on classes it has not seen."""
    embedder = BackboneEmbedder(
        copy.deepcopy(network), name="judged", preprocessing=preprocessing, device="cpu", batch=64
    )
    return judge_retrieval(embedder.embed(crops.pixels), crops.label)


class _Learner:
    """The network with its two heads, its optimiser and its running average."""

    def __init__(self, recipe: FirstRecipe, *, classes: int, seed: int) -> None:
        import torch

        self._recipe, self._taken = recipe, 0
        self._network = random_network(recipe, seed=seed)
        self.dimension = dimension = int(self._network.num_features)  # type: ignore[arg-type]
        self._classify = torch.nn.Linear(dimension, classes)
        self._project = torch.nn.Sequential(
            torch.nn.Linear(dimension, dimension), torch.nn.ReLU(), torch.nn.Linear(dimension, 128)
        )
        self.averaged = copy.deepcopy(self._network).eval()
        parts = torch.nn.ModuleList([self._network, self._classify, self._project]).train()
        kernels = [p for p in parts.parameters() if p.ndim > 1]
        vectors = [p for p in parts.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": kernels}, {"params": vectors, "weight_decay": 0.0}]
        self._optimiser = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)
        self._mean = torch.tensor(recipe.preprocessing.mean).view(1, 3, 1, 1)
        self._std = torch.tensor(recipe.preprocessing.std).view(1, 3, 1, 1)

    def step(self, views: torch.Tensor, label: torch.Tensor, *, progress: float) -> float:
        """Learn from one batch; progress in 0..1 sets the learning rate (rise for 5 %, then half a cosine)."""
        import torch.nn.functional as F

        from fossilray.learn.methods.contrast import supervised_contrast

        rate = self._recipe.learning_rate * min(1.0, progress / 0.05 + 0.01)
        for group in self._optimiser.param_groups:
            group["lr"] = rate * 0.5 * (1 + np.cos(np.pi * progress))
        vectors = self._network((views - self._mean) / self._std)
        loss = F.cross_entropy(self._classify(vectors), label, label_smoothing=self._recipe.label_smoothing)
        contrast = supervised_contrast(self._project(vectors), label, temperature=self._recipe.temperature)
        loss = loss + self._recipe.contrast_weight * contrast
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        self._average()
        return float(loss.detach())

    def _average(self) -> None:
        import torch

        # The average follows closely at first, else it would remember the random start.
        self._taken += 1
        decay = min(self._recipe.averaging, (1 + self._taken) / (10 + self._taken))
        with torch.no_grad():
            pairs = zip(self.averaged.state_dict().values(), self._network.state_dict().values(), strict=True)
            for kept, new in pairs:
                if kept.is_floating_point():
                    kept.lerp_(new, 1 - decay)
                else:
                    kept.copy_(new)


def _progress(taken: int, steps: int | None, seconds: float, minutes: float) -> float:
    return taken / steps if steps is not None else seconds / (60 * minutes)


def _stored(crops: LabelledCrops, side_px: int) -> torch.Tensor:
    """Crops (n, 3, P, P) uint8 a sixth larger than the views taken of them: turning resamples once more."""
    import torch
    import torch.nn.functional as F

    side = round(side_px * 7 / 6)
    chunks = [
        F.interpolate(
            torch.from_numpy(crops.pixels[i : i + 256]).permute(0, 3, 1, 2).float(),
            (side, side),
            mode="bicubic",
            antialias=True,
        )
        .clamp_(0, 255)
        .round_()
        .to(torch.uint8)
        for i in range(0, len(crops), 256)
    ]
    return torch.cat(chunks)


def _draw_batches(
    label: NDArray[np.int64], recipe: FirstRecipe, rng: np.random.Generator
) -> Iterator[NDArray[np.intp]]:
    """Row numbers of one batch after the other: some classes, some crops of each."""
    rows = [np.flatnonzero(label == c) for c in range(int(label.max()) + 1)]
    while True:
        chosen = rng.choice(len(rows), size=min(recipe.classes_per_batch, len(rows)), replace=False)
        yield np.concatenate(
            [
                rng.choice(
                    rows[c], size=recipe.crops_per_class, replace=len(rows[c]) < recipe.crops_per_class
                )
                for c in chosen
            ]
        )
