"""A running average of a network's weights: a teacher, a target, or simply steadier weights."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from fossilray.core.config.training import TrainConfig
from fossilray.training.methods.views import ViewBuilder


def frozen_copy(network: torch.nn.Module) -> torch.nn.Module:
    """A copy that wants no gradients."""
    copied = copy.deepcopy(network)
    for parameter in copied.parameters():
        parameter.requires_grad_(False)
    return copied


@torch.no_grad()
def update_moving_average(average: torch.nn.Module, network: torch.nn.Module, *, keep: float) -> None:
    """average = keep * average + (1 - keep) * network, buffers included; counts are copied."""
    mine, other = average.state_dict(), network.state_dict()
    floats = [name for name, tensor in mine.items() if tensor.is_floating_point()]
    torch._foreach_lerp_([mine[name] for name in floats], [other[name] for name in floats], 1 - keep)
    for name in mine.keys() - set(floats):
        mine[name].copy_(other[name])


Gather = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class MethodLoss:
    """What to minimise, and what it is made of, to look at."""

    loss: torch.Tensor
    parts: Mapping[str, float]


class Method(torch.nn.Module, ABC):
    """A backbone with the heads and copies that its training needs.

    The optimiser gets every parameter that wants a gradient; `state_dict` is all there is to save.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        config: TrainConfig,
        *,
        backbone: torch.nn.Module,
        dimension: int,
        classes: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        counts: Sequence[int] | None = None,
    ) -> None:
        """counts: crops of each class that there are to learn from, for methods that weigh classes."""
        super().__init__()
        self.config, self.dimension, self.classes = config, dimension, classes
        self.counts = tuple(counts) if counts is not None else (1,) * classes
        self.backbone = backbone
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.gather: Gather = _as_it_is
        """What brings the vectors (n, d) of all workers together, (world * n, d), gradients included."""
        self._viewer = ViewBuilder(config.views, side_px=config.input_px, count=self.views_per_crop)

    @property
    def views_per_crop(self) -> int:
        """Views of the full side that the loss wants of each crop."""
        return 2

    def views(
        self, pixels: torch.Tensor, shape: torch.Tensor, rng: torch.Generator, *, progress: float = 1.0
    ) -> list[torch.Tensor]:
        """Random views (n, 3, S, S) float32 in 0..1 of crops (n, 3, H, W) uint8, on their device.

        shape: (n, 2) true width and height, the longer 1. progress: share of the training done; early views may be
        smaller.
        """
        return self._viewer(pixels, shape, rng=rng, progress=progress)

    @abstractmethod
    def loss(self, views: Sequence[torch.Tensor], label: torch.Tensor, *, progress: float) -> MethodLoss:
        """What the views of a batch cost; label: (n,), -1 where unknown."""

    def after_backward(self, *, epoch: int) -> None:
        """Called before the optimiser's step: the place to withhold gradients."""

    def after_step(self, progress: float) -> None:
        """Called after the optimiser's step: the place to move averages."""

    def rate_factors(self) -> Mapping[torch.nn.Parameter, float]:
        """Parameters that learn at another rate than all others, and times which."""
        return {}

    def classifier(self) -> torch.nn.Linear | None:
        """The layer that tells classes from the exported backbone's vectors, where it is part of what is learned."""
        return None

    @abstractmethod
    def backbone_for_export(self) -> torch.nn.Module:
        """The network that embeds in the end: the backbone, its average, or the teacher."""

    def embed(self, network: torch.nn.Module, views: torch.Tensor) -> torch.Tensor:
        """The vectors (n, dimension) that a network gives for views (n, 3, S, S) in 0..1."""
        seen = (views - self.mean) / self.std
        # Convolutions are fastest with the channels last in memory.
        vectors: torch.Tensor = network(seen.contiguous(memory_format=torch.channels_last))
        return vectors


def _as_it_is(vectors: torch.Tensor) -> torch.Tensor:
    return vectors
