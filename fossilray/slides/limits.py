"""Limits on the tile and slide sizes that a file may claim, checked before anything is decoded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fossilray.core.errors import TooLarge
from fossilray.core.types import SlideInfo
from fossilray.slides.properties import _UM2_PER_PIXEL, _number


def check_tiles(name: str, stated: Mapping[str, str]) -> None:
    """Check that no level is stored in tiles for which OpenSlide would allocate gigabytes.

    OpenSlide ends the process when that allocation fails. name: of the slide, for messages. stated: OpenSlide's
    properties.

    Raises:
        TooLarge: a level has tiles of more than LARGEST_ACCEPTED_TILE_PX pixels.
    """
    level = 0
    while f"openslide.level[{level}].width" in stated:
        width, height = (
            _number(stated.get(f"openslide.level[{level}].tile-{side}")) for side in ("width", "height")
        )
        if width and height and width * height > LARGEST_ACCEPTED_TILE_PX:
            raise TooLarge(
                f"{name} is stored in tiles of {width:.0f} x {height:.0f} px, more than the "
                f"{LARGEST_ACCEPTED_TILE_PX / 1e6:.0f} megapixels that are decoded at once; "
                "convert it to tiles of 256 px"
            )
        level += 1


def check_size(info: SlideInfo, *, max_gigapixels: float) -> None:
    """Check that the slide claims at most `max_gigapixels`, as stated and as its scanned area at 0.25 um per pixel.

    Raises:
        TooLarge: it claims more.
    """
    name = Path(info.path).name
    gigapixels = info.width * info.height / 1e9
    if gigapixels > max_gigapixels:
        raise TooLarge(
            f"{name} claims {info.width} x {info.height} px, {gigapixels:,.1f} gigapixels, more than "
            f"slides.max_gigapixels ({max_gigapixels:g}); raise that if the slide is sound"
        )
    area_um2 = info.bounds.width * info.bounds.height * info.mpp**2
    if area_um2 / _UM2_PER_PIXEL / 1e9 > max_gigapixels:
        across, down = (side * info.mpp / 1000 for side in (info.bounds.width, info.bounds.height))
        raise TooLarge(
            f"{name} claims {across:,.0f} x {down:,.0f} mm at {info.mpp:g} um per pixel, more than "
            f"slides.max_gigapixels ({max_gigapixels:g}) cover at 0.25; set slides.mpp_override if that is wrong"
        )


LARGEST_ACCEPTED_TILE_PX = 8192 * 8192
"""Pixels of one stored tile or photo; OpenSlide decodes it whole, in 4 bytes a pixel. Scanners write 256 to 2048
px a side."""
