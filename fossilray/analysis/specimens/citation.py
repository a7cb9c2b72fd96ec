"""Citations of specimens: a stable link, the position in the scan and on the glass, and a finder's reading."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fossilray.analysis.specimens.england_finder import FinderReading
from fossilray.analysis.specimens.placement import GlassPlacement, StatedPlacements
from fossilray.analysis.specimens.specimens import RunSpecimen, centre_in_scan
from fossilray.core.records import UNASSIGNED_WELL, SlideSummary
from fossilray.core.text import counted

ReadProperties = Callable[[SlideSummary], Mapping[str, str]]
"""Gives the properties of a slide's file; none if it is not available."""
FindBox = Callable[[str, int], Sequence[int]]
"""Gives the box of an object by slide_id and object_id."""


@dataclass(frozen=True)
class Citation:
    """A specimen and where it is."""

    specimen: RunSpecimen
    placement: GlassPlacement | None
    """Where the scan lies on its glass; None if nothing states it."""
    from_edges_mm: tuple[float, float] | None
    """From the left and from the top edge of the glass to the middle of the specimen's box."""
    reading: FinderReading | None
    """None if the position is unknown or beside the finder's squares."""

    @property
    def finder_text(self) -> str:
        """The reading as it is printed; empty without one."""
        return "" if self.reading is None else f"EF {self.reading}"


CITATION_COLUMNS = (
    *("slide_id", "object_id", "taxon", "taxon_from", "well", "top_depth_m", "base_depth_m"),
    *("x_scan_mm", "y_scan_mm", "from_left_mm", "from_top_mm", "england_finder", "placed"),
    *("width_um", "height_um", "link", "remark"),
)
"""Columns of the table of citations."""


class Citer:
    """Cites specimens by what is known about the positions of scans; each slide is located once."""

    def __init__(
        self, stated: StatedPlacements, *, read_properties: ReadProperties, find_box: FindBox
    ) -> None:
        self.stated = stated
        self._read_properties = read_properties
        self._find_box = find_box
        self._placements: dict[str, GlassPlacement | None] = {}

    def cite(self, specimen: RunSpecimen) -> Citation:
        """Return the citation of a specimen."""
        placement = self.locate(specimen.slide)
        if placement is None:
            return Citation(specimen, None, None, None)
        edges = placement.on_glass(specimen.slide, *specimen.centre_mm)
        return Citation(specimen, placement, edges, self.stated.read_finder(*edges))

    def locate(self, slide: SlideSummary) -> GlassPlacement | None:
        """Return where a scan lies on its glass; None if nothing states it."""
        if slide.slide_id not in self._placements:
            stated = self.stated.by_slide.get(slide.slide_id)
            known_mm = None
            if stated is not None and stated.known is not None:
                known_mm = centre_in_scan(slide, self._find_box(slide.slide_id, stated.known.object_id))
            self._placements[slide.slide_id] = self.stated.locate(
                slide, self._read_properties(slide), known_mm
            )
        return self._placements[slide.slide_id]


def describe(citation: Citation) -> str:
    """Return a citation as a line of text."""
    specimen = citation.specimen
    x_mm, y_mm = specimen.centre_mm
    parts = [
        specimen.taxon or "undetermined",
        f"slide {specimen.slide.slide_id}, object {specimen.object_id}",
        *filter(None, [describe_site(specimen.slide)]),
        f"{x_mm:.3f} mm right of and {y_mm:.3f} mm below the corner of the scan",
    ]
    if citation.from_edges_mm is not None:
        left, top = citation.from_edges_mm
        parts.append(f"{left:.2f} mm from the left and {top:.2f} mm from the top edge of the glass")
        parts.append(f"England Finder {citation.reading or 'none: beside its squares'}")
    return f"{'; '.join(parts)}. {specimen.link}"


def describe_site(slide: SlideSummary) -> str:
    """Return well and depth of a slide as they are known: `6407/6-5, 2030-2040 m`."""
    well = "" if slide.well == UNASSIGNED_WELL else slide.well
    return ", ".join(filter(None, (well, describe_depth(slide))))


def describe_depth(slide: SlideSummary) -> str:
    """Return the depth of a slide, or the interval of its sample, with the unit; empty if it is unknown."""
    top, base = interval_of(slide)
    if top is None or base is None:
        return ""
    return f"{top:.10g} m" if top == base else f"{top:.10g}\N{EN DASH}{base:.10g} m"


def interval_of(slide: SlideSummary) -> tuple[float | None, float | None]:
    """Return top and base of a slide's sample in m of measured depth."""
    if slide.top_depth_m is None or slide.base_depth_m is None:
        return slide.measured_depth_m, slide.measured_depth_m
    return slide.top_depth_m, slide.base_depth_m


def row_of(citation: Citation) -> tuple[str | int | float | None, ...]:
    """Return the cells of CITATION_COLUMNS; texts are as they are."""
    specimen = citation.specimen
    slide = specimen.slide
    left, top = citation.from_edges_mm or (None, None)
    return (
        slide.slide_id,
        specimen.object_id,
        specimen.taxon,
        specimen.taxon_from,
        None if slide.well == UNASSIGNED_WELL else slide.well,
        *interval_of(slide),
        *(round(value, 4) for value in specimen.centre_mm),
        None if left is None else round(left, 3),
        None if top is None else round(top, 3),
        None if citation.reading is None else str(citation.reading),
        None if citation.placement is None else citation.placement.source,
        round(specimen.width_um, 2),
        round(specimen.height_um, 2),
        str(specimen.link),
        specimen.remark or None,
    )


def explain_placements(citations: Sequence[Citation], stated: StatedPlacements) -> list[str]:
    """Return sentences on what the positions and readings rest on."""
    sentences = []
    missing = {citation.specimen.slide.slide_id for citation in citations if citation.placement is None}
    if missing:
        sentences.append(
            f"Where the scan lies on its glass is unknown for {counted(len(missing), 'slide')}, so that distances from "
            "the edges and England Finder readings are left out; --scan-corner or --placement states it."
        )
    sources = sorted(
        {placement.source for citation in citations if (placement := citation.placement) is not None}
    )
    sentences += [f"Positions on the glass are {source}." for source in sources]
    if sources:
        grid, glass = stated.grid, stated.glass
        sentences.append(
            "Assumed of the glass: its label is at the left, and it is "
            f"{glass.width_mm:g} x {glass.height_mm:g} mm. Assumed of the England Finder: it lies against the same "
            f"left and bottom edge; column 1 begins {grid.left_mm:g} mm from the left and row Z {grid.bottom_mm:g} mm "
            "from the bottom edge; A is the top row; the segments are 1 top left, 2 top right, 3 bottom left, 4 "
            f"bottom right; 0 is the ring of {grid.ring_mm:g} mm. Read one specimen with your finder before you "
            "publish a reading."
        )
    return sentences
