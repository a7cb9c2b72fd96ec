"""Photographs that were drawn: one mark, cropped tightly, or marks on a field of view whose boxes are known."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

KINDS = ("disc", "ring", "triangle")
NOVEL = "grid"
"""A kind of mark that is in no labels."""

_MARGIN_PX = 3
_CLEAR = 225.0


def draw_mark(kind: str, rng: np.random.Generator, *, side_px: int = 64) -> NDArray[np.uint8]:
    """A mark on clear field, cropped tightly."""
    pixels, ((left, top, right, bottom),) = draw_field([kind], rng, width=2 * side_px, height=2 * side_px)
    return pixels[top - _MARGIN_PX : bottom + _MARGIN_PX, left - _MARGIN_PX : right + _MARGIN_PX]


def write_marks(folder: Path, kinds: Sequence[str], *, each: int, seed: int = 1) -> Path:
    """`<folder>/<kind>/<number>.png`."""
    rng = np.random.default_rng(seed)
    for kind in kinds:
        (folder / kind).mkdir(parents=True)
        for number in range(each):
            Pillow.fromarray(draw_mark(kind, rng)).save(folder / kind / f"{number}.png")
    return folder


def draw_field(
    kinds: Sequence[str], rng: np.random.Generator, *, width: int = 640, height: int = 384
) -> tuple[NDArray[np.uint8], list[tuple[int, int, int, int]]]:
    """A field of view with these marks on a lattice of 128 px, and their boxes in px, in order of rows."""
    pixels = np.full((height, width, 3), _CLEAR)
    boxes = []
    for number, kind in enumerate(kinds):
        row, column = divmod(number, width // 128)
        side = int(rng.integers(56, 72))
        left, top = (128 * at + int(rng.integers(16, 40)) for at in (column, row))
        mask = _mask(kind, side)
        pixels[top : top + side, left : left + side][mask] *= rng.uniform(0.3, 0.6)
        down, across = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        boxes.append(
            (left + int(across[0]), top + int(down[0]), left + int(across[-1]) + 1, top + int(down[-1]) + 1)
        )
    noisy = pixels + rng.normal(0, 4, pixels.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), boxes


def _mask(kind: str, side_px: int) -> NDArray[np.bool_]:
    y, x = np.mgrid[-1 : 1 : side_px * 1j, -1 : 1 : side_px * 1j]
    radius = np.hypot(x, y)
    match kind:
        case "disc":
            return radius < 0.9
        case "ring":
            return (radius < 0.95) & (radius > 0.6)
        case "triangle":
            return (np.abs(x) < (y + 0.9) / 2) & (y < 0.9)
        case _:
            return (radius < 0.95) & ((np.sin(14 * x) > 0.3) | (np.sin(14 * y) > 0.3))


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 px in a few hundred bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + chunk(b"IEND", b"")
    )
