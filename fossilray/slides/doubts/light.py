"""Check of a slide's light: a brightfield scan has a bright, nearly colourless clear field."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fossilray.core.records import Doubt
from fossilray.slides.clear_field import NEAR_MODE_GREY, clear_field

_LEAST_BRIGHT = 128.0
_MOST_COLOURED = 0.4
# Areas that were never scanned are filled with pure white or black in many files; such pixels tell nothing of the light
# unless they are most of the slide and the others have no clear field of their own.
_FILL_SHARE = 0.5
_LEAST_SHARE = 0.02
_LEAST_CLEAR_SHARE = 0.25
_WHITE, _BLACK = 254, 1
_REMEDY = "look at its picture; leave the slide out of the catalog, or scan it in brightfield"


def light_doubts(pixels: NDArray[np.uint8]) -> Iterator[Doubt]:
    """Check scanned pixels (n, 3) for a clear field that is neither dark, nor saturated, nor strongly coloured."""
    if not len(pixels):
        return
    white, black = (pixels >= _WHITE).all(axis=1), (pixels <= _BLACK).all(axis=1)
    others = pixels[~(white | black)]
    colour, clear_share = np.zeros(3, np.float32), 0.0
    if len(others) >= _LEAST_SHARE * len(pixels):
        colour = clear_field(others)
        is_clear = np.abs(others.mean(axis=1) - colour.mean()) <= NEAR_MODE_GREY
        clear_share = float(is_clear.mean())
    brightness = float(colour.mean())
    has_field = clear_share >= _LEAST_CLEAR_SHARE and brightness >= _LEAST_BRIGHT
    if white.mean() > _FILL_SHARE and not has_field:
        yield Doubt(
            "no-clear-field",
            255.0,
            f"{white.mean():.0%} of the scanned pixels are saturated white and the others show no bright background, "
            f"so pale objects are lost; {_REMEDY} at a lower exposure",
        )
    elif brightness < _LEAST_BRIGHT or (black.mean() > _FILL_SHARE and not has_field):
        dark = brightness if brightness < _LEAST_BRIGHT else 0.0
        yield Doubt(
            "no-clear-field",
            dark,
            f"the background has {dark:.0f} of 255 grey levels, where brightfield scans have more than "
            f"{_LEAST_BRIGHT:.0f}: fluorescence, dark field or inverted colours; {_REMEDY}",
        )
    elif (spread := float(1 - colour.min() / colour.max())) > _MOST_COLOURED:
        red, green, blue = (round(float(light)) for light in colour)
        yield Doubt(
            "no-clear-field",
            brightness,
            f"the background is strongly coloured, RGB {red}, {green}, {blue} ({spread:.0%} saturation, more than "
            f"{_MOST_COLOURED:.0%}); {_REMEDY} with a white balance",
        )
