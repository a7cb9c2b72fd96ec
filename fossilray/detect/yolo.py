"""The neural detector: an ultralytics network on inverted tiles at a fixed scale."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fossilray.config import DetectorConfig
from fossilray.detect.boxes import RowLayout, decode_rows, pad_tiles, rows_last, to_input
from fossilray.records import Boxes

if TYPE_CHECKING:
    import torch


class YoloDetector:
    """Runs a network that `build_network` made; float32 on CPU, mixed precision on CUDA."""

    def __init__(
        self, network: torch.nn.Module, *, config: DetectorConfig, invert: bool, device: torch.device | str
    ) -> None:
        import torch

        self._config = config
        self._invert = invert
        self._device = torch.device(device)
        self._network = network.to(self._device).to(memory_format=torch.channels_last)
        self._stride_px = int(max(network.stride))  # type: ignore[arg-type]
        head: Any = network.model[-1]  # type: ignore[index]
        head.max_det = config.max_per_tile
        self._suppressed = bool(head.end2end)
        # The head adds distances to anchor positions; in half precision a position past 1024 px would be
        # rounded to whole pixels. With float32 features the anchors are float32 and the sum is too.
        head.register_forward_pre_hook(_features_in_float32)

    @property
    def stride_px(self) -> int:
        return self._stride_px

    def detect(self, tiles: NDArray[np.uint8], *, um_per_px: float) -> list[Boxes]:
        """One Boxes per tile, in tile pixels; sides that are no multiple of the stride are padded."""
        import torch

        if len(tiles) == 0:
            return []
        height, width = tiles.shape[1:3]
        padded = pad_tiles(tiles, height_px=self._whole(height), width_px=self._whole(width))
        with torch.inference_mode(), self._precision():
            batch = to_input(padded, invert=self._invert, device=self._device)
            raw = self._network(batch)[0]
            layout: RowLayout = "boxes" if self._suppressed else "classes"
            return decode_rows(
                rows_last(raw, layout=layout),
                layout=layout,
                confidence=self._config.confidence,
                iou=self._config.iou,
                most=self._config.max_per_tile,
                width_px=width,
                height_px=height,
            )

    def _whole(self, side_px: int) -> int:
        return -(-side_px // self._stride_px) * self._stride_px

    def _precision(self) -> contextlib.AbstractContextManager[object]:
        import torch

        if self._device.type == "cuda":
            return torch.autocast("cuda", dtype=torch.float16)
        return contextlib.nullcontext()


def _features_in_float32(_: torch.nn.Module, inputs: tuple[list[torch.Tensor]]) -> tuple[list[torch.Tensor]]:
    return ([features.float() for features in inputs[0]],)
