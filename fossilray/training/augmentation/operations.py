"""Random changes to a batch of images, each image by a draw of its own.

Draws come from a generator on the CPU and are moved afterwards, so that they do not depend on the device. Images are
(n, 3, H, W) float32 in 0..1; float32 throughout, as bfloat16 would be off by up to a quarter of a pixel at 224 px.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Outside = Literal["zeros", "border", "reflection"]

GREY = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in brightness (ITU-R BT.601), as PIL and torchvision have them."""

_CHUNK = 16
"""Images that go through all steps together on a CPU: 1.8 MB at 96 px, which its cache holds."""


def uniform(n: int, low: float, high: float, rng: torch.Generator) -> torch.Tensor:
    """n numbers between low and high."""
    import torch

    return low + (high - low) * torch.rand(n, generator=rng)


def bernoulli(n: int, share: float, rng: torch.Generator) -> torch.Tensor:
    """n times whether it happens, with this probability."""
    import torch

    return torch.rand(n, generator=rng) < share


def in_chunks(n: int, device: torch.device, make: Callable[[slice], torch.Tensor]) -> torch.Tensor:
    """What `make` gives for n images: at once on a GPU, a few at a time on a CPU."""
    import torch

    if device.type != "cpu" or n <= _CHUNK:
        return make(slice(0, n))
    return torch.cat([make(slice(first, min(first + _CHUNK, n))) for first in range(0, n, _CHUNK)])


def to_linear_light(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 images in 0..1, channel by channel in memory."""
    import torch

    return pixels.to(torch.float32, memory_format=torch.contiguous_format).mul_(1 / 255)


def sample_grid(
    images: torch.Tensor, affine: torch.Tensor, *, side_px: int, outside: Outside, finer: int = 1
) -> torch.Tensor:
    """Squares of side_px, sampled bilinearly once.

    affine: (n, 2, 3), from a place in the square to that in the image, both -1..1 from edge to edge, x before y.
    finer: samples along a pixel's side, to be averaged; where the square is much coarser than the image.
    """
    import torch.nn.functional as F

    fine_px = side_px * finer
    grid = F.affine_grid(affine, [len(images), 3, fine_px, fine_px], align_corners=False)
    taken = F.grid_sample(images, grid, mode="bilinear", padding_mode=outside, align_corners=False)
    return taken if finer == 1 else F.avg_pool2d(taken, finer)


def apply_colour_matrix(images: torch.Tensor, mix: torch.Tensor) -> torch.Tensor:
    """Colours as mix (n, 3, 3) makes them: new channel by old channel, cut to 0..1."""
    import torch

    return torch.bmm(mix, images.flatten(2)).view_as(images).clamp_(0, 1)


def random_blur(
    images: torch.Tensor, blurred: torch.Tensor, sigma: torch.Tensor, *, kernel_px: int
) -> torch.Tensor:
    """Images of which those `blurred` (n,) are blurred by a Gaussian of their sigma (n,); changed in place."""
    chosen = blurred.nonzero().flatten()
    if len(chosen):
        images[chosen] = _blur(images[chosen], sigma[chosen], kernel_px=kernel_px)
    return images


def _blur(images: torch.Tensor, sigma: torch.Tensor, *, kernel_px: int) -> torch.Tensor:
    """First down, then across, each channel of each image a group of its own; mirrored at the rim."""
    import torch
    import torch.nn.functional as F

    n, channels, height, width = images.shape
    half = kernel_px // 2
    away = torch.arange(-half, half + 1, dtype=torch.float32, device=images.device)
    weight = (-0.5 * (away / sigma[:, None]) ** 2).exp()
    weight = (weight / weight.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    padded = F.pad(images, (half, half, half, half), mode="reflect")
    soft = padded.view(1, n * channels, height + 2 * half, width + 2 * half)
    soft = F.conv2d(soft, weight[:, None, :, None], groups=n * channels)
    soft = F.conv2d(soft, weight[:, None, None, :], groups=n * channels)
    return soft.view_as(images).clamp_(0, 1)  # weights add up to 1 but for rounding


def scale_brightness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Brightness times factor (n,); in place."""
    return images.mul_(_by_image(factor)).clamp_(0, 1)


def scale_contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Distance from the image's mean grey times factor (n,); in place."""
    import torch

    share = torch.tensor(GREY, device=images.device)
    grey = images.mean(dim=(2, 3)) @ share
    return images.mul_(_by_image(factor)).add_(_by_image((1 - factor) * grey)).clamp_(0, 1)


def scale_saturation(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Distance from each pixel's grey times factor (n,)."""
    import torch

    grey = torch.tensor(GREY, device=images.device).expand(3, 3)
    keep = factor[:, None, None]
    return apply_colour_matrix(images, keep * torch.eye(3, device=images.device) + (1 - keep) * grey)


def shift_hue(images: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """Hue of HSV turned by turn (n,), in whole turns."""
    import torch

    red, green, blue = images.unbind(1)
    brightest, darkest = images.amax(1), images.amin(1)
    range_ = brightest - darkest
    by = range_.clamp(min=1e-8)
    hue = torch.where(
        brightest == red,
        (green - blue) / by,
        torch.where(brightest == green, 2 + (blue - red) / by, 4 + (red - green) / by),
    )
    hue += 6 * turn[:, None, None]
    turned = torch.empty_like(images)
    # https://en.wikipedia.org/wiki/HSL_and_HSV#HSV_to_RGB_alternative
    for channel, offset in enumerate((5, 3, 1)):
        along = (hue + offset).remainder_(6)
        along = torch.minimum(along, 4 - along).clamp_(0, 1)
        torch.addcmul(brightest, range_, along, value=-1, out=turned[:, channel])
    return turned


def random_solarise(images: torch.Tensor, solarised: torch.Tensor) -> torch.Tensor:
    """Images of which those `solarised` (n,) have every value from 128 of 255 on inverted."""
    return images.where((images < 127.5 / 255) | ~_by_image(solarised), 1 - images)


def _by_image(values: torch.Tensor) -> torch.Tensor:
    return values[:, None, None, None]
