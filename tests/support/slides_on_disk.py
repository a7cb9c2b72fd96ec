"""Small MIRAX slides with discs on them, for tests that need files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fossilray.core.records import CatalogRow
from fossilray.synthetic.writers.mirax import write_mirax
from fossilray.synthetic.writers.mirax_plan import MiraxOptions
from fossilray.synthetic.writers.pixels import ArrayPixels

CLEAR = (226, 222, 219)
DISC_PX = 116
"""Diameter of a disc, 29 um at 0.25 um per pixel."""


def discs(size: int, objects: int = 6) -> NDArray[np.uint8]:
    """Brown discs on a clear field, in the same places every time."""
    rng = np.random.default_rng(size + objects)
    image = np.full((size, size, 3), CLEAR, np.uint8)
    rows, columns = np.mgrid[-60:60, -60:60]
    disc = rows**2 + columns**2 < (DISC_PX / 2) ** 2
    for _ in range(objects):
        x, y = rng.integers(80, size - 80, 2)
        image[y - 60 : y + 60, x - 60 : x + 60][disc] = (120, 80, 40)
    return image


def write_slide(
    path: Path, *, size: int = 1536, objects: int = 6, data_files: int = 2, mpp: float = 0.25
) -> None:
    """A slide of overlapping photos, away from the canvas's corner."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = MiraxOptions(
        photo_px=512, divisions_per_side=2, margin_photos=1, data_files=data_files, mpp=mpp
    )
    write_mirax(path, ArrayPixels(image=discs(size, objects)), options)


def without_findings(rows: Sequence[CatalogRow]) -> list[CatalogRow]:
    """The rows as a written catalog gives them: what was found in a slide is found again when it is opened."""
    return [replace(row, mpp_from=None, doubts=None) for row in rows]
