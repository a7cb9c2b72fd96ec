"""Slides of one grey, for tests of what finds them and reads their facts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

from fossilray.synthetic.writers.mirax import write_mirax
from fossilray.synthetic.writers.mirax_plan import MiraxOptions
from fossilray.synthetic.writers.pixels import ArrayPixels

GREY = np.full((300, 400, 3), 200, np.uint8)


def write_grey_tiff(path: Path, *, mpp: float | None = 0.25) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    stated = {} if mpp is None else {"resolution": (10_000 / mpp,) * 2, "resolutionunit": "centimeter"}
    tifffile.imwrite(path, GREY, tile=(128, 128), photometric="rgb", **stated)
    return path


def write_grey_slide(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mirax(path, ArrayPixels(image=GREY), MiraxOptions(photo_px=128, divisions_per_side=2, levels=2))
    return path
