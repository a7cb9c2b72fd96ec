"""The base class of training methods, and moving averages of network weights."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from fossilray.core.config.training import TrainConfig
from fossilray.training.methods.views import ViewBuilder


def frozen_copy(network: torch.nn.Module) -> torch.nn.Module:
    """Return a copy whose parameters require no gradients."""
    copied = copy.deepcopy(network)
    for parameter in copied.parameters():
        parameter.requires_grad_(False)
    return copied


@torch.no_grad()
def update_moving_average(average: torch.nn.Module, network: torch.nn.Module, *, keep: float) -> None:
    """Update `average = keep * average + (1 - keep) * network`, buffers included; integer buffers are copied."""
    averaged, current = average.state_dict(), network.state_dict()
    floats = [name for name, tensor in averaged.items() if tensor.is_floating_point()]
    torch._foreach_lerp_([averaged[name] for name in floats], [current[name] for name in floats], 1 - keep)
    for name in averaged.keys() - set(floats):
        averaged[name].copy_(current[name])


Gather = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class MethodLoss:
    """The loss to minimise, and metrics to log with it, such as its terms."""

    loss: torch.Tensor
    terms: Mapping[str, float]


class MethodModule(torch.nn.Module, ABC):
    """A backbone with the heads and copies that its training needs.

    The optimiser updates every parameter that requires a gradient. `state_dict` is the complete state, so names of
    submodules and buffers are part of the checkpoint format.
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
        """counts: training crops of each class, for methods that weight classes."""
        super().__init__()
        self.config, self.dimension, self.classes = config, dimension, classes
        self.counts = tuple(counts) if counts is not None else (1,) * classes
        self.backbone = backbone
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.gather: Gather = _identity
        """Concatenates the vectors (n, d) of all workers to (world * n, d); gradients flow back."""
        self._view_builder = ViewBuilder(config.views, side_px=config.input_px, count=self.views_per_crop)

    @property
    def views_per_crop(self) -> int:
        """Number of full-size views of each crop in the loss."""
        return 2

    def views(
        self, pixels: torch.Tensor, shape: torch.Tensor, rng: torch.Generator, *, progress: float = 1.0
    ) -> list[torch.Tensor]:
        """Return random views (n, 3, S, S) float32 in 0..1 of crops, on their device.

        Args:
            pixels: (n, 3, H, W) uint8.
            shape: (n, 2) original width and height, the longer one 1.
            rng: Generator on the CPU.
            progress: Share of the training done; early views can be smaller.
        """
        return self._view_builder(pixels, shape, rng=rng, progress=progress)

    @abstractmethod
    def loss(self, views: Sequence[torch.Tensor], label: torch.Tensor, *, progress: float) -> MethodLoss:
        """Return the loss of a batch. views: as `views` returns them; label: (n,), -1 where unknown."""

    def after_backward(self, *, epoch: int) -> None:
        """Hook before the optimiser step, to drop gradients."""

    def after_step(self, progress: float) -> None:
        """Hook after the optimiser step, to update moving averages."""

    def rate_factors(self) -> Mapping[torch.nn.Parameter, float]:
        """Return parameters with another learning rate, and the factor on it."""
        return {}

    def classifier(self) -> torch.nn.Linear | None:
        """Return the trained linear classifier on the exported backbone's vectors, if the method has one."""
        return None

    @abstractmethod
    def backbone_for_export(self) -> torch.nn.Module:
        """Return the network to export: the backbone, its moving average, or the teacher."""

    def embed(self, network: torch.nn.Module, views: torch.Tensor) -> torch.Tensor:
        """Return a network's vectors (n, dimension) of views (n, 3, S, S) in 0..1."""
        normalised = (views - self.mean) / self.std
        # Convolutions are fastest in channels-last memory format.
        vectors: torch.Tensor = network(normalised.contiguous(memory_format=torch.channels_last))
        return vectors


def _identity(vectors: torch.Tensor) -> torch.Tensor:
    return vectors
