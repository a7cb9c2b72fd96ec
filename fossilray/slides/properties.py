"""Resolution, scanned bounds and background colour of a slide, parsed from OpenSlide's properties."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

from fossilray.core.errors import UnequalPixels
from fossilray.core.plausible_values import PLAUSIBLE_MPP
from fossilray.core.types import Rect
from fossilray.slides.image_description import DescribedMpp, described_mpp

SAME_SCALE = 0.02
"""Two statements of um per pixel that differ by a smaller share agree."""

# A catalog's value that differs by less is the slide's own, rounded by a spreadsheet.
_SAME_MPP = 1e-4
_UM_PER_TIFF_UNIT = {"inch": 25_400.0, "centimeter": 10_000.0}
# Tiles are planned by the millimetre: pixels that are claimed to be large cost as much as many.
_UM2_PER_PIXEL = 0.25**2


@dataclass(frozen=True)
class StatedMpp:
    """um per level-0 pixel that a slide states along x and y."""

    x: float
    y: float

    @property
    def square(self) -> float | None:
        """The um per pixel of square pixels, which is that of x; None if the axes differ by more than 2 %."""
        return self.x if abs(self.x / self.y - 1) <= SAME_SCALE else None


def stated_mpp(stated: Mapping[str, str]) -> StatedMpp | None:
    """Return the um per level-0 pixel; None if no plausible value is stated.

    The description of a TIFF (OME-XML, ImageJ) is read before its tags, which software fills with a printer's values.
    An axis without a value takes that of the other axis.
    """
    described = _described(stated)
    return (_plausible(described.across, described.down) if described else None) or tagged_mpp(stated)


def tagged_mpp(stated: Mapping[str, str]) -> StatedMpp | None:
    """Return the um per level-0 pixel without the description of a TIFF; None if no plausible value is stated."""
    return _plausible(*_tagged(stated))


def missing_mpp(stated: Mapping[str, str], shown: str) -> str:
    """Return a sentence with the remedy for a slide without um per pixel. shown: the slide's name."""
    unused = unbelieved_mpp(stated)
    if unused is None:
        return f"{shown} states no um per pixel; set slides.mpp or add an mpp column to the catalog"
    return (
        f"{shown} has no usable um per pixel: {unused[1]}; set slides.mpp or add an mpp column to the catalog"
    )


def unbelieved_mpp(stated: Mapping[str, str]) -> tuple[float | None, str] | None:
    """Return the um per pixel that the slide states and that are not used, and why; None if it states none.

    The value is None where it has no unit that is a length.
    """
    low, high = PLAUSIBLE_MPP
    described = _described(stated)
    tagged = next((value for value in _tagged(stated) if value is not None), None)
    if described is not None:
        value = described.across or described.down
        if value is None:
            return None, f"{described.text}, which is no length"
        return (
            value,
            f"{described.text}, {value:.6g} um per px, which no microscope has ({low:g} to {high:g})",
        )
    per_unit = next((value for value in _per_unit(stated) if value is not None), None)
    unit = stated.get("tiff.ResolutionUnit", "")
    if tagged is not None:
        what = f" ({per_unit:,.10g} px per {unit})" if per_unit and unit in _UM_PER_TIFF_UNIT else ""
        return (
            tagged,
            f"it states {tagged:.6g} um per px{what}, which no microscope has ({low:g} to {high:g})",
        )
    # Writers state 1 px per nothing where they know no resolution.
    if per_unit is not None and per_unit != 1 and unit not in _UM_PER_TIFF_UNIT:
        return None, f"it states {per_unit:,.10g} px without a unit (TIFF tag ResolutionUnit)"
    return None


def _described(stated: Mapping[str, str]) -> DescribedMpp | None:
    return described_mpp(stated.get("tiff.ImageDescription", ""), _per_unit(stated))


def _tagged(stated: Mapping[str, str]) -> tuple[float | None, float | None]:
    across, down = (_number(stated.get(f"openslide.mpp-{axis}")) for axis in "xy")
    if across is None and down is None:
        unit_um = _UM_PER_TIFF_UNIT.get(stated.get("tiff.ResolutionUnit", ""))
        across, down = (
            unit_um / pixels if unit_um and pixels is not None else None for pixels in _per_unit(stated)
        )
    return across, down


def _per_unit(stated: Mapping[str, str]) -> tuple[float | None, float | None]:
    """Return the pixels per unit of a TIFF's tags."""
    return _number(stated.get("tiff.XResolution")), _number(stated.get("tiff.YResolution"))


def _plausible(across: float | None, down: float | None) -> StatedMpp | None:
    across, down = across or down, down or across
    if across is None or down is None:
        return None
    low, high = PLAUSIBLE_MPP
    return StatedMpp(across, down) if low <= min(across, down) and max(across, down) <= high else None


def choose_mpp(
    stated: StatedMpp | None,
    *,
    shown: str,
    mpp: float | None,
    catalog_mpp: float | None,
    mpp_override: float | None,
    sidecar_mpp: float | None = None,
) -> tuple[float | None, str]:
    """Return the um per level-0 pixel to use, and what states it: `slide`, `sidecar`, `catalog` or `config`.

    The order is mpp_override, catalog_mpp, sidecar_mpp, stated (by the slide), mpp. A catalog that repeats the value of
    the sidecar or the slide adds nothing to it. shown: the slide's name in messages.

    Raises:
        UnequalPixels: the slide states different values along x and y, and neither mpp_override nor catalog_mpp is
            given.
    """
    if mpp_override is not None:
        return mpp_override, "config"
    square = stated.square if stated is not None else None
    if sidecar_mpp is not None and (
        catalog_mpp is None or math.isclose(catalog_mpp, sidecar_mpp, rel_tol=_SAME_MPP)
    ):
        return sidecar_mpp, "sidecar"
    if catalog_mpp is not None:
        repeats = square is not None and math.isclose(catalog_mpp, square, rel_tol=_SAME_MPP)
        return catalog_mpp, "slide" if repeats else "catalog"
    if stated is None:
        return mpp, "config"
    if square is None:
        raise UnequalPixels(describe_unequal(stated, shown))
    return square, "slide"


def describe_unequal(stated: StatedMpp, shown: str) -> str:
    """Return a sentence about pixels that are not square, with the remedy. shown: the slide's name."""
    coarse = max(stated.x, stated.y)
    across, down = stated.x / coarse, stated.y / coarse
    per_mm = 1000 / coarse
    options = f"tile,pyramid,bigtiff,compression=jpeg,Q=90,xres={per_mm:g},yres={per_mm:g}"
    squared = f"{PurePath(shown).stem}-square.tif[{options}]"
    return (
        f"{shown} states {stated.x:g} um per px across and {stated.y:g} down; pixels must be square: resample it "
        f"(`vips resize {shlex.quote(shown)} {shlex.quote(squared)} {across:g} --vscale {down:g}`), or, if the file is "
        "wrong, state its um per px in the column mpp of the catalog or in slides.mpp_override"
    )


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
