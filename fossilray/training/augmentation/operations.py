"""Random operations on a batch of images, each image with its own draw.

Draws come from a generator on the CPU and are moved afterwards, so they do not depend on the device. Images are
(n, 3, H, W) float32 in 0..1; bfloat16 would give positions that are wrong by up to a
quarter of a pixel at 224 px.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Outside = Literal["zeros", "border", "reflection"]

GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in brightness (ITU-R BT.601), as in PIL and torchvision."""

_CHUNK = 16
"""Images processed together on a CPU: 1.8 MB at 96 px, which fit in its cache."""


def uniform(n: int, low: float, high: float, rng: torch.Generator) -> torch.Tensor:
    """Draw (n,) uniform numbers between low and high."""
    import torch

    return low + (high - low) * torch.rand(n, generator=rng)


def bernoulli(n: int, share: float, rng: torch.Generator) -> torch.Tensor:
    """Draw (n,) booleans that are true with probability `share`."""
    import torch

    return torch.rand(n, generator=rng) < share


def in_chunks(n: int, device: torch.device, make: Callable[[slice], torch.Tensor]) -> torch.Tensor:
    """Apply `make` to n images, all at once on a GPU and in chunks on a CPU, and concatenate the results."""
    import torch

    if device.type != "cpu" or n <= _CHUNK:
        return make(slice(0, n))
    return torch.cat([make(slice(first, min(first + _CHUNK, n))) for first in range(0, n, _CHUNK)])


def to_linear_light(pixels: torch.Tensor) -> torch.Tensor:
    """Convert uint8 images to float32 in 0..1, contiguous in memory."""
    import torch

    return pixels.to(torch.float32, memory_format=torch.contiguous_format).mul_(1 / 255)


def sample_grid(
    images: torch.Tensor, affine: torch.Tensor, *, side_px: int, outside: Outside, finer: int = 1
) -> torch.Tensor:
    """Sample squares of side_px from images, bilinearly and once.

    Args:
        images: (n, 3, H, W).
        affine: (n, 2, 3) maps from positions in the square to positions in the image, both -1..1 from edge to edge,
            x before y.
        side_px: side of the squares.
        outside: padding beyond the image.
        finer: samples along the side of a pixel that are averaged, for squares much coarser than the image.
    """
    import torch.nn.functional as F

    fine_px = side_px * finer
    grid = F.affine_grid(affine, [len(images), 3, fine_px, fine_px], align_corners=False)
    sampled = F.grid_sample(images, grid, mode="bilinear", padding_mode=outside, align_corners=False)
    return sampled if finer == 1 else F.avg_pool2d(sampled, finer)


def apply_colour_matrix(images: torch.Tensor, mix: torch.Tensor) -> torch.Tensor:
    """Multiply colours by matrices (n, 3, 3), new channel by old channel; clamp to 0..1."""
    import torch

    return torch.bmm(mix, images.flatten(2)).view_as(images).clamp_(0, 1)


def random_blur(
    images: torch.Tensor, blurred: torch.Tensor, sigma: torch.Tensor, *, kernel_px: int
) -> torch.Tensor:
    """Blur images where `blurred` (n,) is true by a Gaussian of sigma (n,) pixels; in place."""
    chosen = blurred.nonzero().flatten()
    if len(chosen):
        images[chosen] = _blur(images[chosen], sigma[chosen], kernel_px=kernel_px)
    return images


def _blur(images: torch.Tensor, sigma: torch.Tensor, *, kernel_px: int) -> torch.Tensor:
    """Convolve vertically, then horizontally, with one group for each channel of each image; mirrored at the edge."""
    import torch
    import torch.nn.functional as F

    n, channels, height, width = images.shape
    half = kernel_px // 2
    offset = torch.arange(-half, half + 1, dtype=torch.float32, device=images.device)
    weight = (-0.5 * (offset / sigma[:, None]) ** 2).exp()
    weight = (weight / weight.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    padded = F.pad(images, (half, half, half, half), mode="reflect")
    soft = padded.view(1, n * channels, height + 2 * half, width + 2 * half)
    soft = F.conv2d(soft, weight[:, None, :, None], groups=n * channels)
    soft = F.conv2d(soft, weight[:, None, None, :], groups=n * channels)
    return soft.view_as(images).clamp_(0, 1)  # the weights sum to 1 only up to rounding


def scale_brightness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Multiply brightness by factor (n,); in place."""
    return images.mul_(_by_image(factor)).clamp_(0, 1)


def scale_contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Multiply the distance from the image's mean grey by factor (n,); in place."""
    import torch

    weights = torch.tensor(GREY, device=images.device)
    grey = images.mean(dim=(2, 3)) @ weights
    return images.mul_(_by_image(factor)).add_(_by_image((1 - factor) * grey)).clamp_(0, 1)


def scale_saturation(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Multiply the distance from each pixel's grey by factor (n,)."""
    import torch

    grey = torch.tensor(GREY, device=images.device).expand(3, 3)
    keep = factor[:, None, None]
    return apply_colour_matrix(images, keep * torch.eye(3, device=images.device) + (1 - keep) * grey)


def shift_hue(images: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Shift the HSV hue by `shift` (n,), in full circles."""
    import torch

    red, green, blue = images.unbind(1)
    brightest, darkest = images.amax(1), images.amin(1)
    range_ = brightest - darkest
    divisor = range_.clamp(min=1e-8)
    hue = torch.where(
        brightest == red,
        (green - blue) / divisor,
        torch.where(brightest == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    hue += 6 * shift[:, None, None]
    shifted = torch.empty_like(images)
    # https://en.wikipedia.org/wiki/HSL_and_HSV#HSV_to_RGB_alternative
    for channel, offset in enumerate((5, 3, 1)):
        position = (hue + offset).remainder_(6)
        position = torch.minimum(position, 4 - position).clamp_(0, 1)
        torch.addcmul(brightest, range_, position, value=-1, out=shifted[:, channel])
    return shifted


def random_solarise(images: torch.Tensor, solarised: torch.Tensor) -> torch.Tensor:
    """Invert values from 128 of 255 on where `solarised` (n,) is true."""
    return images.where((images < 127.5 / 255) | ~_by_image(solarised), 1 - images)


def _by_image(values: torch.Tensor) -> torch.Tensor:
    return values[:, None, None, None]
