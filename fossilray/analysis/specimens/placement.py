"""Positions of scans on their glass slides, as the user or the scanner states them.

The glass is seen from above with its label at the left. ISO 8037-1:1986 gives microscope slides 76 by 26 mm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from fossilray.analysis.specimens.england_finder import FinderGrid, FinderReading, parse_reading
from fossilray.core.errors import UsageError
from fossilray.core.records import SlideSummary
from fossilray.core.table_rows import TableRow
from fossilray.core.user_table import read_user_table

Turn = Literal[0, 90, 180, 270]
"""Degrees by which the scan is turned clockwise to show the glass with its label at the left."""
TURNS: tuple[Turn, ...] = get_args(Turn)

_OFFSETS = ("hamamatsu.XOffsetFromSlideCentre", "hamamatsu.YOffsetFromSlideCentre")
"""Nanometres from the centre of the slide to the centre of the image, x to the right and y down (OpenSlide, Hamamatsu
format). Aperio's Left and Top are not used: converters differ on their axes and their origin (Bio-Formats 4081)."""


@dataclass(frozen=True)
class Glass:
    """Size of a glass slide."""

    width_mm: float = 76.0
    height_mm: float = 26.0


@dataclass(frozen=True)
class GlassPlacement:
    """Where a scan lies on its glass."""

    left_mm: float
    """From the left edge of the glass to the scanned area, which is turned."""
    top_mm: float
    """From the top edge of the glass to it."""
    turned: Turn
    source: str
    """What states it, as a phrase."""

    def on_glass(self, slide: SlideSummary, x_mm: float, y_mm: float) -> tuple[float, float]:
        """Return mm from the left and from the top edge of the glass of a point of the scanned area."""
        across, down = turn_point(slide, x_mm, y_mm, self.turned)
        return self.left_mm + across, self.top_mm + down


@dataclass(frozen=True)
class KnownReading:
    """A specimen whose reading was taken with a real England Finder, which locates all others of its slide."""

    object_id: int
    reading: FinderReading


@dataclass(frozen=True)
class StatedPlacement:
    """What a table states about one slide: a corner, or a known reading."""

    turned: Turn
    corner: tuple[float, float] | None
    known: KnownReading | None
    source: str


@dataclass(frozen=True)
class StatedPlacements:
    """What the user states about where scans lie on their glass, and squares of the finder on theirs."""

    corner: tuple[float, float] | None = None
    """mm from the left and the top edge of the glass to the scanned area, for slides without a line of their own."""
    turned: Turn = 0
    by_slide: Mapping[str, StatedPlacement] = field(default_factory=dict)
    glass: Glass = Glass()
    grid: FinderGrid = field(default_factory=FinderGrid)

    def locate(
        self,
        slide: SlideSummary,
        properties: Mapping[str, str],
        known_mm: tuple[float, float] | None = None,
    ) -> GlassPlacement | None:
        """Return where a scan lies by what the user states, else by what its scanner does; None if neither does.

        Args:
            properties: of the slide's file; empty if it is not available.
            known_mm: position in the scanned area of the slide's specimen of known reading.
        """
        stated = self.by_slide.get(slide.slide_id)
        if stated is not None and stated.known is not None:
            return None if known_mm is None else self._by_reading(slide, stated, stated.known, known_mm)
        if stated is not None and stated.corner is not None:
            return GlassPlacement(*stated.corner, stated.turned, stated.source)
        if self.corner is not None:
            return GlassPlacement(*self.corner, self.turned, "as --scan-corner states it")
        return _from_scanner(slide, properties, self.glass, self.turned)

    def read_finder(self, from_left_mm: float, from_top_mm: float) -> FinderReading | None:
        """Return the reading at a point of the glass; None beside the finder's squares."""
        return self.grid.read(from_left_mm, self.glass.height_mm - from_top_mm)

    def _by_reading(
        self, slide: SlideSummary, stated: StatedPlacement, known: KnownReading, known_mm: tuple[float, float]
    ) -> GlassPlacement:
        from_left, from_bottom = self.grid.locate(known.reading)
        across, down = turn_point(slide, *known_mm, stated.turned)
        return GlassPlacement(
            from_left - across,
            self.glass.height_mm - from_bottom - down,
            stated.turned,
            f"from the reading {known.reading} of object {known.object_id}, {stated.source}",
        )


