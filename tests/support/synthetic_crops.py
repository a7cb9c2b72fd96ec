"""Folders of crops that were drawn: classes that shape alone tells apart, of any number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image as Pillow


def draw_folder(folder: Path, *, classes: int = 4, each: int = 10, side_px: int = 40, seed: int = 1) -> Path:
    """`<folder>/<class>/<image>.png`: rings, bars, discs and crosses on clear field, noisy."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : side_px * 1j, -1 : 1 : side_px * 1j]
    masks = [
        np.abs(np.hypot(x, y) - 0.7) < 0.15,
        np.abs(x) < 0.25,
        x**2 + y**2 < 0.5,
        (np.abs(x) < 0.15) | (np.abs(y) < 0.15),
    ]
    for number in range(classes):
        own = folder / f"class{number}"
        own.mkdir(parents=True)
        for image in range(each):
            pixels = np.full((side_px, side_px, 3), 225.0)
            pixels[masks[number % len(masks)]] *= rng.uniform(0.3, 0.6)
            noisy = np.clip(pixels + rng.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8)
            Pillow.fromarray(noisy).save(own / f"{image}.png")
    return folder
