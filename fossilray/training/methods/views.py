"""Views of a batch of crops, as a configuration defines them."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fossilray.core.config.training import ViewsConfig
from fossilray.training.augmentation.fossil_image_dataset import TransferViews
from fossilray.training.augmentation.multi_view import (
    MICROSCOPE,
    PUBLISHED,
    FossilViews,
    MultiCropViews,
    PaperViews,
    Views,
)

STORED_SHARE = 7 / 6
"""Crops are decoded this much larger than their views, as rotation resamples them once more."""


class ViewBuilder:
    """Makes the configured views; they can be smaller in the first part of a training."""

    def __init__(self, config: ViewsConfig, *, side_px: int, count: int) -> None:
        """side_px: side of full-size views; count: their number."""
        self._side_px, self._early_share = side_px, config.early_share
        self._early_px = config.early_px or side_px
        self._views = {
            side: _make_views(config, side_px=side, count=count) for side in {side_px, self._early_px}
        }

    def __call__(
        self, pixels: torch.Tensor, shape: torch.Tensor, *, rng: torch.Generator, progress: float
    ) -> list[torch.Tensor]:
        """Return views of crops (n, 3, H, W) uint8 at this progress (0..1) of the training."""
        side = self._early_px if progress < self._early_share else self._side_px
        return self._views[side](resize_stored(pixels, stored_px(side)), shape, rng=rng)


def stored_px(side_px: int) -> int:
    """Return the side of decoded crops for views of side_px."""
    return round(side_px * STORED_SHARE)


def resize_stored(pixels: torch.Tensor, side_px: int) -> torch.Tensor:
    """Downsample crops (n, 3, H, W) uint8 that are larger than side_px."""
    if pixels.shape[-1] <= side_px:
        return pixels
    # Integer interpolation is ten times as fast, but exists on CPUs only.
    source = pixels if pixels.device.type == "cpu" else pixels.float()
    smaller = F.interpolate(source, (side_px, side_px), mode="bicubic", antialias=True)
    return smaller if smaller.dtype == torch.uint8 else smaller.round_().clamp_(0, 255).to(torch.uint8)


def _make_views(config: ViewsConfig, *, side_px: int, count: int) -> Views:
    if config.kind == "paper":
        return PaperViews(side_px, count)
    if config.kind == "fossil":
        return FossilViews(side_px, count)
    if config.kind.startswith("transfer"):
        return TransferViews(side_px, count, random_crop=config.kind == "transfer_crop")
    strength = MICROSCOPE if config.kind == "multicrop_microscope" else PUBLISHED
    return MultiCropViews(side_px, config.local_px, config.local_count, max(2, count), strength)
