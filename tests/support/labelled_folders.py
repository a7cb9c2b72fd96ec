"""Folders of pictures, one for each class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow


def picture(seed: int, size: tuple[int, int] = (90, 120)) -> NDArray[np.uint8]:
    """Blots on clear field, of another shape for each seed: (height, width, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : size[0] * 1j, -1 : 1 : size[1] * 1j]
    density = np.zeros(size)
    for _ in range(12):
        at, wide = rng.uniform(-0.7, 0.7, 2), rng.uniform(0.08, 0.3)
        density += rng.uniform(0.2, 1.0) * np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / wide**2)
    light = 226 * np.exp(-density[..., None] * np.array([0.5, 0.8, 1.2]))
    return np.clip(light, 0, 255).astype(np.uint8)


def write_folder(folder: Path, counts: dict[str, int]) -> Path:
    seed = 0
    for genus, count in counts.items():
        (folder / genus).mkdir(parents=True)
        for number in range(count):
            seed += 1
            Pillow.fromarray(picture(seed)).save(folder / genus / f"{number}.png")
    return folder
