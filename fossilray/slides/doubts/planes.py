"""Check of focus planes."""

from __future__ import annotations

from collections.abc import Iterator

from fossilray.core.records import Doubt


def plane_doubts(planes: int) -> Iterator[Doubt]:
    """Check that no focus plane is left out: of several planes OpenSlide reads one. planes: number of stored planes."""
    if planes > 1:
        yield Doubt(
            "planes-left-out",
            float(planes - 1),
            f"the slide has {planes:,} focus planes, of which OpenSlide reads one; objects that are sharp in another "
            "plane may be blurred or missing: export an image with extended focus if they matter",
        )
