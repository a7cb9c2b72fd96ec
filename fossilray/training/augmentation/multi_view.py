"""Random views of crops for methods that compare views: those of the paper, of DINO, and of a simulated microscope.

Each class takes crops (n, 3, H, W) uint8, their (n, 2) width and height before stretching to the square, and a
generator on the CPU; it returns views (n, 3, S, S) float32 in 0..1 on the crops' device. All crops of a batch are
processed together, each with its own draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from fossilray.training.augmentation import operations
from fossilray.training.augmentation.microscope import ViewStrength, make_views

if TYPE_CHECKING:
    import torch

Range = tuple[float, float]


class Views(Protocol):
    """Makes random views of crops, in the order that the method expects."""

    def __call__(
        self, pixels: torch.Tensor, shape: torch.Tensor, *, rng: torch.Generator
    ) -> list[torch.Tensor]: ...


@dataclass(frozen=True)
class FossilViews:
    """Views by `make_views`: rotated in the original aspect ratio, with another stain, light and focus."""

    side_px: int
    count: int = 2
    strength: ViewStrength = field(default_factory=ViewStrength)

    def __call__(
        self, pixels: torch.Tensor, shape: torch.Tensor, *, rng: torch.Generator
    ) -> list[torch.Tensor]:
        return [
            make_views(pixels, shape, side_px=self.side_px, rng=rng, strength=self.strength)
            for _ in range(self.count)
        ]


@dataclass(frozen=True)
class PaperViews:
    """Appendix C of Martinsen et al. 2024; the original aspect ratio is not used.

    Details that the paper leaves open follow Keras' SimCLR example, which has the same settings
    (keras.io/examples/vision/semisupervised_simclr).
    """

    side_px: int = 96
    count: int = 2
    flip_share: float = 0.5
    """Share of views that are flipped horizontally."""
    shift: float = 0.25
    """Largest translation, relative to the side; pixels from outside are mirrored."""
    zoom: float = 0.5
    """Largest independent zoom of width and height: the share of the side that is cut off."""
    brightness: float = 0.6
    """Largest change of the common factor on all channels."""
    jitter: float = 0.2
    """Largest entry of the colour matrix that is added to that factor."""
    blur_share: float = 0.5
    kernel_px: int = 9
    sigma_px: Range = (0.1, 2.0)

    def __call__(
        self, pixels: torch.Tensor, shape: torch.Tensor, *, rng: torch.Generator
    ) -> list[torch.Tensor]:
        return [self._view(pixels, rng) for _ in range(self.count)]

    def _view(self, pixels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        import torch

        n, device = len(pixels), pixels.device
        mirror = 1 - 2 * operations.bernoulli(n, self.flip_share, rng).float()
        width, height = (operations.uniform(n, 1 - self.zoom, 1, rng) for _ in range(2))
        # A side has length 2 in these coordinates.
        across, down = (operations.uniform(n, -2 * self.shift, 2 * self.shift, rng) for _ in range(2))
        affine = _box(width * mirror, height, across, down).to(device)
        factor = operations.uniform(n, 1 - self.brightness, 1 + self.brightness, rng)
        leak = operations.uniform(9 * n, -self.jitter, self.jitter, rng).view(n, 3, 3)
        mix = (factor[:, None, None] * torch.eye(3) + leak).to(device)
        blurred = operations.bernoulli(n, self.blur_share, rng).to(device)
        sigma = operations.uniform(n, *self.sigma_px, rng).to(device)

        def make(rows: slice) -> torch.Tensor:
            light = operations.to_linear_light(pixels[rows])
            light = operations.sample_grid(light, affine[rows], side_px=self.side_px, outside="reflection")
            light = operations.apply_colour_matrix(light, mix[rows])
            return operations.random_blur(light, blurred[rows], sigma[rows], kernel_px=self.kernel_px)

        return operations.in_chunks(n, device, make)


@dataclass(frozen=True)
class CropStrength:
    """Ranges of DINO's views; the defaults are those of the official code (Caron et al. 2021)."""

    global_scale: Range = (0.4, 1.0)
    """Range of a global view's area, relative to the crop."""
    local_scale: Range = (0.05, 0.4)
    log_aspect: float = math.log(4 / 3)
    """Largest absolute log of width over height of the box, before it is stretched to the square."""
    flip_share: float = 0.5
    rotate: bool = False
    """Whether views are rotated by quarter turns, as specimens on a slide have no orientation."""
    jitter_share: float = 0.8
    """Share of views whose brightness, contrast, saturation and hue are changed."""
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    """Largest shift of the hue, in full circles."""
    grey_share: float = 0.2
    blur_shares: tuple[float, float, float] = (1.0, 0.1, 0.5)
    """Shares of blurred views: first global, second global, local."""
    sigma_px: Range = (0.1, 2.0)
    kernel_px: int = 13
    """Three times the largest sigma on each side; PIL's blur, which DINO uses, has no kernel size."""
    solarise_share: float = 0.2
    """Share of second global views that are solarised."""


