"""Contact sheets: grids of equal cells, plates of images with captions, and their output files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fossilray.core.atomic_files import write_atomically
from fossilray.core.errors import UsageError
from fossilray.core.text import strip_control_characters
from fossilray.core.types import Image
from fossilray.render.html import encode_picture

Rgb = tuple[int, int, int]

GROUND: Rgb = (252, 251, 248)
INK: Rgb = (36, 33, 28)
FAINT: Rgb = (113, 106, 95)

SHEET_SUFFIXES = (".html", ".png", ".jpg", ".jpeg")
"""Files that a sheet can be written to: a page without scripts, or one picture."""

Ink = Literal["ink", "faint"]


def tile_grid(
    cells: Sequence[Image] | NDArray[np.uint8], *, columns: int, gap_px: int = 0, ground: Rgb = GROUND
) -> Image:
    """Put equal cells into a grid, row by row.

    Args:
        cells: one or more images (h, w, 3) uint8 of one size.
        columns: cells of a row; fewer where there are fewer cells.
        gap_px: pixels between cells; the border of the grid has none.
        ground: colour of gaps and of cells that the last row lacks.

    Returns:
        (rows * (h + gap_px) - gap_px, columns * (w + gap_px) - gap_px, 3) uint8.
    """
    columns = min(columns, len(cells))
    height, width = cells[0].shape[:2]
    rows = -(-len(cells) // columns)
    shape = (rows * (height + gap_px) - gap_px, columns * (width + gap_px) - gap_px, 3)
    grid = np.empty(shape, np.uint8)
    grid[:] = ground
    for number, cell in enumerate(cells):
        top, left = number // columns * (height + gap_px), number % columns * (width + gap_px)
        grid[top : top + height, left : left + width] = cell
    return grid


class Plate:
    """A picture to which images and captions are added; positions are pixels from the top left corner."""

    def __init__(self, width: int, height: int) -> None:
        from PIL import Image as Pillow
        from PIL import ImageDraw

        self._image = Pillow.new("RGB", (width, height), GROUND)
        self._draw = ImageDraw.Draw(self._image)

    def add_image(self, image: Image, left: int, top: int) -> None:
        """Paste an image (h, w, 3) uint8."""
        from PIL import Image as Pillow

        self._image.paste(Pillow.fromarray(image), (left, top))

    def add_frame(self, left: int, top: int, right: int, bottom: int, colour: Rgb) -> None:
        """Draw a frame 2 px wide whose outer corners are given."""
        self._draw.rectangle((left, top, right, bottom), outline=colour, width=2)

    def add_text(
        self, text: str, left: int, top: int, *, size: int, ink: Ink = "ink", width: int | None = None
    ) -> None:
        """Write one line; what is wider than `width` px is cut and ends in an ellipsis."""
        font = _font(size)
        line = strip_control_characters(text)
        if width is not None:
            while line and self._draw.textlength(line, font) > width:
                line = line[:-2].rstrip("…") + "…" if len(line) > 2 else ""
        self._draw.text((left, top), line, INK if ink == "ink" else FAINT, font)

    def to_image(self) -> Image:
        """The plate as (height, width, 3) uint8."""
        return np.asarray(self._image)


def wrap_text(text: str, *, size: int, width: int) -> list[str]:
    """Lines of a text that are at most `width` px wide, broken between words, or within a word that is wider."""
    font = _font(size)
    lines = [""]
    for word in strip_control_characters(text).split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines


def require_sheet_suffix(out: Path, *, option: str) -> None:
    """Refuse a file name that stands for neither a page nor a picture.

    Raises:
        UsageError: the suffix is not one of SHEET_SUFFIXES; the message names `option`.
    """
    if out.suffix.lower() not in SHEET_SUFFIXES:
        raise UsageError(f"{option} {out} is neither .html nor .png nor .jpg; choose one of these")


def write_sheet(out: Path, *, page: Callable[[], str], picture: Callable[[], Image], option: str) -> None:
    """Write a sheet as the page or the picture that the suffix of `out` names; only that one is made.

    Raises:
        UsageError: another suffix, or the file cannot be written.
    """
    require_sheet_suffix(out, option=option)
    if out.suffix.lower() == ".html":
        write_atomically(out, page())
    else:
        write_atomically(out, encode_picture(picture(), out.suffix))


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)
