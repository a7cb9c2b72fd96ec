"""Check of the tile sizes that a TIFF claims, before OpenSlide opens it."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from fossilray.core.errors import NotASlide
from fossilray.slides.tiff.directories import directories_in

_STRIP_BYTE_COUNTS, _TILE_BYTE_COUNTS = 279, 325
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MOST_TILES = 1 << 26


def check_tiff(path: Path) -> None:
    """Check that no tile or strip of a TIFF claims more bytes than the file has; other files pass.

    OpenSlide 4.0 allocates as much memory as a tile claims, and ends the process if the allocation fails.

    Raises:
        NotASlide: a tile or strip claims more.
    """
    with path.open("rb") as file:
        if file.read(4) not in _MAGIC:
            return
        size = os.fstat(file.fileno()).st_size
        try:
            for directory in directories_in(file):
                for tag in directory.tags & {_STRIP_BYTE_COUNTS, _TILE_BYTE_COUNTS}:
                    claimed = directory.numbers(tag, most=_MOST_TILES)
                    # Numbers from 2**63 on turn negative.
                    absurd = claimed[(claimed > size) | (claimed < 0)]
                    if len(absurd):
                        raise NotASlide(
                            f"{path.name} claims a tile of {int(absurd[0]) % 2**64:,} bytes and has {size:,} bytes "
                            "itself; it is damaged, copy it again from its source"
                        )
        except (KeyError, ValueError, struct.error, OverflowError):
            return  # OpenSlide reports what is wrong with such directories
