"""Drawing of a plate by matplotlib for print: pictures are embedded at their own resolution."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fossilray.analysis.plates.caption import CaptionWord
from fossilray.analysis.plates.layout import PlateLayout, Spot
from fossilray.analysis.plates.pictures import SpecimenPicture
from fossilray.render.slide_overview import round_length_um

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

MARGIN_MM = 4.0
"""Around the page."""
BAR_STRIP_MM = 8.0
"""Below the pictures, for a scale bar of all of them."""
CAPTION_PT = 7.5
LEADING_MM = 3.4
"""Between lines of the caption."""
BAR_SHARE = 0.3
"""Of the width of a picture, at most, that its scale bar takes."""

_MM_PER_IN = 25.4
_INK, _HALO = "black", "white"
_DPI = 600


@dataclass(frozen=True)
class PlateLine:
    """A line of a caption: its words, each with its distance in mm from the left."""

    words: tuple[tuple[float, CaptionWord], ...]


def set_lines(words: Sequence[CaptionWord], *, width_mm: float) -> list[PlateLine]:
    """Break a caption into lines."""
    from matplotlib.textpath import TextToPath

    metrics = TextToPath()

    def width_of(text: str, word: CaptionWord) -> float:
        with plate_style():
            points = metrics.get_text_width_height_descent(text, _font(word), ismath=False)[0]
        return float(points) / 72 * _MM_PER_IN

    space = width_of("x x", CaptionWord("")) - width_of("xx", CaptionWord(""))
    lines: list[PlateLine] = []
    line: list[tuple[float, CaptionWord]] = []
    left = 0.0
    for group in _unbroken(words):
        widths = [width_of(word.text, word) for word in group]
        if line and left + sum(widths) + space * (len(group) - 1) > width_mm:
            lines.append(PlateLine(tuple(line)))
            line, left = [], 0.0
        for word, width in zip(group, widths, strict=True):
            line.append((left, word))
            left += width + space
    return [*lines, PlateLine(tuple(line))] if line else lines


def _unbroken(words: Sequence[CaptionWord]) -> Iterator[list[CaptionWord]]:
    """Groups of words that stand on one line."""
    group: list[CaptionWord] = []
    for word in words:
        group.append(word)
        if not word.keeps_next:
            yield group
            group = []
    if group:
        yield group


def draw_plate(
    pictures: Sequence[SpecimenPicture],
    letters: Sequence[str],
    layout: PlateLayout,
    lines: Sequence[PlateLine],
    *,
    width_mm: float,
    form: str,
) -> bytes:
    """Return the file of a plate.

    Args:
        layout: positions of the pictures.
        lines: of the caption, below the pictures.
        width_mm: of the page; its height follows.
        form: `pdf`, `svg` or `png`.
    """
    from matplotlib.figure import Figure

    strip = 0.0 if layout.mm_per_um is None else BAR_STRIP_MM
    caption = LEADING_MM * len(lines) + (3.0 if lines else 0.0)
    height_mm = 2 * MARGIN_MM + layout.height_mm + strip + caption
    with plate_style():
        figure = Figure(figsize=(width_mm / _MM_PER_IN, height_mm / _MM_PER_IN), facecolor="white")
        page = _Page(figure, width_mm, height_mm)
        for picture, letter, spot in zip(pictures, letters, layout.spots, strict=True):
            axes = page.show(picture, spot)
            _put_letter(axes, letter, spot)
            if layout.mm_per_um is None:
                page.put_bar(axes, own_bar_um(picture), spot.width / picture.width_um, spot)
        top = MARGIN_MM + layout.height_mm
        if layout.mm_per_um is not None:
            page.put_common_bar(common_bar_um(pictures), layout.mm_per_um, top + BAR_STRIP_MM)
        for number, line in enumerate(lines, start=1):
            page.write(line, top + strip + 3.0 + LEADING_MM * (number - 0.3))
        sink = io.BytesIO()
        metadata = {
            "pdf": {"CreationDate": None, "Creator": "fossilray"},
            "svg": {"Date": None, "Creator": "fossilray"},
        }.get(form, {"Software": "fossilray"})
        figure.savefig(sink, format=form, dpi=_DPI, metadata=metadata)
    return sink.getvalue()


def own_bar_um(picture: SpecimenPicture) -> float:
    """Length of the scale bar of a picture of its own magnification."""
    return round_length_um(BAR_SHARE * picture.width_um)


def common_bar_um(pictures: Sequence[SpecimenPicture]) -> float:
    """Length of the scale bar of pictures at one magnification."""
    widths = sorted(picture.width_um for picture in pictures)
    return round_length_um(0.6 * widths[len(widths) // 2])


def format_length(length_um: float) -> str:
    """A length with its unit: `20 µm`."""
    return f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"


@contextmanager
def plate_style() -> Iterator[None]:
    """Apply the style of plates: fonts are embedded in a PDF, and letters are paths in an SVG."""
    import matplotlib as mpl

    with mpl.rc_context(
        {
            "pdf.fonttype": 42,
            "svg.fonttype": "path",
            "svg.hashsalt": "plate",
            "text.parse_math": False,
            # Letters stand as far apart in every format as they were measured.
            "text.hinting": "no_hinting",
            "text.hinting_factor": 1,
            "font.family": "sans-serif",
            "font.sans-serif": ["Helvetica", "Arial", "Liberation Sans", "DejaVu Sans"],
            "font.size": CAPTION_PT,
        }
    ):
        yield


class _Page:
    """A figure in millimetres from its top left corner."""

    def __init__(self, figure: Figure, width_mm: float, height_mm: float) -> None:
        self._figure, self._width, self._height = figure, width_mm, height_mm

    def show(self, picture: SpecimenPicture, spot: Spot) -> Axes:
        axes = self._axes(spot.left + MARGIN_MM, spot.top + MARGIN_MM, spot.width, spot.height)
        # Without interpolation, vector formats hold the pixels as they are.
        axes.imshow(
            picture.image, interpolation="none", aspect="auto", extent=(0, spot.width, 0, spot.height)
        )
        return axes

    def put_bar(self, axes: Axes, length_um: float, mm_per_um: float, spot: Spot) -> None:
        inset = 0.05 * spot.width
        self._bar(axes, spot.width - inset - length_um * mm_per_um, inset, length_um, mm_per_um)

    def put_common_bar(self, length_um: float, mm_per_um: float, bottom_mm: float) -> None:
        inner = self._width - 2 * MARGIN_MM
        axes = self._axes(MARGIN_MM, bottom_mm - BAR_STRIP_MM, inner, BAR_STRIP_MM)
        axes.set_xlim(0, inner)
        axes.set_ylim(0, BAR_STRIP_MM)
        self._bar(axes, inner - length_um * mm_per_um, 1.2, length_um, mm_per_um)

    def write(self, line: PlateLine, baseline_mm: float) -> None:
        for left, word in line.words:
            self._figure.text(
                (MARGIN_MM + left) / self._width,
                1 - baseline_mm / self._height,
                word.text,
                fontproperties=_font(word),
                va="baseline",
                color=_INK,
            )

    def _axes(self, left: float, top: float, width: float, height: float) -> Axes:
        axes = self._figure.add_axes(
            (
                left / self._width,
                1 - (top + height) / self._height,
                width / self._width,
                height / self._height,
            )
        )
        axes.set_axis_off()
        return axes

    def _bar(self, axes: Axes, left: float, bottom: float, length_um: float, mm_per_um: float) -> None:
        from matplotlib.patches import Rectangle

        width = length_um * mm_per_um
        axes.add_patch(Rectangle((left, bottom), width, 0.6, facecolor=_INK, edgecolor=_HALO, linewidth=0.4))
        axes.text(
            left + width / 2,
            bottom + 1.1,
            format_length(length_um),
            ha="center",
            va="bottom",
            fontsize=7,
            color=_INK,
            path_effects=_halo(),
        )


def _put_letter(axes: Axes, letter: str, spot: Spot) -> None:
    inset = max(0.04 * min(spot.width, spot.height), 0.8)
    axes.text(
        inset,
        spot.height - inset,
        letter,
        ha="left",
        va="top",
        fontsize=11,
        fontweight="bold",
        color=_INK,
        path_effects=_halo(),
    )


def _halo() -> list[object]:
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=1.6, foreground=_HALO)]


def _font(word: CaptionWord) -> FontProperties:
    from matplotlib.font_manager import FontProperties

    return FontProperties(
        family="sans-serif",
        size=CAPTION_PT,
        weight="bold" if word.is_bold else "normal",
        style="italic" if word.is_italic else "normal",
    )
