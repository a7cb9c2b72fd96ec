"""The figures of a report: from every slide's summary, and from the objects of a bounded sample of slides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fossilray.analysis.report.figures import DepthSample, Distributions, Spread
from fossilray.core.records import UNASSIGNED_WELL, SlideSummary, lost_share_of
from fossilray.render.slide_overview import SIZE_CLASSES
from fossilray.store.query.connection import query_table

if TYPE_CHECKING:
    from fossilray.store.query.connection import Connection

MOST_SAMPLED_SLIDES = 240
"""Slides whose objects are looked at: five million objects at the archive's mean."""
MOST_WELLS = 12
MOST_ROWS_WITHOUT_DEPTH = 60
MOST_VALUES = 400_000
"""Values behind a histogram; more would not move a bar by a pixel."""


@dataclass(frozen=True)
class Totals:
    """Sums over all committed slides."""

    slides: int
    wells: int
    """Wells that have a name."""
    objects: int
    scanned_mm2: float
    tiles_planned: int
    tiles_blank: int
    tiles_read: int
    tiles_failed: int
    crops_coarser: int
    crops_failed: int
    array_bytes: int
    seconds_total: float
    lost_share: float
    """Share of the foreground that the finest pass could not read."""
    boxes_outside: int

    @property
    def objects_per_mm2(self) -> float:
        return self.objects / self.scanned_mm2 if self.scanned_mm2 > 0 else 0.0


@dataclass(frozen=True)
class WellChart:
    """What a depth chart of one well is drawn from, and what it leaves out."""

    well: str
    samples: tuple[DepthSample, ...]
    slides: int
    objects: int
    left_out: int
    """Slides without a depth in a well where others have one, or beyond what fits."""

    @property
    def has_depths(self) -> bool:
        return self.samples[0].depth_m is not None


@dataclass(frozen=True)
class Example:
    """A question with its SQL and the answer."""

    question: str
    sql: str
    answer: pa.Table

    @property
    def numeric(self) -> list[bool]:
        """Which columns of the answer hold numbers."""
        kinds = self.answer.schema.types
        return [
            pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
            for kind in kinds
        ]


def total(slides: Sequence[SlideSummary]) -> Totals:
    """Totals of these slides."""
    return Totals(
        slides=len(slides),
        wells=len({slide.well for slide in slides} - {UNASSIGNED_WELL}),
        objects=sum(slide.objects for slide in slides),
        scanned_mm2=sum(slide.scanned_mm2 for slide in slides),
        tiles_planned=sum(slide.tiles_planned for slide in slides),
        tiles_blank=sum(slide.tiles_blank for slide in slides),
        tiles_read=sum(slide.tiles_read for slide in slides),
        tiles_failed=sum(slide.tiles_failed for slide in slides),
        crops_coarser=sum(slide.crops_coarser for slide in slides),
        crops_failed=sum(slide.crops_failed for slide in slides),
        array_bytes=sum(slide.array_bytes for slide in slides),
        seconds_total=sum(slide.seconds_total for slide in slides),
        lost_share=lost_share_of(slides),
        boxes_outside=sum(slide.boxes_outside or 0 for slide in slides),
    )


def by_depth(slides: Iterable[SlideSummary]) -> list[SlideSummary]:
    """Slides well by well, each from the top down; those without a depth last."""
    return sorted(
        slides,
        key=lambda s: (s.well, s.measured_depth_m is None, s.measured_depth_m or 0.0, s.slide_id),
    )


def subsample_by_depth(slides: Sequence[SlideSummary], most: int) -> list[SlideSummary]:
    """At most that many slides, evenly taken from the order given."""
    if len(slides) <= most:
        return list(slides)
    return [slides[i] for i in np.linspace(0, len(slides) - 1, most).round().astype(int)]


def choose_sample(slides: Sequence[SlideSummary]) -> list[SlideSummary]:
    """The slides whose objects a report looks at: those of the charted wells first, evenly over their depths."""
    charted = set(charted_wells(slides))
    outside = by_depth(slide for slide in slides if slide.well not in charted)
    most = MOST_SAMPLED_SLIDES * 3 // 4 if outside else MOST_SAMPLED_SLIDES
    inside = subsample_by_depth(by_depth(slide for slide in slides if slide.well in charted), most)
    return inside + subsample_by_depth(outside, MOST_SAMPLED_SLIDES - len(inside))


