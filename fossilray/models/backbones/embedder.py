"""A backbone at work: crops in, vectors out, with the preprocessing that belongs to its weights."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import ConfigError, WeightsError
from fossilray.models.backbones.inference_optimisation import forward_size, optimise_for_inference

if TYPE_CHECKING:
    import torch

Interpolation = Literal["bilinear", "bicubic"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and deviation of ImageNet in 0..1 RGB, which DINO, SCAMPI and torchvision weights expect."""

HALF_LARGEST = 65504.0
"""Largest finite float16."""


@dataclass(frozen=True)
class Preprocessing:
    """How a backbone wants to see a crop; the whole crop is shown, nothing is cut off."""

    size_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Of RGB in 0..1."""
    interpolation: Interpolation

    def apply(self, crops: torch.Tensor) -> torch.Tensor:
        """Crops (n, H, W, 3) uint8 as network input (n, 3, size_px, size_px) float32, on the same device."""
        import torch

        light = crops.permute(0, 3, 1, 2)  # channels last in memory, which convolutions are fastest on
        if light.shape[-2:] != (self.size_px, self.size_px):
            light = self._resize(light)
        # Along whole rows, which the processor takes many numbers at a time, not three by three.
        rows = light.permute(0, 2, 3, 1).reshape(len(crops), self.size_px, self.size_px * 3).float()
        std = torch.tensor(self.std, device=light.device)
        scale = 1 / (255 * std)
        shift = -torch.tensor(self.mean, device=light.device) / std
        seen = torch.addcmul(shift.repeat(self.size_px), rows, scale.repeat(self.size_px))
        return seen.view(len(crops), self.size_px, self.size_px, 3).permute(0, 3, 1, 2)

    def _resize(self, light: torch.Tensor) -> torch.Tensor:
        """Resized with anti-aliasing and rounded to 8 bits; integers are ten times as fast, but CPU only."""
        import torch.nn.functional as F

        side = (self.size_px, self.size_px)
        if light.device.type == "cpu":
            return F.interpolate(light, side, mode=self.interpolation, antialias=True)
        return (
            F.interpolate(light.float(), side, mode=self.interpolation, antialias=True)
            .round_()
            .clamp_(0, 255)
        )


class BackboneEmbedder:
    """An Embedder around a PyTorch network that maps (n, 3, S, S) to (n, dimension).

    Several threads may embed at once; on a GPU each has a stream of its own. On a CPU equal batches give equal vectors.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        *,
        name: str,
        preprocessing: Preprocessing,
        device: torch.device | str,
        batch: int,
        dtype: torch.dtype | None = None,
        compiled: bool = False,
    ) -> None:
        """Move the network to the device and try it on a grey image.

        batch: crops of a forward pass, fewer where fewer are faster. dtype: what the network reckons in, None for
        float32; what overflows float16 is reckoned anew in float32. compiled: by torch.compile.

        Raises:
            WeightsError: it does not give one finite vector per image.
            ConfigError: it is to be compiled and cannot be.
        """
        import torch

        from fossilray.models.device import DeviceTransfer

        self._name, self._preprocessing = name, preprocessing
        self._device = torch.device(device)
        self._lane = DeviceTransfer(self._device)
        self._dtype = dtype or torch.float32
        side_px = preprocessing.size_px
        self._batch = forward_size(self._device, batch=batch, side_px=side_px)
        # Kernels and what is compiled are chosen by shape: the last, smaller batch is filled up.
        self._fills = compiled or self._device.type == "cuda"
        tune = functools.partial(optimise_for_inference, side_px=side_px, device=self._device)
        spare = copy.deepcopy(network) if self._dtype == torch.float16 else None
        self._network: Callable[[torch.Tensor], torch.Tensor] = tune(network, dtype=self._dtype)
        self._in_float32 = None if spare is None else tune(spare, dtype=torch.float32)
        if compiled:
            self._network = torch.compile(self._network, dynamic=False)
        probe = self._try(compiled=compiled)
        if probe.ndim != 2 or not bool(torch.isfinite(probe).all()):
            raise WeightsError(
                f"{name} gives {tuple(probe.shape)} values for one image, finite: "
                f"{bool(torch.isfinite(probe).all())}; expected one finite vector: check the weights"
            )
        self._dimension = int(probe.shape[1])

    @property
    def name(self) -> str:
        return self._name

    @property
    def dimension(self) -> int:
        return self._dimension

    @property
    def preprocessing(self) -> Preprocessing:
        return self._preprocessing

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float16]:
        """(n, dimension) float16 for crops (n, H, W, 3) uint8 RGB of any one size."""
        import torch

        vectors = np.empty((len(crops), self._dimension), np.float16)
        with self._lane.stream():
            for begin in range(0, len(crops), self._batch):
                some = crops[begin : begin + self._batch]
                found = self._forward(some).clamp(-HALF_LARGEST, HALF_LARGEST)
                vectors[begin : begin + len(some)] = found.to(torch.float16).cpu().numpy()
        return vectors

    def _try(self, *, compiled: bool) -> torch.Tensor:
        side_px = self._preprocessing.size_px
        grey = np.full((1, side_px, side_px, 3), 127, np.uint8)
        try:
            return self._forward(grey)
        except RuntimeError as error:
            if not compiled:
                raise
            raise ConfigError(
                f"{self._name} cannot be compiled ({str(error).strip().splitlines()[0][:200]}); PyTorch needs a C++ "
                "compiler for it: install one, or set workers.compile=false"
            ) from None

    def _forward(self, crops: NDArray[np.uint8]) -> torch.Tensor:
        """(n, dimension) float32 on the device for n crops, a batch at most."""
        import torch

        count = len(crops)
        if self._fills and count < self._batch:
            crops = np.concatenate([crops, np.zeros((self._batch - count, *crops.shape[1:]), np.uint8)])
        with torch.inference_mode():
            seen = self._preprocessing.apply(self._lane.upload(crops))
            found = self._network(seen.to(self._dtype))[:count].float()
            # float16 may overflow inside a network that float32 carries through.
            if self._in_float32 is not None and not bool(torch.isfinite(found).all()):
                found = self._in_float32(seen)[:count]
        return found
