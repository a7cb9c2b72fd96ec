"""All checks of a slide before it is processed, on the opened slide or on metadata alone."""

from __future__ import annotations

from fossilray.core.records import Doubt
from fossilray.core.types import SlideInfo
from fossilray.slides.clear_field import sample_scanned
from fossilray.slides.doubts.light import light_doubts
from fossilray.slides.doubts.pixel_format import bit_depth_doubts, level_doubts
from fossilray.slides.doubts.planes import plane_doubts
from fossilray.slides.doubts.scale import bounds_doubts, mpp_doubts
from fossilray.slides.doubts.slide_type import slide_type_doubts
from fossilray.slides.doubts.tiles import tile_doubts
from fossilray.slides.planes import count_planes
from fossilray.slides.slide import Slide
from fossilray.slides.tiff.pixel_format import TiffFormat


def check_slide(slide: Slide, *, mpp: float | None) -> tuple[Doubt, ...]:
    """Return the findings about an open slide: metadata, format of the file, light of the clear field, stored
    tiles.

    At most 4 megapixels are read. mpp: um per level-0 pixel in use; None if it is unknown.
    """
    info = slide.info
    tiles = slide.listed.tiles_per_level if slide.listed is not None else ()
    return (
        *check_metadata(info, mpp=mpp, tiff=slide.tiff_format, tiles_per_level=tiles),
        *light_doubts(sample_scanned(slide)),
        *tile_doubts(slide),
    )


def check_metadata(
    info: SlideInfo,
    *,
    mpp: float | None,
    tiff: TiffFormat | None = None,
    tiles_per_level: tuple[int, ...] = (),
) -> tuple[Doubt, ...]:
    """Return the findings that need metadata alone, such as of a slide in an object store.

    mpp: um per level-0 pixel in use; None if it is unknown. tiff: format of a TIFF's pixels. tiles_per_level: number
    of tiles that the slide's index lists for each level. Neither is checked where it is not given.
    """
    return (
        *mpp_doubts(info, mpp),
        *bounds_doubts(info),
        *slide_type_doubts(info),
        *bit_depth_doubts(info, tiff),
        *level_doubts(info, tiff, tiles_per_level),
        *plane_doubts(count_planes(info.properties, tiff)),
    )
