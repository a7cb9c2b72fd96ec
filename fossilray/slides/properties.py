"""Resolution, scanned bounds and background colour of a slide, parsed from OpenSlide's properties."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fossilray.core.types import Rect

# A file that states a printer's resolution (72 dpi is 353 um per pixel) does not describe its scan.
_PLAUSIBLE_MPP = (0.01, 20.0)
# A catalog's value that differs by less is the slide's own, rounded by a spreadsheet.
_SAME_MPP = 1e-4
_UM_PER_TIFF_UNIT = {"inch": 25_400.0, "centimeter": 10_000.0}
# Tiles are planned by the millimetre: pixels that are claimed to be large cost as much as many.
_UM2_PER_PIXEL = 0.25**2


def stated_mpp(stated: Mapping[str, str]) -> float | None:
    """Return the um per level-0 pixel, the geometric mean of both axes; None if no plausible value is stated."""
    across, down = (_number(stated.get(f"openslide.mpp-{axis}")) for axis in "xy")
    if across is None and down is None:
        unit_um = _UM_PER_TIFF_UNIT.get(stated.get("tiff.ResolutionUnit", ""))
        across, down = (
            unit_um / pixels
            if unit_um and (pixels := _number(stated.get(f"tiff.{axis}Resolution")))
            else None
            for axis in "XY"
        )
    sides = [side for side in (across, down) if side is not None]
    if not sides:
        return None
    mean = math.prod(sides) ** (1 / len(sides))
    return mean if _PLAUSIBLE_MPP[0] < mean < _PLAUSIBLE_MPP[1] else None


def choose_mpp(
    stated: float | None, *, mpp: float | None, catalog_mpp: float | None, mpp_override: float | None
) -> tuple[float | None, str]:
    """Return the um per level-0 pixel to use, and what states it: `slide`, `catalog` or `config`.

    The order is mpp_override, catalog_mpp, stated (by the slide), mpp. A catalog that repeats the slide's value adds
    nothing to it.
    """
    if mpp_override is not None:
        return mpp_override, "config"
    if catalog_mpp is not None:
        repeats = stated is not None and math.isclose(catalog_mpp, stated, rel_tol=_SAME_MPP)
        return catalog_mpp, "slide" if repeats else "catalog"
    return (stated, "slide") if stated is not None else (mpp, "config")


def stated_bounds(stated: Mapping[str, str], width: int, height: int) -> Rect:
    """Return the scanned area in level-0 pixels; the whole canvas if none is stated."""
    x, y, across, down = (
        _number(stated.get(f"openslide.bounds-{name}"), zero=True) for name in ("x", "y", "width", "height")
    )
    if x is None or y is None or not across or not down:
        return Rect(0, 0, width, height)
    left, top = min(int(x), width), min(int(y), height)
    return Rect(left, top, min(int(x + across), width), min(int(y + down), height))


def stated_background(stated: Mapping[str, str]) -> tuple[int, int, int]:
    """Return the background colour, RGB; white if none is stated."""
    try:
        red, green, blue = bytes.fromhex(stated.get("openslide.background-color", "FFFFFF"))
    except ValueError:
        return 255, 255, 255
    return red, green, blue


def _number(text: str | None, *, zero: bool = False) -> float | None:
    """Parse a finite positive number (with `zero`, also 0); None if the text is no such number."""
    try:
        value = float((text or "").replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) and (value > 0 or (zero and value == 0)) else None
