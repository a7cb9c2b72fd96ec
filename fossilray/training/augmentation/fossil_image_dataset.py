"""The augmentations of the Fossil Image Dataset's published code (Liu et al. 2022), with and without random crop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fossilray.training.augmentation import operations as parts

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TransferViews:
    """Turned, shifted, sheared, zoomed and flipped; what comes in from outside repeats the rim.

    Ranges are those of the published Keras script (`ImageDataGenerator`). Its script for TensorFlow crops as well, by
    a module that was not published: the part shown here (`crop_area`) and its proportions are ours.
    """

    side_px: int
    count: int = 1
    random_crop: bool = False
    turn_degrees: float = 30.0
    shift: float = 0.2
    """Largest translation, of the side."""
    shear_degrees: float = 0.2
    """Keras counts it in degrees, so that 0.2 is next to nothing."""
    zoom: float = 0.2
    """Sides of what is shown are 1 - zoom to 1 + zoom of the crop's, each by itself."""
    flip_share: float = 0.5
    crop_area: tuple[float, float] = (0.6, 1.0)
    """Share of the area that a random crop shows."""

    def __call__(
        self, pixels: torch.Tensor, shape: torch.Tensor, *, rng: torch.Generator
    ) -> list[torch.Tensor]:
        return [self._view(pixels, rng) for _ in range(self.count)]

    def _view(self, pixels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        affine = self._draw(len(pixels), rng).to(pixels.device)
        finer = math.ceil(pixels.shape[-1] * (1 + self.zoom) / self.side_px / 2)

        def make(some: slice) -> torch.Tensor:
            light = parts.to_linear_light(pixels[some])
            return parts.sample_grid(light, affine[some], side_px=self.side_px, outside="border", finer=finer)

        return parts.in_chunks(len(pixels), pixels.device, make)

    def _draw(self, n: int, rng: torch.Generator) -> torch.Tensor:
        """(n, 2, 3): where each place of a view lies in its crop, both in -1..1."""
        import torch

        turn = parts.uniform(n, -self.turn_degrees, self.turn_degrees, rng) * (math.pi / 180)
        shear = parts.uniform(n, -self.shear_degrees, self.shear_degrees, rng) * (math.pi / 180)
        # A shift of the side's share is twice that where the side is 2 long.
        across, down = (parts.uniform(n, -2 * self.shift, 2 * self.shift, rng) for _ in range(2))
        width, height = (parts.uniform(n, 1 - self.zoom, 1 + self.zoom, rng) for _ in range(2))
        width = width * (1 - 2 * parts.bernoulli(n, self.flip_share, rng).float())
        none, one = torch.zeros(n), torch.ones(n)
        rows = [
            [turn.cos(), -turn.sin(), across],
            [turn.sin(), turn.cos(), down],
            [none, none, one],
        ]
        whole = _matrix(rows) @ _matrix(
            [[width, -shear.sin() * height, none], [none, shear.cos() * height, none], [none, none, one]]
        )
        if self.random_crop:
            side = parts.uniform(n, *self.crop_area, rng).sqrt()
            left, top = ((1 - side) * parts.uniform(n, -1, 1, rng) for _ in range(2))
            whole = whole @ _matrix([[side, none, left], [none, side, top], [none, none, one]])
        return whole[:, :2]


def _matrix(rows: list[list[torch.Tensor]]) -> torch.Tensor:
    """(n, 3, 3) of nine (n,)."""
    import torch

    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
