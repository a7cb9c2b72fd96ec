"""A table of crops whose pixels tell which crop they are, from a source that counts what is read of it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import StoreError, StoreUnreachable
from fossilray.core.types import Image
from fossilray.training.crops.fetch import CropUnits
from fossilray.training.crops.sources import Encoded
from fossilray.training.crops.table import CropTable


@dataclass
class CountingSource:
    """Crops made up when they are asked for; some are damaged."""

    damaged: frozenset[tuple[str, int]] = frozenset()
    reachable: bool = True
    url: str = "made-up"
    stored_px: int = 4
    read_crops: list[tuple[str, int]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, path: str, object_id: NDArray[np.int32]) -> Sequence[Encoded]:
        if not self.reachable:
            raise StoreUnreachable("made-up does not answer")
        crops = [(path, int(number)) for number in object_id]
        with self._lock:
            self.read_crops += crops
        return [b"" if crop in self.damaged else np.int64(name_of(*crop)).tobytes() for crop in crops]

    def decode(self, encoded: bytes, out: Image) -> tuple[float, float] | None:
        if not encoded:
            raise StoreError("it holds nothing")
        out[:] = np.frombuffer(encoded, np.uint8)[:3]


def name_of(path: str, object_id: int) -> int:
    """A number below 2**24 for each crop."""
    return int(path) * 10_000 + object_id


def made_table(
    sizes: Sequence[int],
    *,
    source: CountingSource | None = None,
    keep_one_in: int = 1,
    weight: NDArray[np.float32] | None = None,
) -> CropTable:
    """Slides of these sizes, of which every so manieth crop was chosen."""
    unit = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    object_id = np.concatenate([np.arange(size, dtype=np.int32) for size in sizes])
    return CropTable(
        sources=(source or CountingSource(),),
        units=CropUnits(
            source=np.zeros(len(sizes), np.int32),
            name=tuple(f"slide-{i}" for i in range(len(sizes))),
            path=tuple(str(i) for i in range(len(sizes))),
            group=np.arange(len(sizes), dtype=np.int32) % 3,
            groups=("a", "b", "c"),
        ),
        unit=unit[::keep_one_in],
        object_id=object_id[::keep_one_in],
        log_aspect=np.zeros(len(unit[::keep_one_in]), np.float16),
        classes=(),
        known_label=None,
        known_weight=weight,
        without_pixels=0,
    )


def names_in(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Which crops some pixels are, as `name_of` counts them."""
    first = pixels[:, 0, 0].astype(np.int64)
    assert (pixels == pixels[:, :1, :1]).all()
    return first[:, 0] + 256 * first[:, 1] + 65536 * first[:, 2]
