"""The augmentations of the Fossil Image Dataset's published code (Liu et al. 2022), with and without random crop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fossilray.training.augmentation import operations

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TransferViews:
    """Random rotation, shift, shear, zoom and flip; pixels from outside repeat the edge.

    Ranges are those of the published Keras script (`ImageDataGenerator`). The published TensorFlow script also crops,
    by a module that was not published: `crop_area` and the square shape of the crop are assumptions.
    """

    side_px: int
    count: int = 1
    random_crop: bool = False
    turn_degrees: float = 30.0
    shift: float = 0.2
    """Largest translation, relative to the side."""
    shear_degrees: float = 0.2
    """Keras takes degrees, so 0.2 is almost no shear."""
    zoom: float = 0.2
    """Width and height of the view are independently 1 - zoom to 1 + zoom of the crop's."""
    flip_share: float = 0.5
    crop_area: tuple[float, float] = (0.6, 1.0)
    """Range of a random crop's area, relative to the whole."""

    def __call__(
        self, pixels: torch.Tensor, shape: torch.Tensor, *, rng: torch.Generator
    ) -> list[torch.Tensor]:
        return [self._view(pixels, rng) for _ in range(self.count)]

    def _view(self, pixels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        affine = self._draw(len(pixels), rng).to(pixels.device)
        finer = math.ceil(pixels.shape[-1] * (1 + self.zoom) / self.side_px / 2)

        def make(rows: slice) -> torch.Tensor:
            light = operations.to_linear_light(pixels[rows])
            return operations.sample_grid(
                light, affine[rows], side_px=self.side_px, outside="border", finer=finer
            )

        return operations.in_chunks(len(pixels), pixels.device, make)

    def _draw(self, n: int, rng: torch.Generator) -> torch.Tensor:
        """Draw affine maps (n, 2, 3) from positions in the view to positions in the crop, both in -1..1."""
        import torch

        turn = operations.uniform(n, -self.turn_degrees, self.turn_degrees, rng) * (math.pi / 180)
        shear = operations.uniform(n, -self.shear_degrees, self.shear_degrees, rng) * (math.pi / 180)
        # A side has length 2 in these coordinates.
        across, down = (operations.uniform(n, -2 * self.shift, 2 * self.shift, rng) for _ in range(2))
        width, height = (operations.uniform(n, 1 - self.zoom, 1 + self.zoom, rng) for _ in range(2))
        width = width * (1 - 2 * operations.bernoulli(n, self.flip_share, rng).float())
        zeros, ones = torch.zeros(n), torch.ones(n)
        rows = [
            [turn.cos(), -turn.sin(), across],
            [turn.sin(), turn.cos(), down],
            [zeros, zeros, ones],
        ]
        whole = _matrix(rows) @ _matrix(
            [
                [width, -shear.sin() * height, zeros],
                [zeros, shear.cos() * height, zeros],
                [zeros, zeros, ones],
            ]
        )
        if self.random_crop:
            side = operations.uniform(n, *self.crop_area, rng).sqrt()
            left, top = ((1 - side) * operations.uniform(n, -1, 1, rng) for _ in range(2))
            whole = whole @ _matrix([[side, zeros, left], [zeros, side, top], [zeros, zeros, ones]])
        return whole[:, :2]


def _matrix(rows: list[list[torch.Tensor]]) -> torch.Tensor:
    """Stack nine tensors (n,) into matrices (n, 3, 3)."""
    import torch

    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
