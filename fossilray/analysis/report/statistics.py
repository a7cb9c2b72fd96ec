"""Statistics of a report, from the summary of every slide and the objects of a bounded sample of slides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fossilray.analysis.report.figures import DepthSample, Distributions, Quartiles
from fossilray.analysis.stratigraphy.assemblages import chart_labels
from fossilray.core.records import UNASSIGNED_WELL, SlideSummary, lost_share_of
from fossilray.core.text import counted
from fossilray.render.slide_overview import SIZE_CLASSES
from fossilray.store.query.connection import query_table

if TYPE_CHECKING:
    from fossilray.store.query.connection import Connection

MAX_SAMPLED_SLIDES = 240
"""Slides whose objects are read: five million objects at 21,000 per slide."""
MAX_WELLS = 12
MAX_ROWS_WITHOUT_DEPTH = 60
MAX_VALUES = 400_000
"""Values behind a histogram; more would not change a bar by a pixel."""


@dataclass(frozen=True)
class Totals:
    """Sums over all committed slides."""

    slides: int
    wells: int
    """Wells with a name."""
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
class WellDepthChart:
    """The data of one well's depth chart."""

    well: str
    samples: tuple[DepthSample, ...]
    slides: int
    objects: int
    left_out: int
    """Slides that are not drawn: without a depth where others have one, or beyond MAX_ROWS_WITHOUT_DEPTH."""

    @property
    def has_depths(self) -> bool:
        return self.samples[0].depth_m is not None


@dataclass(frozen=True)
class Example:
    """A question with its SQL and the result."""

    question: str
    sql: str
    result: pa.Table

    @property
    def numeric(self) -> list[bool]:
        """True for each column of the result that holds numbers."""
        kinds = self.result.schema.types
        return [
            pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
            for kind in kinds
        ]


def total(slides: Sequence[SlideSummary]) -> Totals:
    """Sum the summaries of slides."""
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
    """Sort slides by well, then from the top down; slides without a depth come last in their well."""
    return sorted(
        slides,
        key=lambda slide: (
            slide.well,
            slide.measured_depth_m is None,
            slide.measured_depth_m or 0.0,
            slide.slide_id,
        ),
    )


def subsample_by_depth(slides: Sequence[SlideSummary], most: int) -> list[SlideSummary]:
    """Return at most `most` slides, evenly spaced in the given order."""
    if len(slides) <= most:
        return list(slides)
    return [slides[i] for i in np.linspace(0, len(slides) - 1, most).round().astype(int)]


def choose_sample(slides: Sequence[SlideSummary]) -> list[SlideSummary]:
    """Return the slides whose objects are read, evenly over depths; three quarters are of the charted wells."""
    charted = set(charted_wells(slides))
    outside = by_depth(slide for slide in slides if slide.well not in charted)
    most = MAX_SAMPLED_SLIDES * 3 // 4 if outside else MAX_SAMPLED_SLIDES
    inside = subsample_by_depth(by_depth(slide for slide in slides if slide.well in charted), most)
    return inside + subsample_by_depth(outside, MAX_SAMPLED_SLIDES - len(inside))


def chart_wells(con: Connection, slides: Sequence[SlideSummary]) -> Iterator[WellDepthChart]:
    """Yield the data of the wells with most slides, by name.

    Counts are of all slides of a well; measures are of the objects in the view `objects`.
    """
    measures = _measures(con)
    for well in sorted(charted_wells(slides), key=lambda well: (well == UNASSIGNED_WELL, well)):
        of_well = by_depth(slide for slide in slides if slide.well == well)
        with_depth = [slide for slide in of_well if slide.measured_depth_m is not None]
        shown = with_depth or of_well[:MAX_ROWS_WITHOUT_DEPTH]
        groups: dict[float | str, list[SlideSummary]] = {}
        for slide in shown:
            key = slide.slide_id if slide.measured_depth_m is None else slide.measured_depth_m
            groups.setdefault(key, []).append(slide)
        labels = chart_labels(shown)
        yield WellDepthChart(
            well=well,
            samples=tuple(
                _sample(group, labels[group[0].slide_id], measures.get((well, key)))
                for key, group in groups.items()
            ),
            slides=len(of_well),
            objects=sum(slide.objects for slide in of_well),
            left_out=len(of_well) - len(shown),
        )


