"""Genera of a run for its report: range charts, and a table and contact sheets of each predicted genus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from fossilray.analysis.report.range_chart_svg import MAX_TAXA, draw_range_chart
from fossilray.analysis.report.statistics import MAX_ROWS_WITHOUT_DEPTH, charted_wells
from fossilray.analysis.stratigraphy.chart import ChartOptions, WellChart, chart_samples
from fossilray.analysis.stratigraphy.page import describe_basis
from fossilray.analysis.stratigraphy.samples import CountSources, samples_of_slides
from fossilray.core.config.choices import CropFit, TaxonOrder
from fossilray.core.records import UNASSIGNED_WELL, SlideSummary
from fossilray.labels.determinations import Determinations
from fossilray.render.crops import ContactSheet, CropFigure, show_crop
from fossilray.store import RunStore
from fossilray.store.derived.listing import DerivedListing
from fossilray.store.query.connection import load_crops, query_table

if TYPE_CHECKING:
    from fossilray.store.query.connection import Connection

MAX_SHEETS = 24
"""Genera with contact sheets, the most frequent first."""
CROPS_PER_ROW = 8


@dataclass(frozen=True)
class ShownRanges:
    """A well's range chart as SVG, with the numbers of `fossilray chart`."""

    chart: WellChart
    basis: tuple[str, ...]
    """What names its objects, in sentences."""
    svg: str

    @property
    def objects(self) -> int:
        """Objects that are counted."""
        return sum(sample.objects for sample in self.chart.well_samples.samples)

    @property
    def unclassified_slides(self) -> int:
        """Slides without predictions, in a run that has some."""
        if self.chart.well_samples.predictions is None:
            return 0
        return sum(sample.slides - sample.classified for sample in self.chart.well_samples.samples)


@dataclass(frozen=True)
class GenusFigures:
    """Number of objects of a genus, and the probabilities of its predictions."""

    genus: str
    objects: int
    share: float
    median_score: float
    above_half: float
    """Share of its objects with a probability above 0.5."""


@dataclass(frozen=True)
class GenusSheets:
    """Contact sheets of the objects of one predicted genus."""

    genus: str
    objects: int
    sheets: tuple[ContactSheet, ...]
    """Highest probabilities, then lowest; the second is empty if the first shows all objects."""


@dataclass(frozen=True)
class ShownGenera:
    """The report's section on labels and one head's predictions."""

    slides: int
    """Slides that the report reads."""
    wells: tuple[ShownRanges, ...]
    others: tuple[str, ...]
    """Names of other predictions of the run."""
    head: str | None = None
    """Name of the predictions; None if there are labels only, and then all that follows is empty."""
    kind: str = ""
    classes: int = 0
    backbone: str = ""
    classified: int = 0
    """Number of these slides with current predictions."""
    outdated: int = 0
    """Number of these slides that were reprocessed after they were classified."""
    objects: int = 0
    unclassified: int = 0
    """Objects without a genus, because their pixels could not be read."""
    genera: tuple[GenusFigures, ...] = ()
    sheets: tuple[GenusSheets, ...] = ()
    max_taxa: int = MAX_TAXA


def show_genera(
    con: Connection,
    store: RunStore,
    slides: Sequence[SlideSummary],
    predictions: DerivedListing | None,
    *,
    determinations: Determinations | None,
    others: Sequence[str],
    fit: CropFit,
) -> ShownGenera:
    """Return the section's data.

    Args:
        con: its view `objects` holds these slides with their predictions.
        predictions: current ones; None if there are none, or none are wanted.
        determinations: labels of experts, which go before predictions; None: none are given.
        others: names of other predictions of the run.
    """
    wells = tuple(_draw_wells(store, slides, predictions, determinations))
    if predictions is None:
        return ShownGenera(slides=len(slides), wells=wells, others=tuple(others))
    record = predictions.results.record
    head: Mapping[str, Any] = record.head or {}
    genera = tuple(_figures(con))
    unclassified = 0
    if predictions.files:
        unclassified = query_table(con, _UNCLASSIFIED.format(slides=_quoted(predictions)))["count"][0].as_py()
    return ShownGenera(
        head=predictions.results.name,
        kind=str(head.get("kind", "")),
        classes=len(head.get("classes", ())),
        backbone=str(record.backbone.get("name", "")),
        others=tuple(others),
        slides=len(slides),
        classified=len(predictions.files),
        outdated=len(predictions.outdated),
        objects=sum(genus.objects for genus in genera),
        unclassified=unclassified,
        wells=wells,
        genera=genera,
        sheets=tuple(_make_sheets(con, store, genera[:MAX_SHEETS], fit=fit)),
    )


