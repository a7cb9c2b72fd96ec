"""Checks of a TIFF before OpenSlide opens it: the sizes that its tiles claim, and the orientation of its pixels."""

from __future__ import annotations

import os
import shlex
import struct
from pathlib import Path

from fossilray.core.errors import NotASlide, UnsupportedOrientation
from fossilray.slides.tiff.directories import TiffDirectory, directories_in

_ORIENTATION, _STRIP_BYTE_COUNTS, _TILE_WIDTH, _TILE_BYTE_COUNTS = 274, 279, 322, 325
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MOST_TILES = 1 << 26
# 1 is upright; readers ignore values that TIFF 6.0 does not define.
_ROTATED_OR_MIRRORED = range(2, 9)


def check_tiff(path: Path) -> None:
    """Check that no tile or strip of a TIFF claims more bytes than the file has, and that its tiles are upright.

    Other files pass. OpenSlide 4.0 allocates as much memory as a tile claims, and ends the process if the allocation
    fails. It turns each tile by itself, or ignores the orientation, depending on the compression.

    Raises:
        NotASlide: a tile or strip claims more.
        UnsupportedOrientation: a tiled image is stored rotated or mirrored.
    """
    with path.open("rb") as file:
        if file.read(4) not in _MAGIC:
            return
        size = os.fstat(file.fileno()).st_size
        try:
            for directory in directories_in(file):
                _check_orientation(path, directory)
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


def _check_orientation(path: Path, directory: TiffDirectory) -> None:
    if not {_TILE_WIDTH, _ORIENTATION} <= directory.tags:
        return
    value = int(directory.first(_ORIENTATION))
    if value in _ROTATED_OR_MIRRORED:
        raise UnsupportedOrientation(
            f"{path.name} states that its pixels are stored rotated or mirrored (TIFF tag 274 is {value}, "
            f"expected 1), which OpenSlide does not undo; convert it: vips autorot {shlex.quote(path.name)} "
            "upright.tif[tile,pyramid,compression=jpeg,Q=95]"
        )
