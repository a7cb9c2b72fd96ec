"""Labelled crops in memory as a table of crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.core.images import resize_to
from fossilray.core.types import Image
from fossilray.labels.labelled_crops import LabelledCrops
from fossilray.training.crops.fetch import CropUnits
from fossilray.training.crops.sources import Encoded
from fossilray.training.crops.table import CropTable


@dataclass(frozen=True)
class MemorySource:
    """Crops in memory; the encoded form of a crop is the number of its row."""

    crops: LabelledCrops

    @property
    def url(self) -> str:
        return "labels"

    @property
    def stored_px(self) -> int:
        return int(self.crops.pixels.shape[1])

    def read(self, path: str, object_id: NDArray[np.int32]) -> Sequence[Encoded]:
        return [np.int64(row).tobytes() for row in object_id.tolist()]

    def decode(self, encoded: bytes, out: Image) -> tuple[float, float] | None:
        row = int(np.frombuffer(encoded, np.int64)[0])
        pixels = self.crops.pixels[row]
        out[:] = pixels if len(out) == len(pixels) else resize_to(pixels, size_px=len(out))
        width, height = self.crops.shape[row].tolist()
        return width, height


def table_from_crops(crops: LabelledCrops, rows: NDArray[np.int64]) -> CropTable:
    """Return rows of labelled crops in this order; the classes are those of all crops."""
    width, height = crops.shape[rows].T
    return CropTable(
        sources=(MemorySource(crops),),
        units=CropUnits(
            source=np.zeros(1, np.int32),
            name=("labels",),
            path=("",),
            group=np.zeros(1, np.int32),
            groups=("labels",),
        ),
        unit=np.zeros(len(rows), np.int32),
        object_id=rows.astype(np.int32),
        log_aspect=np.log(width / height).astype(np.float16),
        classes=crops.classes,
        known_label=crops.label[rows].astype(np.int32),
        known_weight=None,
        without_pixels=0,
    )
