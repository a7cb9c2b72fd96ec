"""Number of focus planes that a slide stores."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fossilray.slides.tiff.pixel_format import TiffFormat

_MOST_PLANES = 10_000
_MOST_HIERARCHIES = 64
_OME_SIZE = re.compile(r'\bSizeZ\s*=\s*"(\d{1,6})"')
# A projection of the planes, which MIRAX may list before them.
_MIRAX_PROJECTION = "ExtFocus"
_STATED = ("dicom.TotalPixelMatrixFocalPlanes", "zeiss.Information.Image.SizeZ", "field.planes")


def count_planes(properties: Mapping[str, str], tiff: TiffFormat | None = None) -> int:
    """Return the number of focus planes; 1 where none are stated.

    MIRAX states them as a hierarchy such as `Microscope focus level`, OME-TIFF as SizeZ, DICOM and CZI in a field of
    their own, NDPI as the depth of each image; in another TIFF, and in a field of view, they are further images of the
    size of the first.

    properties: of the slide, by OpenSlide's names. tiff: format of a TIFF.
    """
    counts = [_whole(properties.get(name, "")) for name in _STATED]
    for number in range(_MOST_HIERARCHIES):
        name = properties.get(f"mirax.HIERARCHICAL.HIER_{number}_NAME")
        if name is None:
            break
        if "focus" in name.lower():
            stated = _whole(properties.get(f"mirax.HIERARCHICAL.HIER_{number}_COUNT", ""))
            first = properties.get(f"mirax.HIERARCHICAL.HIER_{number}_VAL_0", "")
            counts.append(stated - first.startswith(_MIRAX_PROJECTION))
    if tiff is not None:
        ome = _OME_SIZE.search(properties.get("tiff.ImageDescription", ""))
        counts.append(_whole(ome[1]) if ome else min(tiff.full_size, _MOST_PLANES))
    return max(1, *counts)


def _whole(text: str) -> int:
    plain = text.strip()
    return min(int(plain[:9]), _MOST_PLANES) if plain.isascii() and plain.isdecimal() else 1
