"""Checks of a slide's um per pixel and of its scanned area."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from fossilray.core.records import Doubt
from fossilray.core.types import SlideInfo
from fossilray.slides.file_kinds import FIELD_VENDOR
from fossilray.slides.properties import SAME_SCALE, StatedMpp, stated_mpp, tagged_mpp, unbelieved_mpp

# Scanners' cameras have pixels of 3 to 7 um and adapters of 0.5x to 1.6x: 10 / magnification um per px, give or take.
_UM_AT_1X = 10.0
_FACTOR = 2.5
# 20x objectives on adapters reach 0.1 um per px, which is finer than they resolve.
_FINEST_OF_DRY_OBJECTIVES = 0.1
_PLAUSIBLE_POWER = (0.5, 150.0)
_WITHOUT_OBJECTIVE = (0.08, 1.1)
_COVER_GLASS_MM = (30.0, 60.0)
_SMALLEST_SCAN_MM = 0.5
# A field of view, which is one photo, may be smaller; most cameras have fewer pixels a side.
_LARGEST_FIELD_PX = 4096
# Oil immersion objectives of 100x, which photographs of fields are taken with and scans are not, and small ones.
_OF_FIELDS = (0.02, 2.6)
_SOURCES = {"catalog": "the catalog", "sidecar": "its sidecar"}
_BOUNDS = ("x", "y", "width", "height")
_SMALLEST_BOUNDS_SHARE = 1e-4
_REMEDY = "state the true value in the column mpp of the catalog or in slides.mpp_override"


def mpp_doubts(info: SlideInfo, mpp: float | None) -> Iterator[Doubt]:
    """Compare the um per pixel with the objective, the size of a cover glass, the slide's own, and x with y.

    mpp: um per pixel in use; None if it is unknown.
    """
    stated = stated_mpp(info.properties)
    if stated is not None and stated.square is None:
        yield _unequal(stated, mpp)
    if mpp is None:
        yield from _unbelieved(info.properties)
        return
    square = stated.square if stated is not None else None
    if square is not None and info.mpp_from != "slide" and abs(mpp / square - 1) > SAME_SCALE:
        where = _SOURCES.get(info.mpp_from, "slides.mpp_override")
        yield Doubt(
            "mpp-differs",
            mpp,
            f"{where} states {mpp:.4g} um per px and the slide {square:.4g}; {mpp:.4g} is used; correct {where} if the "
            "slide is right",
        )
    yield from _contradiction(info, mpp)
    implausible = _why_implausible(info, mpp)
    if implausible is not None:
        yield Doubt("mpp-implausible", mpp, f"{implausible}; {_REMEDY}")


def bounds_doubts(info: SlideInfo) -> Iterator[Doubt]:
    """Check that the scanned area that the slide states lies on its canvas."""
    texts = [info.properties.get(f"openslide.bounds-{name}") for name in _BOUNDS]
    if texts == [None] * len(texts):
        return
    stated = [_number(text) for text in texts]
    shown = " ".join(f"{name} {text}" for name, text in zip(_BOUNDS, texts, strict=True))
    if any(value is None for value in stated):
        yield Doubt(
            "bounds-implausible",
            None,
            f"the stated scanned area ({shown}) is incomplete; the whole canvas of {info.width} x {info.height} px is "
            "read",
        )
        return
    x, y, width, height = (value or 0.0 for value in stated)
    inside = min(x + width, info.width) - max(x, 0.0), min(y + height, info.height) - max(y, 0.0)
    area = max(inside[0], 0.0) * max(inside[1], 0.0)
    is_outside = min(x, y) < 0 or x + width > info.width + 1 or y + height > info.height + 1
    share = area / (info.width * info.height)
    if is_outside or share < _SMALLEST_BOUNDS_SHARE:
        yield Doubt(
            "bounds-implausible",
            share,
            f"the stated scanned area ({shown}) does not fit the canvas of {info.width} x {info.height} px, of which "
            f"it covers {share:.2%}; compare the slide's picture in the report with the slide",
        )


def _unequal(stated: StatedMpp, mpp: float | None) -> Doubt:
    used = (
        "it is refused until it is resampled to square pixels, or its true value is stated"
        if mpp is None
        else f"{mpp:.4g} is used for both"
    )
    return Doubt(
        "mpp-unequal",
        stated.x / stated.y,
        f"the slide states {stated.x:.4g} um per px across and {stated.y:.4g} down; {used}",
    )


def _unbelieved(properties: Mapping[str, str]) -> Iterator[Doubt]:
    """Check a slide without um per pixel for a value that it states and that is not used."""
    unused = unbelieved_mpp(properties)
    if unused is not None and stated_mpp(properties) is None:
        value, why = unused
        yield Doubt("mpp-implausible", value, f"{why}; it is not used: {_REMEDY}")


def _contradiction(info: SlideInfo, mpp: float) -> Iterator[Doubt]:
    """Check that the description of a TIFF and its tags state the same."""
    stated, tagged = stated_mpp(info.properties), tagged_mpp(info.properties)
    if info.mpp_from != "slide" or stated is None or tagged is None:
        return
    if abs(tagged.x / stated.x - 1) > SAME_SCALE:
        yield Doubt(
            "mpp-differs",
            mpp,
            f"the slide states {stated.x:.4g} um per px in its description and {tagged.x:.4g} in its tags; {mpp:.4g} "
            f"is used; if it is wrong, {_REMEDY}",
        )


def _why_implausible(info: SlideInfo, mpp: float) -> str | None:
    is_field = info.vendor == FIELD_VENDOR
    low, high = _OF_FIELDS if is_field else _WITHOUT_OBJECTIVE
    power = _objective(info.properties)
    if power is not None:
        low, high = plausible_mpp(power)
        if not low <= mpp <= high:
            return f"{mpp:.4g} um per px with a {power:g}x objective, which gives {low:.2g} to {high:.3g}"
    elif not low <= mpp <= high:
        what = "photographs" if is_field else "scans"
        return f"{mpp:.4g} um per px, where {what} of microfossils have {low:g} to {high:g}"
    longest_px = max(info.bounds.width, info.bounds.height)
    longest_mm = longest_px * mpp / 1000
    shortest_mm = min(info.bounds.width, info.bounds.height) * mpp / 1000
    sides = f"{_side(info.bounds.width, mpp)} x {_side(info.bounds.height, mpp)} mm"
    area = f"at {mpp:.4g} um per px the scanned area has {sides}"
    if shortest_mm > _COVER_GLASS_MM[0] or longest_mm > _COVER_GLASS_MM[1]:
        return f"{area}, more than a cover glass of {_COVER_GLASS_MM[0]:g} x {_COVER_GLASS_MM[1]:g}"
    if not is_field and longest_px > _LARGEST_FIELD_PX and longest_mm < _SMALLEST_SCAN_MM:
        return f"{area}, less than the {_SMALLEST_SCAN_MM:g} of a small scan"
    return None


def plausible_mpp(power: float) -> tuple[float, float]:
    """Return the least and the largest um per pixel that scans with an objective of this magnification have."""
    usual = _UM_AT_1X / power
    low = max(usual / (2 * _FACTOR), min(usual / _FACTOR, _FINEST_OF_DRY_OBJECTIVES))
    return low, usual * _FACTOR


def _side(px: int, mpp: float) -> str:
    return f"{px * mpp / 1000:.3g}"


def _objective(properties: Mapping[str, str]) -> float | None:
    """Return the magnification of the objective; None if none that exists is stated."""
    power = _number(properties.get("openslide.objective-power"))
    return power if power is not None and _PLAUSIBLE_POWER[0] <= power <= _PLAUSIBLE_POWER[1] else None


def _number(text: str | None) -> float | None:
    try:
        value = float((text or "").replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
