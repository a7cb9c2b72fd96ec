"""A backbone at work: crops in, vectors out, with the preprocessing that belongs to its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fossilray.errors import WeightsError

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
        mean = torch.tensor(self.mean, device=light.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=light.device).view(1, 3, 1, 1)
        return (light.float() / 255 - mean) / std

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

    On CUDA it runs in mixed precision (float16). On CPU equal batches give equal vectors.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        *,
        name: str,
        preprocessing: Preprocessing,
        device: torch.device | str,
        batch: int,
    ) -> None:
        """Move the network to the device and try it on a grey image.

        Raises:
            WeightsError: it does not give one finite vector per image.
        """
        import torch

        self._device = torch.device(device)
        network = network.eval().requires_grad_(False).to(self._device)
        self._network = network.to(memory_format=torch.channels_last)
        self._name, self._preprocessing, self._batch = name, preprocessing, batch
        side = preprocessing.size_px
        probe = self._forward(torch.full((1, side, side, 3), 127, dtype=torch.uint8))
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
        for begin in range(0, len(crops), self._batch):
            some = torch.from_numpy(np.ascontiguousarray(crops[begin : begin + self._batch]))
            found = self._forward(some).clamp(-HALF_LARGEST, HALF_LARGEST)
            vectors[begin : begin + len(some)] = found.to(torch.float16).cpu().numpy()
        return vectors

    def _forward(self, crops: torch.Tensor) -> torch.Tensor:
        import torch

        with torch.inference_mode():
            seen = self._preprocessing.apply(crops.to(self._device))
            if self._device.type != "cuda":
                return self._run(seen)
            with torch.autocast("cuda", dtype=torch.float16):
                found = self._run(seen).float()
            # float16 may overflow inside a network that float32 carries through.
            return found if bool(torch.isfinite(found).all()) else self._run(seen)

    def _run(self, seen: torch.Tensor) -> torch.Tensor:
        found: Any = self._network(seen)
        return found  # type: ignore[no-any-return]
