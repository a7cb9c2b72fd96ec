"""Handles of OpenSlide: opening, pixels and metadata. OpenSlide is used here only."""

from __future__ import annotations

from ctypes import POINTER, c_uint32
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from openslide import OpenSlideError, OpenSlideUnsupportedFormatError, lowlevel

from fossilray.core.errors import (
    MissingCompanion,
    MissingResolution,
    NotASlide,
    SlideError,
    SourceUnreachable,
)
from fossilray.core.types import Image, Level, SlideInfo
from fossilray.slides.access import as_slide_error, first_fault, names_an_outage
from fossilray.slides.limits import check_tiles
from fossilray.slides.pixel_handle import UndecodableRegion
from fossilray.slides.properties import (
    choose_mpp,
    missing_mpp,
    stated_background,
    stated_bounds,
    stated_mpp,
)
from fossilray.slides.refusals import explain_failure, explain_tiff_failure, refuse_file


class OpenSlideHandle:
    """Pixels of a slide that OpenSlide reads, a PixelHandle. raw: OpenSlide's own handle."""

    def __init__(self, raw: lowlevel._OpenSlide) -> None:
        self.raw = raw

    def read(self, argb: NDArray[np.uint32], level: int, x: int, y: int) -> None:
        """Fill `argb` (height, width) with premultiplied pixels, 0 outside the canvas. x, y: level-0 px.

        Raises:
            UndecodableRegion: the region cannot be decoded, and the handle is unusable from then on.
        """
        height, width = argb.shape
        pointer = argb.ctypes.data_as(POINTER(c_uint32))
        try:
            lowlevel._read_region(self.raw, pointer, x, y, level, width, height)
        except OpenSlideError as error:
            raise UndecodableRegion(str(error)) from None

    def close(self) -> None:
        """Close OpenSlide's handle."""
        lowlevel.close(self.raw)


def open_handle(path: Path) -> OpenSlideHandle:
    """Open a handle, at the second attempt if need be: OpenSlide does not distinguish disk errors from damage.

    Raises:
        NotASlide, MissingCompanion, SourceUnreachable: OpenSlide cannot open the file.
        UnsupportedSlide: it does not read slides of this kind.
    """
    try:
        return _try_to_open(path)
    except (NotASlide, MissingCompanion):
        fault = first_fault([path])
        if fault is not None:
            raise fault from None
    return _try_to_open(path)


def _try_to_open(path: Path) -> OpenSlideHandle:
    try:
        return OpenSlideHandle(lowlevel.open(str(path)))
    except OpenSlideUnsupportedFormatError:
        raise _refused(path) from None
    except OpenSlideError as error:
        if names_an_outage(str(error)):
            raise SourceUnreachable(
                f"{path} cannot be opened: {error}; check the disk or the share that holds it"
            ) from None
        if "Short read" in str(error):
            raise MissingCompanion(
                f"{path.name} cannot be opened: a file of it is cut short ({error}); copy the slide again, whole"
            ) from None
        raise explain_tiff_failure(path) or explain_failure(path.name, str(error)) from None


def _refused(path: Path) -> SlideError:
    try:
        return refuse_file(path)
    except OSError as error:
        return as_slide_error(error, path) or NotASlide(f"{path.name} cannot be read: {error}")


def describe_slide(
    path: Path,
    handle: OpenSlideHandle,
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
    raw = handle.raw
    stated = {name: lowlevel.get_property_value(raw, name) or "" for name in lowlevel.get_property_names(raw)}
    check_tiles(path.name, stated)
    levels = tuple(
        Level(*lowlevel.get_level_dimensions(raw, number), lowlevel.get_level_downsample(raw, number))
        for number in range(lowlevel.get_level_count(raw))
    )
    resolution, mpp_from = choose_mpp(
        stated_mpp(stated),
        shown=path.name,
        mpp=mpp,
        catalog_mpp=catalog_mpp,
        mpp_override=mpp_override,
    )
    if resolution is None:
        raise MissingResolution(missing_mpp(stated, path.name))
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