def chart_wells(con: Connection, slides: Sequence[SlideSummary]) -> Iterator[WellChart]:
    """The wells with most slides, by name; counts from all their slides, measures from the view `objects`."""
    measures = _measures(con)
    for well in sorted(charted_wells(slides), key=lambda well: (well == UNASSIGNED_WELL, well)):
        own = by_depth(slide for slide in slides if slide.well == well)
        with_depth = [slide for slide in own if slide.measured_depth_m is not None]
        shown = with_depth or own[:MOST_ROWS_WITHOUT_DEPTH]
        groups: dict[float | str, list[SlideSummary]] = {}
        for slide in shown:
            key = slide.slide_id if slide.measured_depth_m is None else slide.measured_depth_m
            groups.setdefault(key, []).append(slide)
        yield WellChart(
            well=well,
            samples=tuple(_sample(group, measures.get((well, key))) for key, group in groups.items()),
            slides=len(own),
            objects=sum(slide.objects for slide in own),
            left_out=len(own) - len(shown),
        )


def measure_distributions(con: Connection) -> Distributions:
    """Measures of the objects in view, thinned evenly if there are very many."""
    count = query_table(con, "SELECT count(*) AS count FROM objects")["count"][0].as_py()
    step = max(count // MOST_VALUES, 1)
    found = query_table(
        con,
        "SELECT greatest(width_um, height_um)::DOUBLE AS longest_um, opacity::DOUBLE AS opacity, "
        f"sharpness::DOUBLE AS sharpness, score::DOUBLE AS score FROM objects WHERE object_id % {step} = 0",
    )
    columns = {
        name: np.array(found[name].to_numpy(zero_copy_only=False), dtype=np.float64)
        for name in found.column_names
    }
    return Distributions(**columns)


def write_headline(slides: Sequence[SlideSummary], sizes_um: NDArray[np.float64]) -> list[str]:
    """What the run found, in a few plain sentences."""
    totals = total(slides)
    if not slides:
        return ["No slide is committed yet."]
    wells = f" of {_count(totals.wells, 'well')}" if totals.wells else ""
    told = (
        f"{_count(totals.slides, 'slide')}{wells}, {shorten(totals.scanned_mm2)} mm² of scan, "
        f"{'holds' if totals.slides == 1 else 'hold'} {_count(totals.objects, 'object')}"
    )
    if not totals.objects:
        return [told + "."]
    quarter, three_quarters = np.quantile(sizes_um, [0.25, 0.75]) if len(sizes_um) else (0.0, 0.0)
    sentences = [
        f"{told}: {shorten(totals.objects_per_mm2)} per mm², half of them between {quarter:.0f} and "
        f"{three_quarters:.0f} µm long."
    ]
    sentences += _describe_densest(slides)
    return sentences


def shorten(number: float) -> str:
    """Three significant digits, and never fewer than the whole part has."""
    return f"{number:,.3g}" if abs(number) < 999.5 else f"{number:,.0f}"


def example_queries(con: Connection) -> Iterator[Example]:
    """Questions a palynologist may ask, answered on the views of a connection."""
    for question, sql in _EXAMPLES:
        yield Example(question, sql, query_table(con, sql))


_EXAMPLES = (
    (
        "How many objects per mm² at each depth?",
        """\
SELECT well, measured_depth_m AS depth_m,
       sum(objects) AS objects,
       round(sum(objects) / sum(scanned_mm2), 1) AS per_mm2
FROM slides
GROUP BY ALL
ORDER BY well, depth_m
LIMIT 12""",
    ),
    (
        "Do the objects darken downwards, as they do when heated?",
        """\
SELECT well, measured_depth_m AS depth_m,
       count(*) AS objects,
       round(median(opacity), 3) AS median_opacity
FROM objects
WHERE greatest(width_um, height_um) BETWEEN 15 AND 150
GROUP BY ALL
ORDER BY well, depth_m
LIMIT 12""",
    ),
    (
        "Which are single, whole and sharp enough to label first?",
        """\
SELECT slide_id, object_id,
       round(width_um) AS width_um,
       round(height_um) AS height_um,
       round(sharpness) AS sharpness
FROM objects
WHERE isolated AND NOT touches_edge AND score > 0.6
  AND least(width_um, height_um) > 20
ORDER BY sharpness DESC, slide_id, object_id
LIMIT 8""",
    ),
    (
        "How many are long and thin, as fibres and hyphae are?",
        """\
SELECT CASE WHEN elongation < 1.5 THEN 'below 1.5'
            WHEN elongation < 3 THEN '1.5 to 3'
            ELSE 'above 3' END AS length_to_width,
       count(*) AS objects,
       round(median(longest_um), 1) AS median_um
FROM (SELECT greatest(width_um, height_um) AS longest_um,
             longest_um / least(width_um, height_um)
               AS elongation
      FROM objects)
GROUP BY ALL
ORDER BY min(elongation)""",
    ),
)


def charted_wells(slides: Sequence[SlideSummary]) -> list[str]:
    """The wells that have charts: those with most slides."""
    counts: dict[str, int] = {}
    for slide in slides:
        counts[slide.well] = counts.get(slide.well, 0) + 1
    return sorted(counts, key=lambda well: (-counts[well], well))[:MOST_WELLS]


@dataclass(frozen=True)
class _Measures:
    class_counts: NDArray[np.int64]
    opacity: Spread | None
    colour: tuple[int, int, int] | None


def _measures(con: Connection) -> dict[tuple[str, float | str], _Measures]:
    """Per well and depth (or slide, where no depth is known)."""
    edges = [size.from_um for size in SIZE_CLASSES[1:]]
    size_class = " + ".join(f"(longest >= {edge:g})::INT" for edge in edges)
    counts = ", ".join(f"count(*) FILTER (size_class = {i})" for i in range(len(SIZE_CLASSES)))
    found = query_table(
        con,
        f"SELECT well, measured_depth_m, CASE WHEN measured_depth_m IS NULL THEN slide_id END AS slide_id, "
        f"[{counts}] AS classes, quantile_cont(opacity, [0.25, 0.5, 0.75]) AS quartiles, "
        "[median(mean_r), median(mean_g), median(mean_b)] AS colour FROM "
        f"(SELECT *, greatest(width_um, height_um) AS longest, {size_class} AS size_class FROM objects) GROUP BY ALL",
    )
    measures: dict[tuple[str, float | str], _Measures] = {}
    for row in found.to_pylist():
        depth_m, quartiles, colour = row["measured_depth_m"], row["quartiles"], row["colour"]
        measures[row["well"], row["slide_id"] if depth_m is None else depth_m] = _Measures(
            class_counts=np.array(row["classes"], dtype=np.int64),
            opacity=Spread(*quartiles) if quartiles else None,
            colour=None if colour[0] is None else (round(colour[0]), round(colour[1]), round(colour[2])),
        )
    return measures


def _sample(group: Sequence[SlideSummary], measures: _Measures | None) -> DepthSample:
    return DepthSample(
        label=PurePosixPath(group[0].path).stem,
        depth_m=group[0].measured_depth_m,
        objects=sum(slide.objects for slide in group),
        scanned_mm2=sum(slide.scanned_mm2 for slide in group),
        class_counts=measures.class_counts if measures else None,
        opacity=measures.opacity if measures else None,
        colour=measures.colour if measures else None,
    )


def _describe_densest(slides: Sequence[SlideSummary]) -> Iterator[str]:
    density = [slide.objects / slide.scanned_mm2 if slide.scanned_mm2 > 0 else 0.0 for slide in slides]
    densest = int(np.argmax(density))
    typical = float(np.median(density))
    if len(slides) < 3 or density[densest] < 1.3 * typical or not typical:
        return
    slide = slides[densest]
    where = (
        slide.well if slide.measured_depth_m is None else f"{slide.well} at {slide.measured_depth_m:,.10g} m"
    )
    yield (
        f"Richest is {where} with {shorten(density[densest])} per mm², {shorten(density[densest] / typical)} times the "
        "median slide."
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