def measure_distributions(con: Connection) -> Distributions:
    """Return the measures of the objects in the view `objects`, of every n-th if there are very many."""
    count = query_table(con, "SELECT count(*) AS count FROM objects")["count"][0].as_py()
    step = max(count // MAX_VALUES, 1)
    table = query_table(
        con,
        "SELECT greatest(width_um, height_um)::DOUBLE AS longest_um, opacity::DOUBLE AS opacity, "
        f"sharpness::DOUBLE AS sharpness, score::DOUBLE AS score FROM objects WHERE object_id % {step} = 0",
    )
    columns = {
        name: np.array(table[name].to_numpy(zero_copy_only=False), dtype=np.float64)
        for name in table.column_names
    }
    return Distributions(**columns)


def write_headline(slides: Sequence[SlideSummary], sizes_um: NDArray[np.float64]) -> list[str]:
    """Summarise a run in one to three sentences."""
    totals = total(slides)
    if not slides:
        return ["No slide is committed yet."]
    wells = f" of {counted(totals.wells, 'well')}" if totals.wells else ""
    contents = (
        f"{counted(totals.slides, 'slide')}{wells}, {round_figure(totals.scanned_mm2)} mm² of scan, "
        f"{'holds' if totals.slides == 1 else 'hold'} {counted(totals.objects, 'object')}"
    )
    if not totals.objects:
        return [contents + "."]
    lower, upper = np.quantile(sizes_um, [0.25, 0.75]) if len(sizes_um) else (0.0, 0.0)
    sentences = [
        f"{contents}: {round_figure(totals.objects_per_mm2)} per mm², half of them between {lower:.0f} and "
        f"{upper:.0f} µm long."
    ]
    sentences += _describe_densest(slides)
    return sentences


def round_figure(number: float) -> str:
    """Format a number with three significant digits, and with its whole integer part."""
    return f"{number:,.3g}" if abs(number) < 999.5 else f"{number:,.0f}"


def example_queries(con: Connection) -> Iterator[Example]:
    """Run example queries on the views of a connection and yield them with their results."""
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
        "Which objects are isolated, whole and sharp, and so good to label first?",
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
        "How many objects are elongated, as fibres and hyphae are?",
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
    """Return the wells that are charted, those with most slides first."""
    counts: dict[str, int] = {}
    for slide in slides:
        counts[slide.well] = counts.get(slide.well, 0) + 1
    return sorted(counts, key=lambda well: (-counts[well], well))[:MAX_WELLS]


@dataclass(frozen=True)
class _Measures:
    class_counts: NDArray[np.int64]
    opacity: Quartiles | None
    colour: tuple[int, int, int] | None


def _measures(con: Connection) -> dict[tuple[str, float | str], _Measures]:
    """Return measures by well and depth, or by well and slide_id if the slide has no depth."""
    edges = [size.from_um for size in SIZE_CLASSES[1:]]
    size_class = " + ".join(f"(longest >= {edge:g})::INT" for edge in edges)
    counts = ", ".join(f"count(*) FILTER (size_class = {i})" for i in range(len(SIZE_CLASSES)))
    table = query_table(
        con,
        f"SELECT well, measured_depth_m, CASE WHEN measured_depth_m IS NULL THEN slide_id END AS slide_id, "
        f"[{counts}] AS classes, quantile_cont(opacity, [0.25, 0.5, 0.75]) AS quartiles, "
        "[median(mean_r), median(mean_g), median(mean_b)] AS colour FROM "
        f"(SELECT *, greatest(width_um, height_um) AS longest, {size_class} AS size_class FROM objects) GROUP BY ALL",
    )
    measures: dict[tuple[str, float | str], _Measures] = {}
    for row in table.to_pylist():
        depth_m, quartiles, colour = row["measured_depth_m"], row["quartiles"], row["colour"]
        measures[row["well"], row["slide_id"] if depth_m is None else depth_m] = _Measures(
            class_counts=np.array(row["classes"], dtype=np.int64),
            opacity=Quartiles(*quartiles) if quartiles else None,
            colour=None if colour[0] is None else (round(colour[0]), round(colour[1]), round(colour[2])),
        )
    return measures


def _sample(group: Sequence[SlideSummary], label: str, measures: _Measures | None) -> DepthSample:
    return DepthSample(
        label=label,
        depth_m=group[0].measured_depth_m,
        top_m=group[0].top_depth_m,
        base_m=group[0].base_depth_m,
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
    name = (
        slide.well if slide.measured_depth_m is None else f"{slide.well} at {slide.measured_depth_m:,.10g} m"
    )
    yield (
        f"The highest density is that of {name}, {round_figure(density[densest])} per mm², "
        f"{round_figure(density[densest] / typical)} times the median."
    )
