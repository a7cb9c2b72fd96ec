"""From a batch of crops to the views that a method compares."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F

from fossilray.config.training import ViewsConfig
from fossilray.learn.views import make_views

STORED_SHARE = 7 / 6
"""Crops are kept this much larger than the views taken of them: turning resamples once more."""


class Viewer(Protocol):
    """Makes views of crops (n, 3, H, W) uint8."""

    def __call__(
        self, pixels: torch.Tensor, shape: torch.Tensor, *, rng: torch.Generator, progress: float
    ) -> list[torch.Tensor]: ...


def make_viewer(config: ViewsConfig, *, side_px: int, count: int) -> Viewer:
    """What makes `count` views of side_px (or early_px, at first) of each crop, and local ones for multicrop."""

    def view(
        pixels: torch.Tensor, shape: torch.Tensor, *, rng: torch.Generator, progress: float
    ) -> list[torch.Tensor]:
        early = config.early_px is not None and progress < config.early_share
        side = config.early_px if early and config.early_px is not None else side_px
        stored = resize_stored(pixels, stored_px(side))
        return [make_views(stored, shape, side_px=side, rng=rng) for _ in range(count)]

    return view


def stored_px(side_px: int) -> int:
    """Side at which to keep crops of which views of side_px are made."""
    return round(side_px * STORED_SHARE)


def resize_stored(pixels: torch.Tensor, side_px: int) -> torch.Tensor:
    """Crops (n, 3, H, W) uint8 made smaller, if they are larger."""
    if pixels.shape[-1] <= side_px:
        return pixels
    light = pixels if pixels.device.type == "cpu" else pixels.float()
    smaller = F.interpolate(light, (side_px, side_px), mode="bicubic", antialias=True)
    return smaller if smaller.dtype == torch.uint8 else smaller.round_().clamp_(0, 255).to(torch.uint8)
