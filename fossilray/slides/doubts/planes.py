"""Check of focus planes."""

from __future__ import annotations

from collections.abc import Iterator

from fossilray.core.config.choices import FocusPlanes
from fossilray.core.records import Doubt


def plane_doubts(planes: int, *, chosen: FocusPlanes, can_be_read: bool) -> Iterator[Doubt]:
    """Check that no focus plane is left out. planes: number of stored ones. chosen: `slides.planes`."""
    if planes < 2 or (can_be_read and chosen != "middle"):
        return
    if can_be_read:
        remedy = "read all of them with --planes best (slides.planes)"
    elif chosen != "middle":
        remedy = (
            f"slides.planes is {chosen}, but planes of this format, or as this file stores them, cannot be read: "
            "export them as OME-TIFF, or one image with extended focus"
        )
    else:
        remedy = (
            "export them as OME-TIFF and read all with --planes best, or export one image with extended focus"
        )
    yield Doubt(
        "planes-left-out",
        float(planes - 1),
        f"the slide has {planes:,} focus planes, of which the one that OpenSlide reads is used; objects that are sharp "
        f"in another plane may be blurred or missing: {remedy}",
    )
