"""Random views of a crop: what another slide, scanner and orientation would have made of the same fossil."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ViewStrength:
    """How far views stray; every draw is per crop."""

    box: float = 0.15
    """Largest relative change of the box's sides."""
    shift: float = 0.06
    """Largest shift of the box, in half sides."""
    density: float = 0.35
    """Largest log of the factor on optical density: paler or darker matter."""
    tint: float = 0.12
    """Deviation of the log of that factor from channel to channel."""
    darkest: float = 150.0
    """Grey level of the darkest clear field."""
    noise: float = 6.0
    """Largest deviation of pixel noise in grey levels."""


def make_views(
    crops: torch.Tensor,
    shape: torch.Tensor,
    *,
    side_px: int,
    rng: torch.Generator,
    strength: ViewStrength = ViewStrength(),
) -> torch.Tensor:
    """One random view of each crop: (n, 3, side_px, side_px) float32 in 0..1.

    crops: (n, 3, S, S) uint8, stretched to the square; shape: (n, 2) width and height before that.
    """
    light = crops.float()
    field = _clear_field(light)
    ratio = _turn(light / field, shape, side_px=side_px, rng=rng, strength=strength)
    return _relight(ratio, rng=rng, strength=strength)


def _clear_field(light: torch.Tensor) -> torch.Tensor:
    """(n, 3, 1, 1) brightness of the clear field, from the border: a crop's object seldom fills it."""
    import torch

    border = torch.cat([light[..., 0, :], light[..., -1, :], light[..., :, 0], light[..., :, -1]], dim=-1)
    return border.quantile(0.8, dim=-1)[..., None, None].clamp(min=32.0)


def _turn(
    ratio: torch.Tensor, shape: torch.Tensor, *, side_px: int, rng: torch.Generator, strength: ViewStrength
) -> torch.Tensor:
    """Turn and mirror the fossil in its true proportions, box it anew, and stretch that box to the square.

    The new box is that of the ellipse inscribed in the old one. Clear field fills what lay outside.
    """
    import torch
    import torch.nn.functional as F

    n = len(ratio)
    width, height = shape[:, 0], shape[:, 1]
    angle = _uniform(n, 0.0, 2 * torch.pi, rng)
    cos, sin = angle.cos(), angle.sin()
    half_width = ((width * cos) ** 2 + (height * sin) ** 2).sqrt() * (
        1 + _uniform(n, -strength.box, strength.box, rng)
    )
    half_height = ((width * sin) ** 2 + (height * cos) ** 2).sqrt() * (
        1 + _uniform(n, -strength.box, strength.box, rng)
    )
    mirror = torch.randint(0, 2, (n,), generator=rng) * 2.0 - 1.0
    affine = torch.stack(
        [
            torch.stack([cos * half_width * mirror / width, sin * half_height / width], dim=1),
            torch.stack([-sin * half_width * mirror / height, cos * half_height / height], dim=1),
        ],
        dim=1,
    )
    shift = torch.stack([_uniform(n, -strength.shift, strength.shift, rng) for _ in range(2)], dim=1)
    grid = F.affine_grid(
        torch.cat([affine, shift[..., None]], dim=2), [n, 3, side_px, side_px], align_corners=False
    )
    # Shifted by 1, so that the zeros outside become the clear field's ratio.
    return F.grid_sample(ratio - 1, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + 1


def _relight(ratio: torch.Tensor, *, rng: torch.Generator, strength: ViewStrength) -> torch.Tensor:
    """Another staining, lamp, focus and camera: densities scale, colours fade, edges blur or sharpen."""
    import torch
    import torch.nn.functional as F

    n = len(ratio)
    density = -ratio.clamp(0.02, 1.3).log()
    grey = density.mean(dim=1, keepdim=True)
    density = grey + (density - grey) * _uniform(n, 0.1, 1.4, rng)[:, None, None, None]
    factor = _uniform(n, -strength.density, strength.density, rng)[:, None]
    factor = factor + strength.tint * torch.randn(n, 3, generator=rng)
    lamp = _uniform(n, strength.darkest, 250.0, rng)[:, None] * (1 + 0.04 * torch.randn(n, 3, generator=rng))
    light = lamp[..., None, None] * (-density * factor.exp()[..., None, None]).exp()
    soft = F.avg_pool2d(F.pad(light, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    light = torch.lerp(light, soft, _uniform(n, -0.6, 1.0, rng)[:, None, None, None])
    deviation = _uniform(n, 0.0, strength.noise, rng)[:, None, None, None]
    light = light + deviation * torch.randn(light.shape, generator=rng)
    return light.clamp(0, 255) / 255


def _uniform(n: int, low: float, high: float, rng: torch.Generator) -> torch.Tensor:
    import torch

    return low + (high - low) * torch.rand(n, generator=rng)
