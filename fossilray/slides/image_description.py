"""Resolution in the description of a TIFF: OME-XML, and the text that ImageJ writes.

Sources: OME data model, `Pixels` (https://docs.openmicroscopy.org/ome-model/), and ImageJ's TiffEncoder, which states
the unit of XResolution as a text (`unit=micron`).
"""

from __future__ import annotations

import html
import math
import re
from dataclasses import dataclass

# The element stands near the start; descriptions of many images have megabytes.
_MOST_CHARACTERS = 1 << 16
_PIXELS = re.compile(r"<(?:\w{1,20}:)?Pixels\b([^>]*)")
_ATTRIBUTE = re.compile(r"\b(PhysicalSize[XY](?:Unit)?)\s*=\s*(?:\"([^\"]*)\"|'([^']*)')")
_IMAGEJ_UNIT = re.compile(r"^unit=(.*)$", re.MULTILINE)
_MICRO_ESCAPE = re.compile(r"\\u00b5|\\u03bc", re.IGNORECASE)
# The micro sign, the Greek letter, and what is left of either after a wrong decoding.
_UM = ("\u00b5m", "\u03bcm", "um", "micron", "microns", "\ufffdm", "\u00e2\u00b5m", "\u00ce\u00bcm")
_UM_PER_UNIT = {
    **dict.fromkeys((*_UM, "micrometer", "micrometre", "micrometers", "micrometres"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometre", "nanometers", "nanometres"), 1e-3),
    **dict.fromkeys(("mm", "millimeter", "millimetre", "millimeters", "millimetres"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e4),
    **dict.fromkeys(("m", "meter", "metre"), 1e6),
    **dict.fromkeys(("inch", "inches", "in"), 25_400.0),
    "\u00e5": 1e-4,
    "pm": 1e-6,
}


@dataclass(frozen=True)
class DescribedMpp:
    """Resolution that a description states.

    across, down: um per pixel; None where they are not stated, or in a unit that is no length. text: the statement,
    for messages.
    """

    across: float | None
    down: float | None
    text: str


def described_mpp(
    description: str, resolution: tuple[float | None, float | None] = (None, None)
) -> DescribedMpp | None:
    """Return the resolution that a TIFF's description states; None if it states none.

    resolution: pixels per unit along x and y, as the TIFF's tags state them, to which ImageJ's unit belongs.
    """
    text = description[:_MOST_CHARACTERS]
    if text.startswith("ImageJ="):
        return _of_imagej(text, resolution)
    return _of_ome(text) if "<" in text else None


def _of_ome(text: str) -> DescribedMpp | None:
    pixels = _PIXELS.search(text)
    if pixels is None:
        return None
    stated = {name: html.unescape(double or single) for name, double, single in _ATTRIBUTE.findall(pixels[1])}
    shown, sizes = [], []
    for axis in "XY":
        size = stated.get(f"PhysicalSize{axis}")
        unit = stated.get(f"PhysicalSize{axis}Unit", "\u00b5m")
        sizes.append(None if size is None else _length_um(size, unit))
        if size is not None:
            shown.append(f"PhysicalSize{axis} {size:.20} {unit:.20}")
    return DescribedMpp(sizes[0], sizes[1], f"its OME-XML states {' and '.join(shown)}") if shown else None


def _of_imagej(text: str, resolution: tuple[float | None, float | None]) -> DescribedMpp | None:
    line = _IMAGEJ_UNIT.search(text)
    unit = _MICRO_ESCAPE.sub("\u00b5", line[1]).strip() if line else ""
    per_unit = resolution[0] or resolution[1]
    if not unit or per_unit is None:
        return None
    um = _UM_PER_UNIT.get(unit.lower())
    across, down = (um / pixels if um and pixels else None for pixels in resolution)
    return DescribedMpp(across, down, f"ImageJ's description states {per_unit:g} px per {unit:.20}")


def _length_um(size: str, unit: str) -> float | None:
    um = _UM_PER_UNIT.get(unit.strip().lower())
    try:
        value = float(size)
    except ValueError:
        return None
    return value * um if um is not None and math.isfinite(value) else None
