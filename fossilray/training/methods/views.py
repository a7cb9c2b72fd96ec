"""From a batch of crops to the views that a method compares."""

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
"""Crops are kept this much larger than the views taken of them: turning resamples once more."""


class ViewBuilder:
    """The views that a configuration asks for, smaller at first if it says so."""

    def __init__(self, config: ViewsConfig, *, side_px: int, count: int) -> None:
        """count: views of the full side."""
        self._side_px, self._early_share = side_px, config.early_share
        self._early_px = config.early_px or side_px
        self._views = {
            side: _make_views(config, side_px=side, count=count) for side in {side_px, self._early_px}
        }

    def __call__(
        self, pixels: torch.Tensor, shape: torch.Tensor, *, rng: torch.Generator, progress: float
    ) -> list[torch.Tensor]:
        """Views of crops (n, 3, H, W) uint8 for this share of the training."""
        side = self._early_px if progress < self._early_share else self._side_px
        return self._views[side](resize_stored(pixels, stored_px(side)), shape, rng=rng)


def stored_px(side_px: int) -> int:
    """Side at which to keep crops of which views of side_px are made."""
    return round(side_px * STORED_SHARE)


def resize_stored(pixels: torch.Tensor, side_px: int) -> torch.Tensor:
    """Crops (n, 3, H, W) uint8 made smaller, if they are larger."""
    if pixels.shape[-1] <= side_px:
        return pixels
    # Integers are ten times as fast, but CPU only.
    light = pixels if pixels.device.type == "cpu" else pixels.float()
    smaller = F.interpolate(light, (side_px, side_px), mode="bicubic", antialias=True)
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
