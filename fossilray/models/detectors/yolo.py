"""The neural detector: an ultralytics network on inverted tiles at a fixed scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config import DetectorConfig
from fossilray.core.config.choices import Precision
from fossilray.core.types import Boxes
from fossilray.models.detectors.boxes import pad_tiles, suppress, to_input
from fossilray.models.device import precision_on

if TYPE_CHECKING:
    import torch

FORWARD_PX = 832 * 832
"""Pixels per forward pass on a CPU; more exceed its caches (docs/guide/detectors.md)."""


class YoloDetector:
    """Detector with a network of `build_detector_network`; several threads may call it at the same time."""

    def __init__(
        self,
        network: torch.nn.Module,
        *,
        config: DetectorConfig,
        invert: bool,
        device: torch.device | str,
        precision: Precision = "auto",
    ) -> None:
        import torch

        from fossilray.models.detectors.heads import replace_head
        from fossilray.models.device import DeviceTransfer

        self._config = config
        self._invert = invert
        self._device = torch.device(device)
        self._dtype = precision_on(self._device, precision)
        self._stride_px = int(max(network.stride))  # type: ignore[arg-type]
        replace_head(network, confidence=config.confidence, most=config.max_per_tile)
        layers: Any = network.to(self._device).to(memory_format=torch.channels_last).model
        layers[:-1].to(self._dtype)
        layers[-1].convert(self._dtype)
        self._network = network
        self._transfer = DeviceTransfer(self._device)

    @property
    def stride_px(self) -> int:
        return self._stride_px

    def detect(self, tiles: NDArray[np.uint8], *, um_per_px: float) -> list[Boxes]:
        """Return one Boxes per tile, in tile pixels; sides are padded to a multiple of the stride."""
        import torch

        count, height, width = tiles.shape[:3]
        padded = pad_tiles(tiles, height_px=self._padded_px(height), width_px=self._padded_px(width))
        boxes: list[Boxes] = []
        with torch.inference_mode(), self._transfer.stream():
            batch_size = count if self._device.type == "cuda" else max(1, FORWARD_PX // (height * width))
            for first in range(0, count, batch_size):
                pixels = self._transfer.upload(padded[first : first + batch_size])
                batch = to_input(pixels, invert=self._invert, dtype=self._dtype)
                boxes += suppress(
                    self._network(batch),
                    iou=self._config.iou,
                    most=self._config.max_per_tile,
                    width_px=width,
                    height_px=height,
                )
        return boxes

    def _padded_px(self, side_px: int) -> int:
        return -(-side_px // self._stride_px) * self._stride_px
