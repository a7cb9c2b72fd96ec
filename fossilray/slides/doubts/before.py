"""All checks of a slide before it is processed, on the opened slide or on metadata alone."""

from __future__ import annotations

from pathlib import Path

from fossilray.core.config.choices import FocusPlanes
from fossilray.core.records import Doubt
from fossilray.core.types import SlideInfo
from fossilray.slides.clear_field import sample_scanned
from fossilray.slides.doubts.light import light_doubts
from fossilray.slides.doubts.pixel_format import bit_depth_doubts, level_doubts
from fossilray.slides.doubts.planes import plane_doubts
from fossilray.slides.doubts.scale import bounds_doubts, mpp_doubts
from fossilray.slides.doubts.slide_type import slide_type_doubts
from fossilray.slides.doubts.tiles import tile_doubts
from fossilray.slides.focus.stack import has_readable_planes
from fossilray.slides.planes import count_planes
from fossilray.slides.slide import Slide
from fossilray.slides.tiff.pixel_format import TiffFormat


def check_slide(slide: Slide, *, mpp: float | None, planes: FocusPlanes = "middle") -> tuple[Doubt, ...]:
    """Return the findings about an open slide: metadata, format of the file, light of the clear field, stored
    tiles.

    At most 4 megapixels are read. mpp: um per level-0 pixel in use; None if it is unknown. planes: `slides.planes`.
    """
    info = slide.info
    has_planes = count_planes(info.properties, slide.tiff_format) > 1
    tiles = slide.listed.tiles_per_level if slide.listed is not None else ()
    return (
        *check_metadata(
            info,
            mpp=mpp,
            tiff=slide.tiff_format,
            tiles_per_level=tiles,
            planes=planes,
            can_read_planes=has_planes and has_readable_planes(Path(info.path)),
        ),
        *light_doubts(sample_scanned(slide)),
        *tile_doubts(slide),
    )


def check_metadata(
    info: SlideInfo,
    *,
    mpp: float | None,
    tiff: TiffFormat | None = None,
    tiles_per_level: tuple[int, ...] = (),
    planes: FocusPlanes = "middle",
    can_read_planes: bool | None = None,
) -> tuple[Doubt, ...]:
    """Return the findings that need metadata alone, such as of a slide in an object store.

    mpp: um per level-0 pixel in use; None if it is unknown. tiff: format of a TIFF's pixels. tiles_per_level: number
    of tiles that the slide's index lists for each level. Neither is checked where it is not given. planes:
    `slides.planes`. can_read_planes: whether its focus planes can be read; None: as usual for the format.
    """
    if can_read_planes is None:
        can_read_planes = tiff is not None
    count = count_planes(info.properties, tiff)
    # Then levels are found that OpenSlide does not use.
    are_planes_read = count > 1 and can_read_planes and planes != "middle"
    return (
        *mpp_doubts(info, mpp),
        *bounds_doubts(info),
        *slide_type_doubts(info),
        *bit_depth_doubts(info, tiff),
        *level_doubts(info, None if are_planes_read else tiff, tiles_per_level),
        *plane_doubts(count, chosen=planes, can_be_read=can_read_planes),
    )
