"""The JPEG tiles that a slide's files hold: which of them a reader requests, and what libjpeg alone takes for them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import simplejpeg

StoredTile = tuple[str, int, int]
"""File, offset and length of one JPEG."""

_LARGEST_TILE_PX = 2048
_START_OF_IMAGE = b"\xff\xd8"


@contextmanager
def recorded_tiles() -> Iterator[list[StoredTile]]:
    """Every JPEG that `os.pread` gives meanwhile, repeats included."""
    seen: list[StoredTile] = []
    real = os.pread

    def pread(file: int, length: int, offset: int) -> bytes:
        content = real(file, length, offset)
        if content[:2] == _START_OF_IMAGE:
            seen.append((str(Path(f"/proc/self/fd/{file}").readlink()), offset, length))
        return content

    os.pread = pread
    try:
        yield seen
    finally:
        os.pread = real


def decode_bare(tiles: Sequence[StoredTile]) -> None:
    """Each tile read and decoded to RGB by libjpeg-turbo, into one buffer, forgotten."""
    buffer = np.empty(_LARGEST_TILE_PX * _LARGEST_TILE_PX * 3, np.uint8)
    files = {name: os.open(name, os.O_RDONLY) for name in {name for name, _, _ in tiles}}
    try:
        for name, offset, length in tiles:
            simplejpeg.decode_jpeg(os.pread(files[name], length, offset), "RGB", buffer=buffer)
    finally:
        for file in files.values():
            os.close(file)
