"""Overview pictures: a thumbnail of a slide with the boxes of its objects."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fossilray.core.types import Boxes, Image, Rect

if TYPE_CHECKING:
    from PIL import Image as Pillow
    from PIL.ImageDraw import ImageDraw as Draw
    from PIL.ImageFont import FreeTypeFont

LONGEST_SIDE_PX = 1600
"""Longest side of an overview; enough to see a 40 um object on a 20 mm cover glass."""


@dataclass(frozen=True)
class SizeClass:
    """Objects whose longest side is at least `from_um` and below the next class."""

    from_um: float
    label: str
    colour: str


SIZE_CLASSES = (
    SizeClass(0, "under 10 µm", "#00a98f"),
    SizeClass(10, "10–20 µm", "#0093b8"),
    SizeClass(20, "20–50 µm", "#2f6fd0"),
    SizeClass(50, "50–150 µm", "#6a4fc3"),
    SizeClass(150, "150–500 µm", "#a93aa6"),
    SizeClass(500, "over 500 µm", "#d4286f"),
)
"""Cool hues in order of size; organic matter has none of them in transmitted light."""

_OVERSAMPLING = 3  # lines are drawn this much larger and shrunk: Pillow itself draws without anti-aliasing
_SMALLEST_BOX_PX = 7.0  # a smaller frame would hide its own object, so a box is widened to this
_MARGIN_PX = 2.0  # air between an object and its frame
LEGEND_PX = 58
"""Height of the legend below the slide."""


def draw_boxes(thumbnail: Image, rect: Rect, boxes: Boxes, *, mpp: float, quality: int = 88) -> bytes:
    """Draw a thumbnail with a thin frame around every box, coloured by size, and a legend below; return a JPEG file.

    rect: the level-0 rectangle that the thumbnail shows. boxes: level-0 px. mpp: um per level-0 px.
    """
    from PIL import Image as Pillow

    height, width = thumbnail.shape[:2]
    scale = np.array([width / max(rect.width, 1), height / max(rect.height, 1)] * 2)
    origin = np.array([rect.x_min, rect.y_min] * 2, dtype=np.float64)
    frames = _widen((boxes.xyxy - origin) * scale)
    classes = size_classes(longest_sides_um(boxes, mpp=mpp))

    slide = Pillow.fromarray(np.ascontiguousarray(thumbnail))
    slide = _draw_frames(slide, frames, classes)
    picture = Pillow.new("RGB", (width, height + LEGEND_PX), "white")
    picture.paste(slide, (0, 0))
    _draw_legend(picture, top=height, classes=classes, um_per_px=mpp * rect.width / max(width, 1))
    buffer = io.BytesIO()
    # Not optimize=True: Pillow then has room for one byte a pixel, and a picture of noise takes more.
    picture.save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def longest_sides_um(boxes: Boxes, *, mpp: float) -> NDArray[np.float64]:
    """Longest side in um of boxes in level-0 px."""
    sides = boxes.xyxy[:, 2:] - boxes.xyxy[:, :2]
    return np.asarray(sides.max(axis=1, initial=0.0) * mpp, dtype=np.float64)


def size_classes(longest_um: NDArray[np.float64]) -> NDArray[np.intp]:
    """Index into SIZE_CLASSES by longest side in um."""
    edges = np.array([size.from_um for size in SIZE_CLASSES[1:]])
    return np.searchsorted(edges, longest_um, side="right")


def _widen(frames: NDArray[np.float64]) -> NDArray[np.float64]:
    centre = (frames[:, :2] + frames[:, 2:]) / 2
    half = np.maximum((frames[:, 2:] - frames[:, :2]) / 2 + _MARGIN_PX, _SMALLEST_BOX_PX / 2)
    return np.concatenate([centre - half, centre + half], axis=1)


def _draw_frames(slide: Pillow.Image, frames: NDArray[np.float64], classes: NDArray[np.intp]) -> Pillow.Image:
    """Draw frames into one coverage mask per class, so that crowded fields stay transparent."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    large = (slide.width * _OVERSAMPLING, slide.height * _OVERSAMPLING)
    opacity = 0.92 if len(frames) < 4000 else 0.7
    for index, size in enumerate(SIZE_CLASSES):
        chosen = frames[classes == index] * _OVERSAMPLING
        if not len(chosen):
            continue
        mask = Pillow.new("L", large, 0)
        draw = ImageDraw.Draw(mask)
        for frame in chosen:
            draw.rectangle(frame.tolist(), outline=round(255 * opacity), width=_line_width(frame))
        slide.paste(size.colour, (0, 0, slide.width, slide.height), mask.reduce(_OVERSAMPLING))
    return slide


def _line_width(frame: NDArray[np.float64]) -> int:
    """Line width of frames in oversampled px; hairlines for small frames, which would cover their objects."""
    side = float(min(frame[2] - frame[0], frame[3] - frame[1])) / _OVERSAMPLING
    return 3 if side < 14 else 4 if side < 40 else 6


def _draw_legend(picture: Pillow.Image, *, top: int, classes: NDArray[np.intp], um_per_px: float) -> None:
    from PIL import ImageDraw

    draw = ImageDraw.Draw(picture)
    middle = top + LEGEND_PX // 2
    ink, quiet = "#2b2b2b", "#6f6f6f"
    font = _font(16)
    left = 18.0
    right = _draw_scale_bar(draw, picture.width - 18, middle, um_per_px, font=font, ink=ink)

    counts = np.bincount(classes, minlength=len(SIZE_CLASSES))
    total = f"{len(classes):,} object" + ("" if len(classes) == 1 else "s")
    left = _text(draw, left, middle, total, font=font, ink=ink) + 26
    for size, count in zip(SIZE_CLASSES, counts, strict=True):
        label = f"{size.label}  {count:,}"
        if not count or left + 22 + draw.textlength(label, font=font) > right - 20:
            continue
        draw.rectangle((left, middle - 6, left + 12, middle + 6), outline=size.colour, width=2)
        left = _text(draw, left + 20, middle, label, font=font, ink=quiet) + 24


def _font(size_px: int) -> FreeTypeFont:
    """Matplotlib's font: Pillow's built-in one has no µ, and the system may have none."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size_px)


def _text(draw: Draw, x: float, middle: int, text: str, *, font: FreeTypeFont, ink: str) -> float:
    """Write text from x on, and return the x at which it ends."""
    draw.text((x, middle), text, fill=ink, font=font, anchor="lm")
    return x + draw.textlength(text, font=font)


def _draw_scale_bar(
    draw: Draw, right: int, middle: int, um_per_px: float, *, font: FreeTypeFont, ink: str
) -> float:
    """Draw the scale bar and its label up to `right`, and return the x at which they begin."""
    length_um = round_length_um(200 * um_per_px)
    bar_px = length_um / um_per_px
    label = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"
    text_left = right - draw.textlength(label, font=font)
    _text(draw, text_left, middle, label, font=font, ink=ink)
    bar_right = text_left - 10
    draw.rectangle((bar_right - bar_px, middle - 2, bar_right, middle + 1), fill=ink)
    return bar_right - bar_px


def round_length_um(at_most_um: float) -> float:
    """The largest of 1, 2, 5, 10, 20, 50, … um that is not longer than this."""
    power = 10.0 ** np.floor(np.log10(max(at_most_um, 1e-6)))
    return float(max(step for step in (1, 2, 5) if step * power <= at_most_um * (1 + 1e-9)) * power)
