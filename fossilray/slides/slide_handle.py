"""Handles of OpenSlide: opening, sharing between threads, and metadata."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from openslide import OpenSlideError, OpenSlideUnsupportedFormatError, lowlevel

from fossilray.core.errors import MissingCompanion, MissingResolution, NotASlide, SourceUnreachable
from fossilray.core.types import Image, Level, SlideInfo
from fossilray.slides.access import first_fault, names_an_outage
from fossilray.slides.limits import check_tiles
from fossilray.slides.properties import (
    choose_mpp,
    stated_background,
    stated_bounds,
    stated_mpp,
)


@dataclass
class SharedHandle:
    """An OpenSlide handle with the number of reads in progress on it."""

    handle: lowlevel._OpenSlide
    readers: int = 0
    broken: bool = False
    retired: bool = False


def open_handle(path: Path) -> lowlevel._OpenSlide:
    """Open a handle, at the second attempt if need be: OpenSlide does not distinguish disk errors from damage.

    Raises:
        NotASlide, MissingCompanion, SourceUnreachable: OpenSlide cannot open the file.
    """
    try:
        return _try_to_open(path)
    except (NotASlide, MissingCompanion):
        fault = first_fault([path])
        if fault is not None:
            raise fault from None
    return _try_to_open(path)


def _try_to_open(path: Path) -> lowlevel._OpenSlide:
    try:
        return lowlevel.open(str(path))
    except OpenSlideUnsupportedFormatError:
        raise NotASlide(
            f"{path.name} is in no format that OpenSlide reads; if it is an image, convert it to a tiled "
            "pyramidal TIFF"
        ) from None
    except OpenSlideError as error:
        if names_an_outage(str(error)):
            raise SourceUnreachable(
                f"{path} cannot be opened: {error}; check the disk or the share that holds it"
            ) from None
        if "Short read" in str(error):
            raise MissingCompanion(
                f"{path.name} cannot be opened: a file of it is cut short ({error}); copy the slide again, whole"
            ) from None
        raise NotASlide(
            f"{path.name} cannot be opened: {error}; it is damaged or incomplete, copy it again with all "
            "its files"
        ) from None


def describe_slide(
    path: Path,
    handle: lowlevel._OpenSlide,
    *,
    mpp: float | None,
    catalog_mpp: float | None,
    mpp_override: float | None,
) -> SlideInfo:
    """Return the metadata of an open slide. The resolutions are those of `open_slide`.

    Raises:
        MissingResolution: there is no um per px, or it differs across and down.
        TooLarge: its tiles claim more pixels than can be decoded at once.
    """
    stated = {
        name: lowlevel.get_property_value(handle, name) or "" for name in lowlevel.get_property_names(handle)
    }
    check_tiles(path.name, stated)
    levels = tuple(
        Level(*lowlevel.get_level_dimensions(handle, number), lowlevel.get_level_downsample(handle, number))
        for number in range(lowlevel.get_level_count(handle))
    )
    resolution, mpp_from = choose_mpp(
        stated_mpp(stated),
        shown=path.name,
        mpp=mpp,
        catalog_mpp=catalog_mpp,
        mpp_override=mpp_override,
    )
    if resolution is None:
        raise MissingResolution(
            f"{path.name} states no um per pixel; set slides.mpp or add an mpp column to the catalog"
        )
    width, height = levels[0].width, levels[0].height
    return SlideInfo(
        path=str(path),
        vendor=stated.get("openslide.vendor", "unknown"),
        width=width,
        height=height,
        mpp=resolution,
        levels=levels,
        bounds=stated_bounds(stated, width, height),
        background_rgb=stated_background(stated),
        mpp_from=mpp_from,
        properties=stated,
    )


def split_argb(argb: NDArray[np.uint32]) -> tuple[Image, NDArray[np.uint8]]:
    """Return premultiplied RGB (height, width, 3) and coverage (height, width) of OpenSlide's 32-bit pixels."""
    bgra = argb.view(np.uint8).reshape(*argb.shape, 4)
    rgb, alpha = cv2.cvtColor(bgra, cv2.COLOR_BGRA2RGB), cv2.extractChannel(bgra, 3)
    return np.asarray(rgb, np.uint8), np.asarray(alpha, np.uint8)


def library_version() -> str:
    """Return the version of the OpenSlide library behind the Python binding."""
    return str(lowlevel.get_version())
