"""A charted well as CSV: the matrix that spreadsheets and biostratigraphy software take, and all that is behind it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

import numpy as np

from fossilray.analysis.stratigraphy.chart import WellChart
from fossilray.analysis.stratigraphy.match import MatchedWells


def well_tables(charted: WellChart) -> dict[str, bytes]:
    """CSV files by their names, in UTF-8 with commas."""
    return {
        "counts.csv": _matrix(charted, np.round(charted.counts, 1).tolist()),
        "percent.csv": _matrix(charted, np.round(100 * np.nan_to_num(charted.estimate.shares), 2).tolist()),
        "called.csv": _matrix(charted, charted.counted.tolist()),
        "intervals.csv": _csv(_INTERVALS, _interval_rows(charted)),
        "samples.csv": _csv(_SAMPLES, _sample_rows(charted)),
        "zones.csv": _csv(_ZONES, _zone_rows(charted)),
    }


def match_table(matched: MatchedWells) -> bytes:
    """Pairs of depths, from the top down."""
    return _csv(
        ("first_well", "first_depth_m", "second_well", "second_depth_m", "squared_chord_distance"),
        (
            (matched.first.well, upper, matched.second.well, lower, round(float(distance), 4))
            for (upper, lower), distance in zip(matched.depths, matched.correlation.distances, strict=True)
        ),
    )


_INTERVALS = (
    "well", "measured_depth_m", "taxon", "group", "called", "count", "count_low", "count_high",
    "percent", "percent_low", "percent_high", "is_certain",
)  # fmt: skip
_SAMPLES = (
    "well", "measured_depth_m", "slides", "slides_asked", "objects", "objects_without_genus", "objects_counted",
    "lost_percent", "state", "zone", "richness", "shannon", "simpson", "evenness", "fisher_alpha", "rarefied_to",
    "rarefied_richness",
)  # fmt: skip
_ZONES = ("step", "zones", "reduction_percent", "broken_stick_percent", "border_m")


def _matrix(charted: WellChart, values: Sequence[Sequence[float]]) -> bytes:
    """Taxa down, samples across, depths in the first row: what Tilia and StrataBugs take from a spreadsheet."""
    depths = [f"{depth:g}" for depth in charted.found.depths]
    rows = (
        (taxon, group, *(row[column] for row in values))
        for column, (taxon, group) in enumerate(zip(charted.taxa, charted.groups, strict=True))
    )
    return _csv(("taxon", "group", *depths), rows)


def _interval_rows(charted: WellChart) -> Iterable[Sequence[object]]:
    one = charted.estimate
    for row, depth in enumerate(charted.found.depths.tolist()):
        if not one.objects[row]:
            continue
        for column, (taxon, group) in enumerate(zip(charted.taxa, charted.groups, strict=True)):
            shares = [float(part[row, column]) for part in (one.shares, one.low, one.high)]
            yield (
                charted.well, f"{depth:g}", taxon, group, int(charted.counted[row, column]),
                *(round(share * float(one.objects[row]), 1) for share in shares),
                *(round(100 * share, 2) for share in shares),
                bool(one.certain_low[row, column] > 0),
            )  # fmt: skip


def _sample_rows(charted: WellChart) -> Iterable[Sequence[object]]:
    zone_of = {} if charted.zonation is None else dict(
        zip(charted.full, (charted.zonation.number - charted.zonation.zones).tolist(), strict=True)
    )  # fmt: skip
    for row, (sample, index) in enumerate(zip(charted.found.samples, charted.diversity, strict=True)):
        state = [
            *(["barren"] if sample.is_barren else []),
            *(["not classified"] if sample.asked < sample.slides else []),
            *(["few objects"] if row not in charted.full and sample.objects else []),
            *(["lossy"] if sample.is_lossy else []),
        ]
        yield (
            charted.well, f"{sample.depth_m:g}", sample.slides, sample.asked, sample.objects, sample.without,
            round(float(charted.estimate.objects[row]), 1), round(100 * sample.lost_share, 3),
            "; ".join(state), f"Z{zone_of[row]}" if row in zone_of else "", index.richness,
            *(_round(value) for value in (index.shannon, index.simpson, index.evenness, index.fisher_alpha)),
            charted.effort or "", _round(index.rarefied),
        )  # fmt: skip


def _zone_rows(charted: WellChart) -> Iterable[Sequence[object]]:
    found = charted.zonation
    if found is None:
        return
    borders = charted.borders_m
    for step, (reduced, stick) in enumerate(zip(found.reduced, found.broken_stick, strict=True)):
        # Borders stand in the order of depth, which is not that of the steps.
        border = f"{borders[step]:g}" if step < len(borders) else ""
        yield step + 1, step + 2, round(100 * float(reduced), 3), round(100 * float(stick), 3), border


def _round(value: float) -> float | str:
    return round(value, 4) if np.isfinite(value) else ""


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue().encode()
