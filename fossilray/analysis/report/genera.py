"""What a head said of a run, for its page: range charts, a table of genera, sheets of the most and least certain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from fossilray.analysis.report.assemblages import Assemblages, gather_assemblages
from fossilray.analysis.report.range_chart_svg import MOST_TAXA, draw_range_chart
from fossilray.analysis.report.statistics import charted_wells
from fossilray.core.records import UNASSIGNED_WELL, SlideSummary
from fossilray.render.crops import ContactSheet, CropFigure, Fit, show_crop
from fossilray.store import RunStore
from fossilray.store.derived.listing import DerivedListing
from fossilray.store.query.connection import load_crops, query_table

if TYPE_CHECKING:
    from fossilray.store.query.connection import Connection

MOST_SHEETS = 24
"""Genera that have sheets, the most frequent first."""
CROPS_A_ROW = 8
MOST_ROWS_WITHOUT_DEPTH = 60


@dataclass(frozen=True)
class ShownAssemblages:
    """A well's range chart as SVG."""

    chart: Assemblages
    svg: str


@dataclass(frozen=True)
class GenusFigures:
    """How often a genus was given, and how sure the head was."""

    genus: str
    objects: int
    share: float
    median_score: float
    above_half: float
    """Share of its objects whose probability is above 0.5."""


@dataclass(frozen=True)
class GenusSheets:
    """Objects that were called by one name."""

    genus: str
    objects: int
    sheets: tuple[ContactSheet, ...]
    """The most certain, then the least; the second is empty where the first shows all."""


@dataclass(frozen=True)
class Predicted:
    """Everything that the page shows of one head's predictions."""

    head: str
    kind: str
    classes: int
    backbone: str
    others: tuple[str, ...]
    """Names of other predictions of the run."""
    slides: int
    """That the page looks at."""
    asked: int
    """Of these, how many have predictions that fit."""
    outdated: int
    """Of these, how many have predictions about objects that were made anew since."""
    objects: int
    without: int
    """Objects without a genus, because their pixels could not be read."""
    wells: tuple[ShownAssemblages, ...]
    genera: tuple[GenusFigures, ...]
    sheets: tuple[GenusSheets, ...]
    most_taxa: int = MOST_TAXA


def show_genera(
    con: Connection,
    store: RunStore,
    slides: Sequence[SlideSummary],
    chosen: DerivedListing,
    *,
    others: Sequence[str],
    fit: Fit,
) -> Predicted:
    """What the page shows; the view `objects` holds these slides, with the predictions chosen beside them."""
    record = chosen.answers.record
    head: Mapping[str, Any] = record.head or {}
    genera = tuple(_figures(con))
    without = (
        query_table(con, _WITHOUT.format(slides=_listed(chosen)))["count"][0].as_py() if chosen.files else 0
    )
    return Predicted(
        head=chosen.answers.name,
        kind=str(head.get("kind", "")),
        classes=len(head.get("classes", ())),
        backbone=str(record.backbone.get("name", "")),
        others=tuple(others),
        slides=len(slides),
        asked=len(chosen.files),
        outdated=len(chosen.outdated),
        objects=sum(genus.objects for genus in genera),
        without=without,
        wells=tuple(_draw_wells(con, slides, chosen)),
        genera=genera,
        sheets=tuple(_make_sheets(con, store, genera[:MOST_SHEETS], fit=fit)),
    )


_WITHOUT = "SELECT count(*) AS count FROM objects WHERE genus IS NULL AND slide_id IN ({slides})"


def _listed(chosen: DerivedListing) -> str:
    return ", ".join("'" + slide_id.replace("'", "''") + "'" for slide_id in chosen.files)


def _draw_wells(
    con: Connection, slides: Sequence[SlideSummary], chosen: DerivedListing
) -> Iterator[ShownAssemblages]:
    wells = sorted(charted_wells(slides), key=lambda well: (well == UNASSIGNED_WELL, well))
    for number, well in enumerate(wells):
        own = sorted((one for one in slides if one.well == well), key=lambda one: one.slide_id)
        if not any(one.measured_depth_m is not None for one in own):
            own = own[:MOST_ROWS_WITHOUT_DEPTH]
        chart = gather_assemblages(con, own, chosen.files.keys())
        # A well that nobody was asked about has nothing to draw.
        if any(sample.asked for sample in chart.samples):
            yield ShownAssemblages(chart, draw_range_chart(chart, name=f"range-{number}"))


def _figures(con: Connection) -> Iterator[GenusFigures]:
    found = query_table(
        con,
        "SELECT genus, count(*) AS objects, median(genus_score) AS median_score, "
        "avg((genus_score > 0.5)::INTEGER) AS above_half FROM objects WHERE genus IS NOT NULL "
        "GROUP BY genus ORDER BY objects DESC, genus",
    ).to_pylist()
    total = sum(row["objects"] for row in found)
    for row in found:
        yield GenusFigures(
            row["genus"], row["objects"], row["objects"] / total, row["median_score"], row["above_half"]
        )


def _make_sheets(
    con: Connection, store: RunStore, genera: Sequence[GenusFigures], *, fit: Fit
) -> Iterator[GenusSheets]:
    order = "PARTITION BY genus ORDER BY genus_score"
    found = query_table(
        con,
        "SELECT slide_id, well, measured_depth_m, arrays, object_id, width_um, height_um, score, genus, "
        "genus_score, genus_2, genus_2_score, "
        f"row_number() OVER ({order} DESC, slide_id, object_id) AS from_top, "
        f"row_number() OVER ({order}, slide_id DESC, object_id DESC) AS from_bottom "
        f"FROM objects WHERE genus IS NOT NULL QUALIFY from_top <= {CROPS_A_ROW} OR from_bottom <= {CROPS_A_ROW} "
        "ORDER BY genus, from_top",
    ).to_pylist()
    by_genus: dict[str, list[dict[str, Any]]] = {}
    for row in found:
        by_genus.setdefault(row["genus"], []).append(row)
    for one in genera:
        rows = by_genus[one.genus]
        surest = rows[:CROPS_A_ROW]
        doubtful = [row for row in rows[CROPS_A_ROW:][::-1] if row["from_bottom"] <= CROPS_A_ROW]
        yield GenusSheets(
            one.genus,
            one.objects,
            (
                ContactSheet("Most certain", "", tuple(_show(store, surest, fit=fit))),
                ContactSheet("Least certain", "", tuple(_show(store, doubtful, fit=fit))),
            ),
        )


def _show(store: RunStore, rows: Sequence[dict[str, Any]], *, fit: Fit) -> Iterator[CropFigure]:
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