def size_of_scan(slide: SlideSummary) -> tuple[float, float]:
    """Return width and height of the scanned area in mm."""
    return slide.bounds_width * slide.mpp / 1000, slide.bounds_height * slide.mpp / 1000


def turn_point(slide: SlideSummary, x_mm: float, y_mm: float, turned: Turn) -> tuple[float, float]:
    """Return a point of the scanned area in mm from the top left corner of the area as it is turned."""
    width, height = size_of_scan(slide)
    return {
        0: (x_mm, y_mm),
        90: (height - y_mm, x_mm),
        180: (width - x_mm, height - y_mm),
        270: (y_mm, width - x_mm),
    }[turned]


def read_placements(path: Path, *, turned: Turn = 0) -> dict[str, StatedPlacement]:
    """Read a table of slide_id with left_mm and top_mm, or with object_id and england_finder; turned.

    turned: of lines that state none.

    Raises:
        UsageError: the file is no such table, a slide has two lines, or a line states nothing, or both.
    """
    optional = ("left_mm", "top_mm", "turned", "object_id", "england_finder")
    table = read_user_table(
        path, use="positions of scans on their slides", columns=("slide_id",), optional=optional
    )
    stated: dict[str, StatedPlacement] = {}
    for row in table.rows:
        slide_id = row["slide_id"]
        if slide_id in stated:
            raise row.error(f"slide {slide_id} has a line already; keep one", "slide_id")
        left, top, known = row.number("left_mm"), row.number("top_mm"), _known_reading(row)
        has_corner = left is not None and top is not None
        if has_corner == (known is not None):
            raise row.error("give either left_mm and top_mm, or object_id and england_finder")
        stated[slide_id] = StatedPlacement(
            _turn(row, turned),
            None if left is None or top is None else (left, top),
            known,
            f"as {path.name} states it",
        )
    return stated


def _known_reading(row: TableRow) -> KnownReading | None:
    if not row["england_finder"]:
        return None
    try:
        return KnownReading(row.object_id("object_id"), parse_reading(row["england_finder"]))
    except UsageError as error:
        raise row.error(str(error), "england_finder") from None


def _turn(row: TableRow, default: Turn) -> Turn:
    if not row["turned"]:
        return default
    turned = next((turn for turn in TURNS if row.number("turned") == turn), None)
    if turned is None:
        raise row.error(f"turned is {row['turned']!r:.40}; give 0, 90, 180 or 270", "turned")
    return turned


def _from_scanner(
    slide: SlideSummary, properties: Mapping[str, str], glass: Glass, turned: Turn
) -> GlassPlacement | None:
    try:
        right_nm, down_nm = (float(properties[name]) for name in _OFFSETS)
    except (KeyError, ValueError):
        return None
    mm = slide.mpp / 1000
    # The middle of the scanned area, from the middle of the glass.
    right = right_nm / 1e6 + (slide.bounds_x + slide.bounds_width / 2 - slide.width / 2) * mm
    down = down_nm / 1e6 + (slide.bounds_y + slide.bounds_height / 2 - slide.height / 2) * mm
    across, along = {0: (right, down), 90: (-down, right), 180: (-right, -down), 270: (down, -right)}[turned]
    width, height = size_of_scan(slide)
    if turned in (90, 270):
        width, height = height, width
    return GlassPlacement(
        glass.width_mm / 2 + across - width / 2,
        glass.height_mm / 2 + along - height / 2,
        turned,
        "as the scanner states it (hamamatsu.XOffsetFromSlideCentre), on glass of "
        f"{glass.width_mm:g} x {glass.height_mm:g} mm",
    )
