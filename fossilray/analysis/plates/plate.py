"""A plate from its specimens to its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fossilray.analysis.plates.caption import caption_text, compose_caption
from fossilray.analysis.plates.draw import (
    BAR_STRIP_MM,
    LEADING_MM,
    MARGIN_MM,
    common_bar_um,
    draw_plate,
    format_length,
    own_bar_um,
    set_lines,
)
from fossilray.analysis.plates.layout import PlateLayout, lay_out_grid, lay_out_scaled, letters_of
from fossilray.analysis.plates.pictures import SpecimenPicture, read_pictures
from fossilray.analysis.specimens.citation import Citation
from fossilray.analysis.specimens.slide_files import AvailableFiles
from fossilray.core.atomic_files import write_atomically
from fossilray.core.config.choices import PlateLetters, PlateScale
from fossilray.core.errors import UsageError
from fossilray.core.text import counted
from fossilray.store import RunStore

PLATE_SUFFIXES = (".pdf", ".svg", ".png")
MOST_SPECIMENS = 100
SMALLEST_PICTURE_MM = 8.0

_MM_PER_IN = 25.4


@dataclass(frozen=True)
class PlateOptions:
    """How a plate is laid out."""

    title: str = ""
    letters: PlateLetters = "upper"
    scale: PlateScale = "each"
    columns: int | None = None
    """Pictures in a row of equal squares; None: as many as make them largest."""
    width_mm: float = 170.0
    """Of the page; 170 x 230 mm is the type area of many journals."""
    height_mm: float = 230.0
    """Of the page, at most."""
    caption_file: Path | None = None
    """Takes the caption, which is then not on the plate."""


@dataclass(frozen=True)
class WrittenPlate:
    """What is on a plate that was written."""

    caption: str
    reduced: tuple[tuple[str, str], ...]
    """Letters of the specimens whose stored crops are shown, with the reason."""
    fewest_px_per_in: float
    """Of the coarsest picture as it is printed."""


def write_plate(
    store: RunStore, citations: Sequence[Citation], files: AvailableFiles, out: Path, options: PlateOptions
) -> WrittenPlate:
    """Write the plate of specimens in their order.

    Raises:
        UsageError: the name of the file states another format, there are too many specimens for the page, or a file
            cannot be written.
    """
    if out.suffix.lower() not in PLATE_SUFFIXES:
        raise UsageError(f"{out} is none of {', '.join(PLATE_SUFFIXES)}; name the file of the plate so")
    if len(citations) > MOST_SPECIMENS:
        raise UsageError(
            f"a plate takes {MOST_SPECIMENS} specimens at most, and {len(citations)} are chosen; make several"
        )
    letters = letters_of(len(citations), options.letters)
    specimens = [citation.specimen for citation in citations]
    pictures = read_pictures(store, specimens, files, is_square=options.scale == "each")
    reduced = [
        (letter, picture.why_reduced)
        for letter, picture in zip(letters, pictures, strict=True)
        if picture.why_reduced is not None
    ]
    bars_um = (
        {common_bar_um(pictures)}
        if options.scale == "common"
        else {own_bar_um(picture) for picture in pictures}
    )
    words = compose_caption(
        options.title,
        citations,
        letters,
        bar=format_length(bars_um.pop()) if len(bars_um) == 1 else None,
        bars=len(pictures) if options.scale == "each" else 1,
        reduced=[letter for letter, _ in reduced],
    )
    inner = options.width_mm - 2 * MARGIN_MM
    lines = set_lines(words, width_mm=inner) if options.caption_file is None else []
    room = options.height_mm - 2 * MARGIN_MM - (LEADING_MM * len(lines) + 3.0 if lines else 0.0)
    layout = _lay_out(pictures, inner, room, options)
    content = draw_plate(
        pictures, letters, layout, lines, width_mm=options.width_mm, form=out.suffix.lower().removeprefix(".")
    )
    write_atomically(out, content)
    caption = caption_text(words)
    if options.caption_file is not None:
        write_atomically(options.caption_file, f"{caption}\n")
    fewest = min(
        picture.image.shape[1] / spot.width * _MM_PER_IN
        for picture, spot in zip(pictures, layout.spots, strict=True)
    )
    return WrittenPlate(caption, tuple(reduced), fewest)


def _lay_out(
    pictures: Sequence[SpecimenPicture], width_mm: float, height_mm: float, options: PlateOptions
) -> PlateLayout:
    """Lay pictures out on the page.

    Raises:
        UsageError: the caption leaves too little room for them.
    """
    room = height_mm - (BAR_STRIP_MM if options.scale == "common" else 0.0)
    smallest = room
    if min(width_mm, room) >= SMALLEST_PICTURE_MM:
        if options.scale == "each":
            layout = lay_out_grid(len(pictures), width_mm=width_mm, height_mm=room, columns=options.columns)
        else:
            sizes = [(picture.width_um, picture.height_um) for picture in pictures]
            layout = lay_out_scaled(sizes, width_mm=width_mm, height_mm=room)
        smallest = max(max(spot.width, spot.height) for spot in layout.spots)
        if smallest >= SMALLEST_PICTURE_MM:
            return layout
    raise UsageError(
        f"{counted(len(pictures), 'specimen')} and the caption leave {max(smallest, 0):.1f} mm for a picture on a page "
        f"of {options.width_mm:g} x {options.height_mm:g} mm; choose fewer, a larger --page, or give --caption-file"
    )
