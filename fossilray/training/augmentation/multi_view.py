"""Views of crops for methods that compare views: of the paper, of DINO, and of what a microscope could have seen.

Each takes crops (n, 3, H, W) uint8, the (n, 2) width and height they had before they were stretched to the square, and
a generator on the CPU; it gives views (n, 3, S, S) float32 in 0..1 on the crops' device. All crops of a batch are
changed together, each by draws of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from fossilray.training.augmentation import operations as parts
from fossilray.training.augmentation.microscope import ViewStrength, make_views

if TYPE_CHECKING:
    import torch

Span = tuple[float, float]


class Views(Protocol):
    """Random views of crops, in the order in which a method wants them."""

    def __call__(
        self, pixels: torch.Tensor, shape: torch.Tensor, *, rng: torch.Generator
    ) -> list[torch.Tensor]: ...


@dataclass(frozen=True)
class FossilViews:
    """Turned in true proportions, boxed anew, otherwise stained, lit and focused."""

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
    """Appendix C of Martinsen et al. 2024; the crops' true proportions play no part.

    What the paper leaves open is as in Keras' example of SimCLR, whose figures these are
    (keras.io/examples/vision/semisupervised_simclr).
    """

    side_px: int = 96
    count: int = 2
    flip_share: float = 0.5
    """Share of views that are flipped, left to right."""
    shift: float = 0.25
    """Largest translation, of the side; what comes in is mirrored."""
    zoom: float = 0.5
    """Largest zoom into width and height, each by itself: this share of the side is lost."""
    brightness: float = 0.6
    """Largest change of the factor on all channels."""
    jitter: float = 0.2
    """Largest entry of the matrix added to that factor: channels leak into each other."""
    blur_share: float = 0.5
    kernel_px: int = 9
    sigma_px: Span = (0.1, 2.0)

    def __call__(
        self, pixels: torch.Tensor, shape: torch.Tensor, *, rng: torch.Generator
    ) -> list[torch.Tensor]:
        return [self._view(pixels, rng) for _ in range(self.count)]

    def _view(self, pixels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        import torch

        n, device = len(pixels), pixels.device
        mirror = 1 - 2 * parts.bernoulli(n, self.flip_share, rng).float()
        width, height = (parts.uniform(n, 1 - self.zoom, 1, rng) for _ in range(2))
        # A shift of the side's share is twice that where the side is 2 long.
        across, down = (parts.uniform(n, -2 * self.shift, 2 * self.shift, rng) for _ in range(2))
        affine = _box(width * mirror, height, across, down).to(device)
        factor = parts.uniform(n, 1 - self.brightness, 1 + self.brightness, rng)
        leak = parts.uniform(9 * n, -self.jitter, self.jitter, rng).view(n, 3, 3)
        mix = (factor[:, None, None] * torch.eye(3) + leak).to(device)
        blurred = parts.bernoulli(n, self.blur_share, rng).to(device)
        sigma = parts.uniform(n, *self.sigma_px, rng).to(device)

        def make(some: slice) -> torch.Tensor:
            light = parts.to_linear_light(pixels[some])
            light = parts.sample_grid(light, affine[some], side_px=self.side_px, outside="reflection")
            light = parts.apply_colour_matrix(light, mix[some])
            return parts.random_blur(light, blurred[some], sigma[some], kernel_px=self.kernel_px)

        return parts.in_chunks(n, device, make)


@dataclass(frozen=True)
class CropStrength:
    """How far DINO's views stray; the defaults are those of its official code (Caron et al. 2021)."""

    global_scale: Span = (0.4, 1.0)
    """Share of the area that a global view shows."""
    local_scale: Span = (0.05, 0.4)
    log_aspect: float = math.log(4 / 3)
    """Largest log of width over height of what is shown, before it is stretched to the square."""
    flip_share: float = 0.5
    turns: bool = False
    """Whether views are turned by quarters: on a slide nothing is up."""
    jitter_share: float = 0.8
    """Share of views with other brightness, contrast, saturation and hue."""
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    """Largest turn of the hue, in whole turns."""
    grey_share: float = 0.2
    blur_shares: tuple[float, float, float] = (1.0, 0.1, 0.5)
    """Of the first global view, the second, and local ones."""
    sigma_px: Span = (0.1, 2.0)
    kernel_px: int = 13
    """Three of the largest sigma on each side; PIL's blur, which DINO uses, has none to be told."""
    solarise_share: float = 0.2
    """Of the second global view."""


PUBLISHED = CropStrength()
MICROSCOPE = replace(
    PUBLISHED, local_scale=(0.1, 0.4), turns=True, brightness=0.2, hue=0.05, solarise_share=0.0
)
"""For transmitted light: turned, never solarised, the clear field not washed out. Chosen by eye, not by results."""


