"""Which formats of slides are known well enough to find their tiles without OpenSlide."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fossilray.core.records import SlideInfo
from fossilray.slides.mirax.layout import read_mirax_layout
from fossilray.slides.tiff.layout import read_tiff_layout
from fossilray.slides.tile_layout import SlideLayout


def _mirax_layout(info: SlideInfo) -> SlideLayout:
    return read_mirax_layout(Path(info.path))


def _tiff_layout(info: SlideInfo) -> SlideLayout:
    return read_tiff_layout(Path(info.path), info.levels, are_gaps_empty=True)


def _aperio_layout(info: SlideInfo) -> SlideLayout:
    # OpenSlide fills what is missing from the next coarser level.
    return read_tiff_layout(Path(info.path), info.levels, are_gaps_empty=False)


LAYOUTS: dict[str, Callable[[SlideInfo], SlideLayout]] = {
    "mirax": _mirax_layout,
    "generic-tiff": _tiff_layout,
    "aperio": _aperio_layout,
}
"""By the vendor: the layout of a slide. Each raises OSError or ValueError where it is not as known."""
