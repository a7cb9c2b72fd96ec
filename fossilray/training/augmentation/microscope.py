"""Random views of a crop that simulate another orientation, stain, lamp, focus and camera."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fossilray.training.augmentation.operations import bernoulli, in_chunks, sample_grid, uniform

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ViewStrength:
    """Ranges of the random changes; each crop has its own draw."""

    turn: float = math.pi
    """Largest rotation angle in radians."""
    mirror_share: float = 0.5
    box: float = 0.15
    """Largest relative change of the box's sides."""
    shift: float = 0.06
    """Largest shift of the box, relative to half its side."""
    colour: tuple[float, float] = (0.1, 1.4)
    """Range of the factor on the distance of densities from grey: faded to vivid."""
    density: float = 0.35
    """Largest absolute log of the factor on optical density: paler or darker objects."""
    tint: float = 0.12
    """Standard deviation of the log of that factor between channels."""
    darkest: float = 150.0
    """Lowest grey level of the clear field."""
    brightest: float = 250.0
    """Highest grey level of the clear field."""
    lamp_tint: float = 0.04
    """Relative standard deviation of the clear field between channels."""
    focus: tuple[float, float] = (-0.6, 1.0)
    """Range of the weight of a 3 x 3 blur; negative weights sharpen."""
    noise: float = 6.0
    """Largest standard deviation of pixel noise, in grey levels."""


def make_views(
    crops: torch.Tensor,
    shape: torch.Tensor,
    *,
    side_px: int,
    rng: torch.Generator,
    strength: ViewStrength = ViewStrength(),
) -> torch.Tensor:
    """Return one random view of each crop: (n, 3, side_px, side_px) float32 in 0..1, on the crops' device.

    Args:
        crops: (n, 3, S, S) uint8, stretched to the square.
        shape: (n, 2) width and height before stretching.
        side_px: side of the views.
        rng: generator on the CPU. All draws but the pixel noise are equal on all devices.
        strength: ranges of the changes.
    """
    import torch

    n, device = len(crops), crops.device
    affine = _draw_rotations(shape.cpu(), rng, strength).to(device)
    light = _draw_light(n, rng, strength).to(device)
    noise = torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=rng)))

    def make(rows: slice) -> torch.Tensor:
        ratio = crops[rows].to(torch.float32, memory_format=torch.contiguous_format)
        ratio /= _clear_field(ratio)
        # Shifted by 1, so that zeros outside the crop become the clear field's ratio.
        ratio -= 1
        rotated = sample_grid(ratio, affine[rows], side_px=side_px, outside="zeros")
        return _relight(rotated.add_(1), light[rows], noise)

    return in_chunks(n, device, make)


def _draw_rotations(shape: torch.Tensor, rng: torch.Generator, strength: ViewStrength) -> torch.Tensor:
    """Draw affine maps (n, 2, 3) that rotate and mirror a specimen in its original aspect ratio.

    The result is cropped to a new box and stretched to the square. The new box is that of the rotated ellipse inscribed
    in the old box.
    """
    import torch

    n = len(shape)
    width, height = shape[:, 0], shape[:, 1]
    angle = uniform(n, -strength.turn, strength.turn, rng)
    cos, sin = angle.cos(), angle.sin()
    half_width = ((width * cos) ** 2 + (height * sin) ** 2).sqrt() * (
        1 + uniform(n, -strength.box, strength.box, rng)
    )
    half_height = ((width * sin) ** 2 + (height * cos) ** 2).sqrt() * (
        1 + uniform(n, -strength.box, strength.box, rng)
    )
    mirror = 1 - 2 * bernoulli(n, strength.mirror_share, rng).float()
    shift = torch.stack([uniform(n, -strength.shift, strength.shift, rng) for _ in range(2)], dim=1)
    across = torch.stack([cos * half_width * mirror / width, sin * half_height / width, shift[:, 0]], dim=1)
    down = torch.stack([-sin * half_width * mirror / height, cos * half_height / height, shift[:, 1]], dim=1)
    return torch.stack([across, down], dim=1)


def _draw_light(n: int, rng: torch.Generator, strength: ViewStrength) -> torch.Tensor:
    """Draw (n, 9): colour, density factor and lamp of three channels each, focus, and noise."""
    import torch

    colour = uniform(n, *strength.colour, rng)[:, None]
    factor = uniform(n, -strength.density, strength.density, rng)[:, None]
    factor = (factor + strength.tint * torch.randn(n, 3, generator=rng)).exp()
    lamp = uniform(n, strength.darkest, strength.brightest, rng)[:, None] / 255
    lamp = lamp * (1 + strength.lamp_tint * torch.randn(n, 3, generator=rng))
    focus = uniform(n, *strength.focus, rng)[:, None]
    deviation = uniform(n, 0.0, strength.noise, rng)[:, None] / 255
    return torch.cat([colour, factor, lamp, focus, deviation], dim=1)


def _clear_field(light: torch.Tensor) -> torch.Tensor:
    """Return the clear field's brightness (n, 3, 1, 1), from the border, which the object seldom covers."""
    import torch

    border = torch.cat([light[..., 0, :], light[..., -1, :], light[..., :, 0], light[..., :, -1]], dim=-1)
    return border.quantile(0.8, dim=-1)[..., None, None].clamp(min=32.0)


def _relight(ratio: torch.Tensor, draws: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
    """Change stain, lamp, focus and noise: scale densities, fade colours, blur or sharpen."""
    import torch
    import torch.nn.functional as F

    colour, factor, lamp, focus, deviation = torch.split(draws[..., None, None], [1, 3, 3, 1, 1], dim=1)
    density = ratio.clamp_(0.02, 1.3).log_().neg_()
    grey = density.mean(dim=1, keepdim=True)
    density = torch.lerp(grey, density, colour)
    light = density.mul_(-factor).exp_().mul_(lamp)
    soft = F.avg_pool2d(F.pad(light, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    light = torch.lerp(light, soft, focus)
    light.addcmul_(deviation, torch.randn(light.shape, generator=noise, device=light.device))
    return light.clamp_(0, 1)
