"""Crops sorted into one folder per class, as arrays to train on and classes to keep apart."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from fossilray.crops import resize_to
from fossilray.errors import UsageError

SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"}

_LARGEST_PX = 8192 * 8192
"""Pixels of one image; a crop has some 224 a side, and a file of a few bytes may claim any number."""


@dataclass(frozen=True)
class LabelledCrops:
    """Square crops with the class of each."""

    pixels: NDArray[np.uint8]
    """(n, S, S, 3) RGB, stretched to the square."""
    shape: NDArray[np.float32]
    """(n, 2) width and height before stretching, the longer one 1."""
    label: NDArray[np.int64]
    """(n,) index into `classes`."""
    classes: tuple[str, ...]
    """`folder/class`, sorted."""

    def __len__(self) -> int:
        return len(self.label)

    def of_classes(self, names: Sequence[str]) -> LabelledCrops:
        """The crops of these classes alone, labelled 0, 1, … in the order of the names."""
        number = {self.classes.index(name): new for new, name in enumerate(names)}
        kept = np.flatnonzero(np.isin(self.label, list(number)))
        label = np.array([number[old] for old in self.label[kept].tolist()], np.int64)
        return LabelledCrops(self.pixels[kept], self.shape[kept], label, tuple(names))


def load_labelled_crops(folders: Sequence[Path], *, side_px: int) -> LabelledCrops:
    """Every image below `<folder>/<class>/`, stretched to side_px x side_px, in the order of their paths.

    Raises:
        UsageError: a folder has no classes, or an image cannot be decoded.
    """
    pixels, shapes, names = [], [], []
    for folder in folders:
        found = sorted(p for p in folder.glob("*/*") if p.suffix.lower() in SUFFIXES)
        if not found:
            raise UsageError(f"{folder} holds no <class>/<image> files; give --crops a folder of classes")
        for path in found:
            image = read_image(path, name=str(path))
            height, width = image.shape[:2]
            shapes.append((width / max(width, height), height / max(width, height)))
            pixels.append(resize_to(image, size_px=side_px))
            names.append(f"{folder.name}/{path.parent.name}")
    classes = tuple(sorted(set(names)))
    label = np.array([classes.index(name) for name in names], np.int64)
    return LabelledCrops(np.stack(pixels), np.array(shapes, np.float32), label, classes)


def hold_out(classes: Sequence[str], numbers: Mapping[str, int], *, rng: np.random.Generator) -> list[str]:
    """So many classes of each named folder, drawn at random, to be judged on and never trained on.

    Raises:
        UsageError: a folder has no class left to train on.
    """
    held: list[str] = []
    for folder, number in sorted(numbers.items()):
        own = [name for name in classes if name.split("/")[0] == folder]
        if number >= len(own):
            raise UsageError(f"{folder} has {len(own)} classes, so {number} cannot be held out; give fewer")
        held += [own[i] for i in sorted(rng.choice(len(own), size=number, replace=False).tolist())]
    return held


def read_image(image: Path | bytes, *, name: str) -> NDArray[np.uint8]:
    """The pixels (H, W, 3) RGB of an image file, or of what it holds.

    Raises:
        UsageError: it cannot be decoded, or claims to be larger than any crop.
    """
    try:
        with Pillow.open(io.BytesIO(image) if isinstance(image, bytes) else image) as file:
            width, height = file.size
            if width * height > _LARGEST_PX:
                raise UsageError(
                    f"{name} claims {width} x {height} px, more than the {_LARGEST_PX / 1e6:.0f} megapixels a "
                    "crop may have; remove it, or cut it smaller"
                )
            return np.asarray(file.convert("RGB"))
    # Pillow's own limit is an error of another family; a broken PNG is a SyntaxError.
    except (OSError, UnidentifiedImageError, Pillow.DecompressionBombError, SyntaxError, ValueError) as error:
        # Pillow would name the buffer, by an address that is another each time.
        why = "no image format" if isinstance(error, UnidentifiedImageError) else error
        raise UsageError(f"{name} cannot be decoded ({why}); remove or replace it") from None
