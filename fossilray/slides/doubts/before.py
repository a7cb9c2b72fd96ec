"""All checks of a slide before it is processed, on the opened slide or on metadata alone."""

from __future__ import annotations

from fossilray.core.records import Doubt
from fossilray.core.types import SlideInfo
from fossilray.slides.doubts.scale import bounds_doubts, mpp_doubts
from fossilray.slides.doubts.slide_type import slide_type_doubts
from fossilray.slides.slide import Slide


def check_slide(slide: Slide, *, mpp: float | None) -> tuple[Doubt, ...]:
    """Return the findings about an open slide: metadata, format of the file, light of the clear field.

    mpp: um per level-0 pixel in use; None if it is unknown.
    """
    return check_metadata(slide.info, mpp=mpp)


def check_metadata(info: SlideInfo, *, mpp: float | None) -> tuple[Doubt, ...]:
    """Return the findings that need metadata alone, such as of a slide in an object store.

    mpp: um per level-0 pixel in use; None if it is unknown.
    """
    return (*mpp_doubts(info, mpp), *bounds_doubts(info), *slide_type_doubts(info))
