"""Directories of a TIFF that hold its focus planes and their levels.

Sources: the OME-TIFF specification; https://openslide.org/formats/hamamatsu/; for SVS the order of directories that
Bio-Formats (ome/bioformats, pull request 3289) and tifffile found in files of ImageScope.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

from fossilray.slides.tiff.directories import TiffDirectory, directories_in
from fossilray.slides.tiff.pixel_format import NDPI_FLAG, NDPI_FOCAL_PLANE, NDPI_LENS, is_ndpi

_Size: TypeAlias = tuple[int, int]

_SUBFILE_TYPE, _WIDTH, _HEIGHT, _DESCRIPTION, _TILE_WIDTH = 254, 256, 257, 270, 322
_REDUCED = 1
_MOST_PLANES = 1000
_MOST_SUB_DIRECTORIES = 64
_LONGEST_DESCRIPTION_BYTES = 1 << 22
_OME_PIXELS = re.compile(r"<(?:\w+:)?Pixels\b([^>]*)>")
_OME_IMAGE = re.compile(r"<(?:\w+:)?TiffData\b([^>]*)>")
_OME_NUMBER = re.compile(r'\b(\w+)\s*=\s*"(\d{1,6})"')


@dataclass(frozen=True, eq=False)
class PlaneDirectories:
    """Directories of each plane, one for each level, fine to coarse; planes in the order of their depth or number.

    sizes: width and height of each level. reference: the plane that OpenSlide reads.
    """

    planes: tuple[tuple[TiffDirectory, ...], ...]
    sizes: tuple[_Size, ...]
    reference: int


def find_planes(path: Path, file: BinaryIO) -> PlaneDirectories | None:
    """Return the directories of the planes of an open file; None if it has one plane or is no known TIFF.

    Levels that some plane lacks are left out. The file must stay open while values of directories are read.
    """
    try:
        chain = list(directories_in(file, is_ndpi=is_ndpi(path.name)))
        if NDPI_FLAG in chain[0].tags:
            return _of_ndpi(chain)
        return _of_tiff(chain)
    except (ValueError, KeyError, IndexError, struct.error, OverflowError):
        return None


def _of_ndpi(chain: Sequence[TiffDirectory]) -> PlaneDirectories | None:
    """Return the planes of an NDPI by depth; OpenSlide reads the one at depth 0."""
    by_depth: dict[int, dict[_Size, TiffDirectory]] = {}
    for directory in chain:
        if NDPI_LENS in directory.tags and float(directory.first(NDPI_LENS)) > 0:
            depth_nm = _number(directory, NDPI_FOCAL_PLANE, 0)
            by_depth.setdefault(depth_nm, {}).setdefault(_size(directory), directory)
    depths = sorted(by_depth)
    if 0 not in by_depth:
        return None
    return _with_common_levels([by_depth[depth] for depth in depths], reference=depths.index(0))


def _of_tiff(chain: Sequence[TiffDirectory]) -> PlaneDirectories | None:
    """Return the planes of an OME-TIFF, an SVS or another tiled TIFF; OpenSlide reads the first directory."""
    tiled = [directory for directory in chain if _TILE_WIDTH in directory.tags]
    by_size: dict[_Size, list[TiffDirectory]] = {}
    for directory in tiled:
        by_size.setdefault(_size(directory), []).append(directory)
    whole = [each for each in by_size[_size(chain[0])] if not _number(each, _SUBFILE_TYPE, 0) & _REDUCED]
    order = _ome_order(chain, len(whole))
    if order is None:
        return None
    planes: list[dict[_Size, TiffDirectory]] = []
    for position in order:
        levels = {_size(whole[position]): whole[position]}
        for below in whole[position].sub_directories(most=_MOST_SUB_DIRECTORIES):
            if _TILE_WIDTH in below.tags:
                levels.setdefault(_size(below), below)
        for size, same in by_size.items():
            # As many images of a smaller size as there are planes: one of each plane, in the same order.
            if len(same) == len(whole) and size[0] < _size(chain[0])[0]:
                levels.setdefault(size, same[position])
        planes.append(levels)
    return _with_common_levels(planes, reference=order.index(0) if 0 in order else -1)


def _ome_order(chain: Sequence[TiffDirectory], count: int) -> list[int] | None:
    """Return the number of the directory of each plane among the whole images; None if they are no focus planes.

    An OME-TIFF may state other orders, and may have several channels or times, which are no planes.
    """
    text = ""
    if _DESCRIPTION in chain[0].tags:
        text = chain[0].text(_DESCRIPTION, most_bytes=_LONGEST_DESCRIPTION_BYTES)
    pixels = _OME_PIXELS.search(text)
    if pixels is None:
        return list(range(count))
    stated = _numbers(pixels[1])
    planes = stated.get("SizeZ", 1)
    if planes != count or stated.get("SizeT", 1) != 1:
        return None
    order = list(range(count))
    for match in _OME_IMAGE.finditer(text, pixels.end()):
        image = _numbers(match[1])
        if {"IFD", "FirstZ"} <= image.keys() and image["FirstZ"] < count:
            order[image["FirstZ"]] = image["IFD"]
    return order if sorted(order) == list(range(count)) else None


def _with_common_levels(
    planes: Sequence[dict[_Size, TiffDirectory]], *, reference: int
) -> PlaneDirectories | None:
    if not 2 <= len(planes) <= _MOST_PLANES or reference < 0:
        return None
    sizes = sorted(set.intersection(*(set(plane) for plane in planes)), reverse=True)
    if not sizes or sizes[0] != max(planes[reference]):
        return None
    return PlaneDirectories(
        tuple(tuple(plane[size] for size in sizes) for plane in planes), tuple(sizes), reference
    )


def _numbers(attributes: str) -> dict[str, int]:
    return {name: int(value) for name, value in _OME_NUMBER.findall(attributes)}


def _size(directory: TiffDirectory) -> _Size:
    return int(directory.first(_WIDTH)), int(directory.first(_HEIGHT))


def _number(directory: TiffDirectory, tag: int, default: int) -> int:
    return int(directory.first(tag)) if tag in directory.tags else default
