"""Format of a TIFF's pixels, and directories that are reduced images but no levels to OpenSlide."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fossilray.slides.tiff.directories import TiffDirectory, directories_in

_SUBFILE_TYPE, _WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLES = 254, 256, 257, 258, 262, 277
_TILE_WIDTH, _SUB_DIRECTORIES = 322, 330
NDPI_FLAG, NDPI_LENS, NDPI_FOCAL_PLANE = 65_420, 65_421, 65_424
"""Tags of Hamamatsu: in every directory of an NDPI; objective, negative for other images; depth in nm."""
_REDUCED = 1
# Sizes of levels are rounded; other images in the file have other proportions.
_SAME_PROPORTIONS = 0.02


@dataclass(frozen=True)
class TiffFormat:
    """Pixels of the first directory, by the tags of TIFF 6.0, and levels that OpenSlide does not use.

    unmarked: smaller tiled copies of the image in directories without the flag of reduced images. sub_directories: in
    the tag SubIFDs of the first directory. full_size: tiled images of the size of the first, with it.
    """

    bits: int
    samples: int
    photometric: int
    unmarked: int
    sub_directories: int
    full_size: int = 1


def read_format(path: Path) -> TiffFormat | None:
    """Return the format of a TIFF on a disk; None for another file, or a damaged directory."""
    try:
        with path.open("rb") as file:
            return describe_format(list(directories_in(file, is_ndpi=is_ndpi(path.name))))
    except (OSError, ValueError, KeyError, struct.error, ZeroDivisionError):
        return None


def is_ndpi(name: str) -> bool:
    """Whether the name of a file is that of an NDPI."""
    return name.lower().endswith(".ndpi")


def describe_format(directories: Sequence[TiffDirectory]) -> TiffFormat:
    """Return the format by the directories of the main chain.

    Raises:
        ValueError, KeyError, IndexError, struct.error: as `read_directories`.
    """
    first = directories[0]
    return TiffFormat(
        bits=_number(first, _BITS, 1),
        samples=_number(first, _SAMPLES, 1),
        photometric=_number(first, _PHOTOMETRIC, 1),
        unmarked=sum(_is_unmarked_copy(later, first) for later in directories[1:]),
        sub_directories=first.count(_SUB_DIRECTORIES),
        full_size=len(_depths(directories))
        or 1 + sum(_has_size_of(later, first) for later in directories[1:]),
    )


def _depths(directories: Sequence[TiffDirectory]) -> set[int]:
    """Return the depths of the focus planes of an NDPI; empty for another TIFF."""
    if NDPI_FLAG not in directories[0].tags:
        return set()
    return {
        _number(directory, NDPI_FOCAL_PLANE, 0)
        for directory in directories
        if NDPI_LENS in directory.tags and float(directory.first(NDPI_LENS)) > 0
    }


def _is_unmarked_copy(later: TiffDirectory, first: TiffDirectory) -> bool:
    if _TILE_WIDTH not in later.tags or _number(later, _SUBFILE_TYPE, 0) & _REDUCED:
        return False
    across, down = (_number(first, tag, 1) / max(_number(later, tag, 1), 1) for tag in (_WIDTH, _HEIGHT))
    return across > 1.5 and abs(across / down - 1) <= _SAME_PROPORTIONS


def _has_size_of(later: TiffDirectory, first: TiffDirectory) -> bool:
    is_image = _TILE_WIDTH in later.tags and not _number(later, _SUBFILE_TYPE, 0) & _REDUCED
    return is_image and all(_number(later, tag, 0) == _number(first, tag, 1) for tag in (_WIDTH, _HEIGHT))


def _number(directory: TiffDirectory, tag: int, default: int) -> int:
    return int(directory.first(tag)) if tag in directory.tags else default