_UNCLASSIFIED = "SELECT count(*) AS count FROM objects WHERE genus IS NULL AND slide_id IN ({slides})"


def _quoted(predictions: DerivedListing) -> str:
    """Return the slide_ids as a list of SQL literals."""
    return ", ".join("'" + slide_id.replace("'", "''") + "'" for slide_id in predictions.files)


def _draw_wells(
    store: RunStore,
    slides: Sequence[SlideSummary],
    predictions: DerivedListing | None,
    determinations: Determinations | None,
) -> Iterator[ShownRanges]:
    wells = sorted(charted_wells(slides), key=lambda well: (well == UNASSIGNED_WELL, well))
    for number, well in enumerate(wells):
        of_well = sorted((slide for slide in slides if slide.well == well), key=lambda slide: slide.slide_id)
        if not any(slide.measured_depth_m is not None for slide in of_well):
            of_well = of_well[:MAX_ROWS_WITHOUT_DEPTH]
        sources = CountSources(determinations=determinations)
        samples = samples_of_slides(store, of_well, predictions, sources)
        if any(sample.classified or sample.labelled for sample in samples.samples) and samples.names:
            order: TaxonOrder = "last-occurrence" if samples.has_depths else "abundance"
            chart = chart_samples(samples, ChartOptions(order=order))
            svg = draw_range_chart(chart, name=f"range-{number}")
            yield ShownRanges(chart, tuple(describe_basis(chart)), svg)


def _figures(con: Connection) -> Iterator[GenusFigures]:
    rows = query_table(
        con,
        "SELECT genus, count(*) AS objects, median(genus_score) AS median_score, "
        "avg((genus_score > 0.5)::INTEGER) AS above_half FROM objects WHERE genus IS NOT NULL "
        "GROUP BY genus ORDER BY objects DESC, genus",
    ).to_pylist()
    total = sum(row["objects"] for row in rows)
    for row in rows:
        yield GenusFigures(
            row["genus"], row["objects"], row["objects"] / total, row["median_score"], row["above_half"]
        )


def _make_sheets(
    con: Connection, store: RunStore, genera: Sequence[GenusFigures], *, fit: CropFit
) -> Iterator[GenusSheets]:
    order = "PARTITION BY genus ORDER BY genus_score"
    shown = query_table(
        con,
        "SELECT slide_id, well, measured_depth_m, arrays, object_id, width_um, height_um, score, genus, "
        "genus_score, genus_2, genus_2_score, "
        f"row_number() OVER ({order} DESC, slide_id, object_id) AS from_top, "
        f"row_number() OVER ({order}, slide_id DESC, object_id DESC) AS from_bottom "
        f"FROM objects WHERE genus IS NOT NULL QUALIFY from_top <= {CROPS_PER_ROW} OR from_bottom <= {CROPS_PER_ROW} "
        "ORDER BY genus, from_top",
    ).to_pylist()
    by_genus: dict[str, list[dict[str, Any]]] = {}
    for row in shown:
        by_genus.setdefault(row["genus"], []).append(row)
    for genus in genera:
        rows = by_genus[genus.genus]
        highest = rows[:CROPS_PER_ROW]
        lowest = [row for row in rows[CROPS_PER_ROW:][::-1] if row["from_bottom"] <= CROPS_PER_ROW]
        yield GenusSheets(
            genus.genus,
            genus.objects,
            (
                ContactSheet("Highest probability", "", tuple(_show(store, highest, fit=fit))),
                ContactSheet("Lowest probability", "", tuple(_show(store, lowest, fit=fit))),
            ),
        )


def _show(store: RunStore, rows: Sequence[dict[str, Any]], *, fit: CropFit) -> Iterator[CropFigure]:
    table = pa.table(
        {
            "arrays": pa.array([row["arrays"] for row in rows], pa.string()),
            "object_id": pa.array([row["object_id"] for row in rows], pa.int32()),
        }
    )
    for row, crop in zip(rows, load_crops(store, table), strict=True):
        second = (
            "" if row["genus_2"] is None else f", else {row['genus_2']} {100 * row['genus_2_score']:.0f} %"
        )
        yield show_crop(row, crop, fit=fit, detail=f"{100 * row['genus_score']:.0f} %{second}")
