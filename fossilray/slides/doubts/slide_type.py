"""Check of what a slide states about its illumination."""

from __future__ import annotations

from collections.abc import Iterator

from fossilray.core.records import Doubt
from fossilray.core.types import SlideInfo

_BRIGHTFIELD = ("BRIGHT", "UNKNOWN", "DEFAULT")
_TYPE_PROPERTIES = ("mirax.GENERAL.SLIDE_TYPE", "leica.illumination-source")


def slide_type_doubts(info: SlideInfo) -> Iterator[Doubt]:
    """Check that the slide states brightfield, or nothing, as its illumination."""
    for name in _TYPE_PROPERTIES:
        stated = info.properties.get(name, "").strip()
        if stated and not any(word in stated.upper() for word in _BRIGHTFIELD):
            yield Doubt(
                "slide-type",
                None,
                f"the slide states {name.rpartition('.')[2]} = {stated:.60}; the detector is made for brightfield "
                "scans: leave the slide out of the catalog, or look at its picture in the report",
            )
            return