PUBLISHED = CropStrength()
MICROSCOPE = replace(
    PUBLISHED, local_scale=(0.1, 0.4), rotate=True, brightness=0.2, hue=0.05, solarise_share=0.0
)
"""For transmitted light: rotated, never solarised, less change of brightness. Chosen by eye, not by results."""


@dataclass(frozen=True)
class MultiCropViews:
    """DINO's two global views and several local ones; the original aspect ratio is not used.

    In contrast to DINO's code, the four changes of colour have a fixed order, that of CropStrength, and sampling is
    bilinear, not bicubic.
    """

    global_px: int = 224
    local_px: int = 96
    local_count: int = 8
    global_count: int = 2
    strength: CropStrength = PUBLISHED

    def __call__(
        self, pixels: torch.Tensor, shape: torch.Tensor, *, rng: torch.Generator
    ) -> list[torch.Tensor]:
        strength = self.strength
        views = []
        for number in range(self.global_count):
            is_second = number % 2
            solarise = strength.solarise_share if is_second else 0.0
            blur = strength.blur_shares[is_second]
            views.append(self._view(pixels, rng, self.global_px, strength.global_scale, blur, solarise))
        for _ in range(self.local_count):
            views.append(
                self._view(pixels, rng, self.local_px, strength.local_scale, strength.blur_shares[2], 0.0)
            )
        return views

    def _view(
        self,
        pixels: torch.Tensor,
        rng: torch.Generator,
        side_px: int,
        scale: Range,
        blur_share: float,
        solarise_share: float,
    ) -> torch.Tensor:
        import torch

        strength, n, device = self.strength, len(pixels), pixels.device
        affine = self._draw_boxes(n, scale, rng).to(device)
        # Bilinear sampling would skip pixels if a view's pixel covers more than two.
        finer = math.ceil(pixels.shape[-1] * math.sqrt(scale[1]) / side_px / 2)
        jittered = operations.bernoulli(n, strength.jitter_share, rng)
        factors = [
            operations.uniform(n, 1 - most, 1 + most, rng).where(jittered, torch.ones(n)).to(device)
            for most in (strength.brightness, strength.contrast, strength.saturation)
        ]
        hue = (operations.uniform(n, -strength.hue, strength.hue, rng) * jittered).to(device)
        colour = (~operations.bernoulli(n, strength.grey_share, rng)).float().to(device)
        blurred = operations.bernoulli(n, blur_share, rng).to(device)
        sigma = operations.uniform(n, *strength.sigma_px, rng).to(device)
        solarised = operations.bernoulli(n, solarise_share, rng).to(device)

        def make(rows: slice) -> torch.Tensor:
            light = operations.to_linear_light(pixels[rows])
            light = operations.sample_grid(
                light, affine[rows], side_px=side_px, outside="border", finer=finer
            )
            light = operations.scale_brightness(light, factors[0][rows])
            light = operations.scale_contrast(light, factors[1][rows])
            light = operations.scale_saturation(light, factors[2][rows])
            light = operations.shift_hue(light, hue[rows])
            light = operations.scale_saturation(light, colour[rows])
            light = operations.random_blur(light, blurred[rows], sigma[rows], kernel_px=strength.kernel_px)
            return operations.random_solarise(light, solarised[rows]) if solarise_share else light

        return operations.in_chunks(n, device, make)

    def _draw_boxes(self, n: int, scale: Range, rng: torch.Generator) -> torch.Tensor:
        """Draw affine maps (n, 2, 3) onto boxes of random area and aspect ratio, as torchvision's RandomResizedCrop."""
        import torch

        strength = self.strength
        attempts = 10
        area = operations.uniform(attempts * n, *scale, rng).view(n, attempts)
        aspect = (
            operations.uniform(attempts * n, -strength.log_aspect, strength.log_aspect, rng)
            .view(n, attempts)
            .exp()
        )
        sides = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], dim=2)
        fits = (sides <= 1).all(dim=2)
        first = fits.to(torch.int8).argmax(dim=1)  # the first that fits, or the first one if none fits
        width, height = sides[torch.arange(n), first].clamp(max=1).unbind(1)
        across = (1 - width) * operations.uniform(n, -1, 1, rng)
        down = (1 - height) * operations.uniform(n, -1, 1, rng)
        mirror = 1 - 2 * operations.bernoulli(n, strength.flip_share, rng).float()
        affine = _box(width * mirror, height, across, down)
        if not strength.rotate:
            return affine
        quarters = torch.randint(0, 4, (n,), generator=rng) * (math.pi / 2)
        cos, sin = quarters.cos().round(), quarters.sin().round()
        rotation = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
        return torch.cat([affine[:, :, :2] @ rotation, affine[:, :, 2:]], dim=2)


def _box(width: torch.Tensor, height: torch.Tensor, across: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """Return affine maps (n, 2, 3) from a square onto boxes of relative sides (negative: mirrored) and centres."""
    import torch

    none = torch.zeros_like(width)
    return torch.stack([torch.stack([width, none, across], 1), torch.stack([none, height, down], 1)], 1)
