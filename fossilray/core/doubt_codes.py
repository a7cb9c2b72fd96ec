"""Codes of doubts, as in the column `doubts` and in `slides.strict_doubts`."""

from __future__ import annotations

from collections.abc import Mapping

DOUBT_CODES: Mapping[str, str] = {
    "mpp-implausible": "The um per pixel do not fit the objective or any scanner.",
    "mpp-differs": "The catalog or slides.mpp_override states other um per pixel than the slide.",
    "mpp-unequal": "The um per pixel across and down differ.",
    "no-clear-field": "The background is not bright: fluorescence, dark field or inverted colours.",
    "slide-type": "The slide states that it is no brightfield scan.",
    "bit-depth": "The pixels have more than 8 bits or not three colours.",
    "planes-left-out": "The slide has focus planes that were not read.",
    "levels-missing": "The file has levels of the pyramid that cannot be used.",
    "bounds-implausible": "The stated scanned area does not fit the slide.",
    "tiles-missing": "Stored tiles are missing or damaged.",
    "same-scan": "Another slide of the catalog is the same scan.",
    "giant-object": "A box is nearly as large as the slide.",
    "density-unusual": "The number of objects per mm2 is far from that of the well's other slides.",
    "sizes-unusual": "The sizes of objects are far from those of the well's other slides.",
    "objects-at-rim": "Many objects lie at the rim of the scanned area.",
    "out-of-focus": "Many crops are out of focus.",
}
"""Meaning of each code."""

COMPARING_CODES = ("density-unusual", "sizes-unusual")
"""Codes of findings that compare committed slides of a well; no slide has them before the others are committed."""
