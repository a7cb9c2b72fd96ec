"""Embedding of crops by a backbone, with the preprocessing that its weights expect."""

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
"""Mean and standard deviation of ImageNet in 0..1 RGB, which DINO, SCAMPI and torchvision weights expect."""

_MAX_FLOAT16 = 65504.0
"""Largest finite float16."""


@dataclass(frozen=True)
class Preprocessing:
    """Input that a backbone expects: the whole crop, resized to a square and normalised."""

    size_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Mean and standard deviation of RGB in 0..1."""
    interpolation: Interpolation

    def apply(self, crops: torch.Tensor) -> torch.Tensor:
        """Turn crops (n, H, W, 3) uint8 into network input (n, 3, size_px, size_px) float32, on the same device."""
        import torch

        pixels = crops.permute(0, 3, 1, 2)  # channels last in memory, which is fastest for convolutions
        if pixels.shape[-2:] != (self.size_px, self.size_px):
            pixels = self._resize(pixels)
        # Whole rows can be vectorised; groups of three channels cannot.
        rows = pixels.permute(0, 2, 3, 1).reshape(len(crops), self.size_px, self.size_px * 3).float()
        std = torch.tensor(self.std, device=pixels.device)
        scale = 1 / (255 * std)
        shift = -torch.tensor(self.mean, device=pixels.device) / std
        inputs = torch.addcmul(shift.repeat(self.size_px), rows, scale.repeat(self.size_px))
        return inputs.view(len(crops), self.size_px, self.size_px, 3).permute(0, 3, 1, 2)

    def _resize(self, pixels: torch.Tensor) -> torch.Tensor:
        """Resize with anti-aliasing and round to 8 bits; integers are ten times as fast, but only on a CPU."""
        import torch.nn.functional as F

        side = (self.size_px, self.size_px)
        if pixels.device.type == "cpu":
            return F.interpolate(pixels, side, mode=self.interpolation, antialias=True)
        return (
            F.interpolate(pixels.float(), side, mode=self.interpolation, antialias=True)
            .round_()
            .clamp_(0, 255)
        )


class BackboneEmbedder:
    """An Embedder for a PyTorch network that maps (n, 3, S, S) to (n, dimension).

    Several threads may embed at the same time; on a GPU each has its own stream. On a CPU equal batches give equal
    vectors.
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
        """Move the network to the device and run it on a grey image.

        batch: maximum crops per forward pass. dtype: precision of the network, None for float32; batches that
        overflow float16 are computed again in float32. compiled: use torch.compile.

        Raises:
            WeightsError: the network does not return one finite vector per image.
            ConfigError: the network cannot be compiled.
        """
        import torch

        from fossilray.models.device import DeviceTransfer

        self._name, self._preprocessing = name, preprocessing
        self._device = torch.device(device)
        self._transfer = DeviceTransfer(self._device)
        self._dtype = dtype or torch.float32
        side_px = preprocessing.size_px
        self._batch = forward_size(self._device, batch=batch, side_px=side_px)
        # Kernels and compiled code depend on the shape: a smaller last batch is padded.
        self._pads = compiled or self._device.type == "cuda"
        optimise = functools.partial(optimise_for_inference, side_px=side_px, device=self._device)
        exact = copy.deepcopy(network) if self._dtype == torch.float16 else None
        self._network: Callable[[torch.Tensor], torch.Tensor] = optimise(network, dtype=self._dtype)
        self._in_float32 = None if exact is None else optimise(exact, dtype=torch.float32)
        if compiled:
            self._network = torch.compile(self._network, dynamic=False)
        probe = self._run_on_grey(compiled=compiled)
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
        """Embed crops (n, H, W, 3) uint8 RGB of any size; returns (n, dimension) float16."""
        import torch

        vectors = np.empty((len(crops), self._dimension), np.float16)
        with self._transfer.stream():
            for begin in range(0, len(crops), self._batch):
                batch = crops[begin : begin + self._batch]
                output = self._forward(batch).clamp(-_MAX_FLOAT16, _MAX_FLOAT16)
                vectors[begin : begin + len(batch)] = output.to(torch.float16).cpu().numpy()
        return vectors

    def _run_on_grey(self, *, compiled: bool) -> torch.Tensor:
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
        """Embed at most one batch of crops; returns (n, dimension) float32 on the device."""
        import torch

        count = len(crops)
        if self._pads and count < self._batch:
            crops = np.concatenate([crops, np.zeros((self._batch - count, *crops.shape[1:]), np.uint8)])
        with torch.inference_mode():
            inputs = self._preprocessing.apply(self._transfer.upload(crops))
            output = self._network(inputs.to(self._dtype))[:count].float()
            # float16 may overflow inside the network where float32 does not.
            if self._in_float32 is not None and not bool(torch.isfinite(output).all()):
                output = self._in_float32(inputs)[:count]
        return output
