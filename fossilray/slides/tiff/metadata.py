"""Metadata of a slide from the directories of a TIFF, read by range, without pixels or tile tables.

The choice of directories as levels and the names of vendors follow OpenSlide (https://openslide.org/formats/).
"""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fossilray.core.types import Level
from fossilray.slides.properties import StatedMpp, stated_mpp
from fossilray.slides.tiff.directories import ReadBytes, TiffDirectory, Value, read_directories
from fossilray.slides.tiff.pixel_format import TiffFormat, describe_format

_MOST_READS = 48

_SUBFILE_TYPE, _WIDTH, _HEIGHT, _DESCRIPTION = 254, 256, 257, 270
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT, _SOFTWARE = 282, 283, 296, 305
_TILE_WIDTH, _XMP = 322, 700
# Hamamatsu marks its own files by tags of its own.
_HAMAMATSU = range(65_420, 65_500)
_WANTED = (
    _SUBFILE_TYPE,
    _WIDTH,
    _HEIGHT,
    _DESCRIPTION,
    _X_RESOLUTION,
    _Y_RESOLUTION,
    _RESOLUTION_UNIT,
    _SOFTWARE,
    _TILE_WIDTH,
)
_REDUCED = 1
_UNITS = {2: "inch", 3: "centimeter"}
_OME = re.compile(r"<(?:\w{1,20}:)?OME\b")
_OTHER_SOFTWARE = ("Philips", "MedScan")


@dataclass(frozen=True)
class TiffMetadata:
    """Vendor, levels and um per level-0 pixel, as OpenSlide reports them."""

    vendor: str
    levels: tuple[Level, ...]
    stated: StatedMpp | None
    properties: Mapping[str, str] = field(default_factory=dict)
    """By OpenSlide's names: um per pixel, or the TIFF's resolution, and the objective."""
    format: TiffFormat | None = None


def read_tiff(
    read: ReadBytes, *, check: Callable[[Sequence[TiffDirectory]], None] | None = None
) -> TiffMetadata | None:
    """Return the metadata of an Aperio slide or a generic tiled TIFF; None for other formats or a damaged file.

    check: called with the directories; errors that it raises, other than ValueError and KeyError, are not caught.
    """
    try:
        directories = list(read_directories(read, most_reads=_MOST_READS))
        if check is not None and directories:
            check(directories)
        pages = [
            {tag: directory.first(tag) if tag in _WANTED else 0 for tag in directory.tags}
            for directory in directories
        ]
        metadata = _metadata(pages) if pages else None
        return None if metadata is None else replace(metadata, format=describe_format(directories))
    except (struct.error, ValueError, KeyError, ZeroDivisionError):
        return None


def _metadata(pages: list[dict[int, Value]]) -> TiffMetadata | None:
    first = pages[0]
    if _TILE_WIDTH not in first:
        return None
    description = str(first.get(_DESCRIPTION, ""))
    if description.startswith("Aperio"):
        levels = _levels([page for page in pages if _TILE_WIDTH in page])
        # OpenSlide refuses levels that are out of order.
        rising = all(finer.downsample <= coarser.downsample for finer, coarser in itertools.pairwise(levels))
        properties = _aperio_properties(first)
        return TiffMetadata("aperio", levels, stated_mpp(properties), properties) if rising else None
    if (
        (description.lstrip("\ufeff \t\r\n").startswith("<") and not _OME.search(description))
        or str(first.get(_SOFTWARE, "")).startswith(_OTHER_SOFTWARE)
        or any(tag == _XMP or tag in _HAMAMATSU for tag in first)
    ):
        return None
    reduced = [page for page in pages[1:] if _TILE_WIDTH in page and _is_reduced(page)]
    ordered = sorted([first, *reduced], key=lambda page: -int(page[_WIDTH]))
    properties = _resolution(first)
    if description:
        properties["tiff.ImageDescription"] = description
    return TiffMetadata("generic-tiff", _levels(ordered), stated_mpp(properties), properties)


def _levels(pages: list[dict[int, Value]]) -> tuple[Level, ...]:
    width, height = int(pages[0][_WIDTH]), int(pages[0][_HEIGHT])
    return tuple(
        Level(across, down, (width / across + height / down) / 2)
        for across, down in ((int(page[_WIDTH]), int(page[_HEIGHT])) for page in pages)
    )


def _is_reduced(page: dict[int, Value]) -> bool:
    return bool(int(page.get(_SUBFILE_TYPE, 0)) & _REDUCED)


def _aperio_properties(page: dict[int, Value]) -> dict[str, str]:
    stated = _resolution(page)
    for item in str(page[_DESCRIPTION]).split("|")[1:]:
        name, _, value = item.partition("=")
        if name.strip() == "MPP":
            stated["openslide.mpp-x"] = stated["openslide.mpp-y"] = value.strip()
        if name.strip() == "AppMag":
            stated["openslide.objective-power"] = value.strip()
    return stated


def _resolution(page: dict[int, Value]) -> dict[str, str]:
    stated = {
        f"tiff.{axis}Resolution": str(page[tag])
        for axis, tag in (("X", _X_RESOLUTION), ("Y", _Y_RESOLUTION))
        if tag in page
    }
    stated["tiff.ResolutionUnit"] = _UNITS.get(int(page.get(_RESOLUTION_UNIT, 2)), "unknown")
    return stated