@dataclass(frozen=True)
class MultiCropViews:
    """DINO's two global views and several local ones; the crops' true proportions play no part.

    The four changes of colour come in the order of CropStrength, not in a random one, and squares are sampled
    bilinearly, not bicubically.
    """

    global_px: int = 224
    local_px: int = 96
    local_count: int = 8
    global_count: int = 2
    strength: CropStrength = PUBLISHED

    def __call__(
        self, pixels: torch.Tensor, shape: torch.Tensor, *, rng: torch.Generator
    ) -> list[torch.Tensor]:
        asked = self.strength
        views = []
        for number in range(self.global_count):
            second = number % 2
            solarise = asked.solarise_share if second else 0.0
            blur = asked.blur_shares[second]
            views.append(self._view(pixels, rng, self.global_px, asked.global_scale, blur, solarise))
        for _ in range(self.local_count):
            views.append(self._view(pixels, rng, self.local_px, asked.local_scale, asked.blur_shares[2], 0.0))
        return views

    def _view(
        self,
        pixels: torch.Tensor,
        rng: torch.Generator,
        side_px: int,
        scale: Span,
        blur_share: float,
        solarise_share: float,
    ) -> torch.Tensor:
        import torch

        asked, n, device = self.strength, len(pixels), pixels.device
        affine = self._draw_boxes(n, scale, rng).to(device)
        # More than two pixels to one of the view would be skipped by bilinear sampling.
        finer = math.ceil(pixels.shape[-1] * math.sqrt(scale[1]) / side_px / 2)
        jittered = parts.bernoulli(n, asked.jitter_share, rng)
        factors = [
            parts.uniform(n, 1 - most, 1 + most, rng).where(jittered, torch.ones(n)).to(device)
            for most in (asked.brightness, asked.contrast, asked.saturation)
        ]
        hue = (parts.uniform(n, -asked.hue, asked.hue, rng) * jittered).to(device)
        colour = (~parts.bernoulli(n, asked.grey_share, rng)).float().to(device)
        blurred = parts.bernoulli(n, blur_share, rng).to(device)
        sigma = parts.uniform(n, *asked.sigma_px, rng).to(device)
        solarised = parts.bernoulli(n, solarise_share, rng).to(device)

        def make(some: slice) -> torch.Tensor:
            light = parts.to_linear_light(pixels[some])
            light = parts.sample_grid(light, affine[some], side_px=side_px, outside="border", finer=finer)
            light = parts.scale_brightness(light, factors[0][some])
            light = parts.scale_contrast(light, factors[1][some])
            light = parts.scale_saturation(light, factors[2][some])
            light = parts.shift_hue(light, hue[some])
            light = parts.scale_saturation(light, colour[some])
            light = parts.random_blur(light, blurred[some], sigma[some], kernel_px=asked.kernel_px)
            return parts.random_solarise(light, solarised[some]) if solarise_share else light

        return parts.in_chunks(n, device, make)

    def _draw_boxes(self, n: int, scale: Span, rng: torch.Generator) -> torch.Tensor:
        """(n, 2, 3): boxes within the crop, of random area and aspect, as torchvision's RandomResizedCrop has them."""
        import torch

        asked = self.strength
        tries = 10
        area = parts.uniform(tries * n, *scale, rng).view(n, tries)
        aspect = parts.uniform(tries * n, -asked.log_aspect, asked.log_aspect, rng).view(n, tries).exp()
        sides = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], dim=2)
        fits = (sides <= 1).all(dim=2)
        first = fits.to(torch.int8).argmax(dim=1)  # the first that fits; the first of all where none does
        width, height = sides[torch.arange(n), first].clamp(max=1).unbind(1)
        across = (1 - width) * parts.uniform(n, -1, 1, rng)
        down = (1 - height) * parts.uniform(n, -1, 1, rng)
        mirror = 1 - 2 * parts.bernoulli(n, asked.flip_share, rng).float()
        affine = _box(width * mirror, height, across, down)
        if not asked.turns:
            return affine
        quarters = torch.randint(0, 4, (n,), generator=rng) * (math.pi / 2)
        cos, sin = quarters.cos().round(), quarters.sin().round()
        turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
        return torch.cat([affine[:, :, :2] @ turn, affine[:, :, 2:]], dim=2)


def _box(width: torch.Tensor, height: torch.Tensor, across: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """(n, 2, 3) from a square onto boxes of these sides (as shares; negative: mirrored) and centres (in -1..1)."""
    import torch

    none = torch.zeros_like(width)
    return torch.stack([torch.stack([width, none, across], 1), torch.stack([none, height, down], 1)], 1)
