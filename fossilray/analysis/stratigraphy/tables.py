"""Tables of a well's chart as CSV: the matrix that biostratigraphy software imports, intervals, samples and zones."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

import numpy as np

from fossilray.analysis.stratigraphy.chart import WellChart
from fossilray.analysis.stratigraphy.concentrations import Concentrations
from fossilray.analysis.stratigraphy.determined import DISPLACED
from fossilray.analysis.stratigraphy.match import MatchedWells
from fossilray.analysis.stratigraphy.palynofacies import PARTS
from fossilray.analysis.stratigraphy.samples import WellSample


def well_tables(chart: WellChart) -> dict[str, bytes]:
    """Return CSV files by name, in UTF-8 with commas."""
    return {
        "counts.csv": _matrix(chart, np.round(chart.counts, 1).tolist()),
        "percent.csv": _matrix(chart, np.round(100 * np.nan_to_num(chart.estimate.shares), 2).tolist()),
        "called.csv": _matrix(chart, chart.predicted_counts.tolist()),
        **(
            {}
            if chart.well_samples.determined is None
            else {"labelled.csv": _matrix(chart, chart.determined.tolist())}
        ),
        "intervals.csv": write_csv(_INTERVALS, _interval_rows(chart)),
        "samples.csv": write_csv(_SAMPLES, _sample_rows(chart)),
        "ranges.csv": write_csv(_RANGES, _range_rows(chart)),
        "zones.csv": write_csv(_ZONES, _zone_rows(chart)),
        **(
            {"palynofacies.csv": write_csv(_PALYNOFACIES, _palynofacies_rows(chart))}
            if chart.palynofacies.is_known
            else {}
        ),
        **(
            {}
            if chart.concentrations is None
            else {
                "concentrations.csv": write_csv(
                    _CONCENTRATIONS, _concentration_rows(chart, chart.concentrations)
                )
            }
        ),
    }


def match_table(matched: MatchedWells) -> bytes:
    """Return a CSV of matching samples of two wells, from the top down."""
    return write_csv(
        ("first_well", "first_depth_m", "second_well", "second_depth_m", "squared_chord_distance"),
        (
            (matched.first.well, upper, matched.second.well, lower, round(float(distance), 4))
            for (upper, lower), distance in zip(matched.depths, matched.correlation.distances, strict=True)
        ),
    )


_INTERVALS = (
    "well", "measured_depth_m", "top_depth_m", "base_depth_m", "sample_type", "taxon", "group",
    "labelled", "predicted", "estimated", "count", "count_low", "count_high",
    "percent", "percent_low", "percent_high", "is_certain",
)  # fmt: skip
_SAMPLES = (
    "well", "measured_depth_m", "top_depth_m", "base_depth_m", "sample_type", "slides", "slides_asked",
    "objects", "objects_without_genus", "objects_counted", "labelled", *DISPLACED, "labelled_apart",
    "lost_percent", "state", "zone", "richness", "shannon", "simpson", "evenness", "fisher_alpha", "rarefied_to",
    "rarefied_richness",
)  # fmt: skip
_RANGES = (
    "well", "taxon", "group", "last_top_m", "last_base_m", "last_sample_type", "first_top_m", "first_base_m",
    "first_sample_type", "is_first_doubtful", "firm_first_top_m", "firm_first_base_m",
)  # fmt: skip
_CONCENTRATIONS = (
    "well", "measured_depth_m", "top_depth_m", "base_depth_m", "sample_type", "taxon", "markers", "grains_per",
    "concentration", "concentration_low", "concentration_high",
)  # fmt: skip
_PALYNOFACIES = (
    "well", "measured_depth_m", "top_depth_m", "base_depth_m", "sample_type", "particles",
    *(f"{part.replace(' ', '_')}_percent{end}" for part in PARTS for end in ("", "_low", "_high")),
    "marine_and_terrestrial", *(f"marine_percent{end}" for end in ("", "_low", "_high")),
    *(f"marine_to_terrestrial{end}" for end in ("", "_low", "_high")),
    "labelled_palynomorphs", "reworked", *(f"reworked_percent{end}" for end in ("", "_low", "_high")),
)  # fmt: skip
_ZONES = ("step", "zones", "reduction_percent", "broken_stick_percent", "border_m")


def _matrix(chart: WellChart, values: Sequence[Sequence[float]]) -> bytes:
    """Return taxa in rows and samples in columns under their depths, the layout that Tilia and StrataBugs import."""
    depths = _headings(chart)
    rows = (
        (taxon, group, *(row[column] for row in values))
        for column, (taxon, group) in enumerate(zip(chart.taxa, chart.groups, strict=True))
    )
    return write_csv(("taxon", "group", *depths), rows)


def _headings(chart: WellChart) -> list[str]:
    """Return the depth of each sample, with its type where samples of two types have one depth."""
    samples = chart.well_samples.samples
    depths = [f"{sample.depth_m:g}" for sample in samples]
    return [
        f"{depth} {sample.sample_type or ''}".strip() if depths.count(depth) > 1 else depth
        for depth, sample in zip(depths, samples, strict=True)
    ]


def depth_columns(sample: WellSample) -> tuple[str, str, str, str]:
    """Return the columns with the depths and the type of a sample."""
    return f"{sample.depth_m:g}", f"{sample.top_m:g}", f"{sample.base_m:g}", sample.sample_type or ""


def _range_rows(chart: WellChart) -> Iterable[Sequence[object]]:
    def ends_and_type(row: int | None) -> tuple[str, str, str]:
        return ("", "", "") if row is None else depth_columns(chart.well_samples.samples[row])[1:]

    for taxon, group, range_ in zip(chart.taxa, chart.groups, chart.ranges, strict=True):
        yield (
            chart.well, taxon, group, *ends_and_type(range_.last), *ends_and_type(range_.first),
            "" if range_.first is None else range_.is_first_doubtful, *ends_and_type(range_.firm_first)[:2],
        )  # fmt: skip


def _concentration_rows(chart: WellChart, concentrations: Concentrations) -> Iterable[Sequence[object]]:
    for row, sample in enumerate(chart.well_samples.samples):
        if not concentrations.units[row] or not np.isfinite(concentrations.values[row, -1]):
            continue
        for column, taxon in enumerate((*chart.taxa, "all taxa")):
            yield (
                chart.well, *depth_columns(sample), taxon, round(float(concentrations.markers[row]), 1),
                concentrations.units[row],
                *(
                    float(f"{values[row, column]:.5g}")
                    for values in (concentrations.values, concentrations.low, concentrations.high)
                ),
            )  # fmt: skip


def _palynofacies_rows(chart: WellChart) -> Iterable[Sequence[object]]:
    """Yield a row for each sample; what is not known is empty."""
    facies = chart.palynofacies.facies
    marine, reworking = chart.palynofacies.marine, chart.palynofacies.reworking
    for row, sample in enumerate(chart.well_samples.samples):
        cells: list[object] = [None] * 10
        if facies is not None:
            cells = [round(float(facies.objects[row]))]
            for part in range(len(PARTS)):
                cells += _percents(facies.shares[row, part], facies.low[row, part], facies.high[row, part])
        if marine is None:
            cells += [None] * 7
        else:
            ends = [float(values[row, 0]) for values in (marine.shares, marine.low, marine.high)]
            cells += [round(float(marine.objects[row])), *_percents(*ends), *map(_to_ratio, ends)]
        if reworking is None:
            cells += [None] * 5
        else:
            cells += [int(reworking.labelled[row]), int(reworking.reworked[row])]
            cells += _percents(reworking.shares[row], reworking.low[row], reworking.high[row])
        yield (chart.well, *depth_columns(sample), *cells)


def _percents(*shares: float) -> list[float | None]:
    return [round(100 * float(share), 2) if np.isfinite(share) else None for share in shares]


def _to_ratio(share: float) -> float | None:
    """Return marine objects for each terrestrial one; None without an object, or without a terrestrial one."""
    return float(f"{share / (1 - share):.4g}") if np.isfinite(share) and share < 1 else None


def _interval_rows(chart: WellChart) -> Iterable[Sequence[object]]:
    estimate = chart.estimate
    for row, sample in enumerate(chart.well_samples.samples):
        if not estimate.objects[row]:
            continue
        for column, (taxon, group) in enumerate(zip(chart.taxa, chart.groups, strict=True)):
            labelled = int(chart.determined[row, column])
            shares = [float(values[row, column]) for values in (estimate.shares, estimate.low, estimate.high)]
            yield (
                chart.well, *depth_columns(sample), taxon, group, labelled,
                int(chart.predicted_counts[row, column]),
                round(max(shares[0] * float(estimate.objects[row]) - labelled, 0.0), 1),
                # At least what was labelled is in the sample.
                *(round(max(share * float(estimate.objects[row]), labelled), 1) for share in shares),
                *(round(100 * share, 2) for share in shares),
                bool(estimate.present_low[row, column] > 0),
            )  # fmt: skip


def _sample_rows(chart: WellChart) -> Iterable[Sequence[object]]:
    zone_of = {} if chart.zonation is None else dict(
        zip(chart.well_sampled, (chart.zonation.number - chart.zonation.zones).tolist(), strict=True)
    )  # fmt: skip
    has_predictions = chart.well_samples.predictions is not None
    for row, (sample, index) in enumerate(zip(chart.well_samples.samples, chart.diversity, strict=True)):
        state = [
            *(["barren"] if sample.is_barren else []),
            *(["not classified"] if has_predictions and sample.classified < sample.slides else []),
            *(["no labels"] if not has_predictions and not sample.objects else []),
            *(["few objects"] if row not in chart.well_sampled and sample.objects else []),
            *(["lossy"] if sample.is_lossy else []),
        ]
        yield (
            chart.well, *depth_columns(sample),
            sample.slides, sample.classified, sample.objects, sample.unclassified,
            round(float(chart.estimate.objects[row]), 1),
            sample.labelled, *(sample.apart.get(name, 0) for name in DISPLACED),
            "; ".join(f"{name} {number}" for name, number in sample.apart.items() if name not in DISPLACED),
            round(100 * sample.lost_share, 3),
            "; ".join(state), f"Z{zone_of[row]}" if row in zone_of else "", index.richness,
            *(_round(value) for value in (index.shannon, index.simpson, index.evenness, index.fisher_alpha)),
            chart.rarefaction_size or "", _round(index.rarefied),
        )  # fmt: skip


def _zone_rows(chart: WellChart) -> Iterable[Sequence[object]]:
    zonation = chart.zonation
    if zonation is None:
        return
    borders = chart.borders_m
    for step, (reduced, stick) in enumerate(zip(zonation.reduced, zonation.broken_stick, strict=True)):
        # Borders are listed by depth, which is not the order of the steps.
        border = f"{borders[step]:g}" if step < len(borders) else ""
        yield step + 1, step + 2, round(100 * float(reduced), 3), round(100 * float(stick), 3), border


def _round(value: float) -> float | str:
    return round(value, 4) if np.isfinite(value) else ""


def write_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """Return a table as CSV in UTF-8."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue().encode()
