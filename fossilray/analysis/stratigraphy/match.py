"""Correlation of two charted wells, and its figure: stacked assemblages, lines between matching samples."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.stratigraphy.chart import WellChart
from fossilray.analysis.stratigraphy.correlation import Correlation, correlate
from fossilray.analysis.stratigraphy.print_style import INK, QUIET, RULE, print_style
from fossilray.core.errors import UsageError
from fossilray.render.svg_charts import depth_limits, row_positions, shorten_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_BANDS = 8
# The palette of Okabe and Ito (2008), muted for print; the last colour is for all other taxa.
_COLOURS = ("#3f6f94", "#d5852a", "#3d8f6d", "#a85b8c", "#c9b03c", "#7fb2d6", "#8c4a2f", "#7a6a9a", "#d8d4cc")


@dataclass(frozen=True)
class MatchedWells:
    """Two wells and their correlation; its pairs index `well_sampled` of each well."""

    first: WellChart
    second: WellChart
    correlation: Correlation
    taxa: tuple[str, ...]
    shares: tuple[NDArray[np.float64], NDArray[np.float64]]
    """For each well, shares (well-sampled samples, `taxa`)."""

    @property
    def depths(self) -> list[tuple[float, float]]:
        """Measured depths in metres of each pair."""
        first, second = (
            chart.well_samples.depths[list(chart.well_sampled)] for chart in (self.first, self.second)
        )
        return [(float(first[i]), float(second[j])) for i, j in self.correlation.pairs.tolist()]


def match_wells(first: WellChart, second: WellChart, *, match_distance: float, seed: int = 0) -> MatchedWells:
    """Correlate the well-sampled samples of two wells.

    Raises:
        UsageError: both are the same well, or one has no well-sampled sample.
    """
    if first.well == second.well:
        raise UsageError(f"{first.well} cannot be correlated with itself; give --match another well")
    for chart in (first, second):
        if not chart.well_sampled:
            raise UsageError(
                f"well {chart.well} has no sample of {chart.options.min_objects} objects to correlate; give a smaller "
                "--min-objects"
            )
    taxa = tuple(dict.fromkeys((*first.taxa, *second.taxa)))
    shares = (_shares_over(first, taxa), _shares_over(second, taxa))
    correlation = correlate(*shares, match_distance=match_distance, rng=np.random.default_rng(seed))
    return MatchedWells(first, second, correlation, taxa, shares)


def draw_match(matched: MatchedWells) -> Figure:
    """Draw both wells side by side at one depth scale, each from its own top, with a line between matching samples."""
    from matplotlib.figure import Figure
    from matplotlib.patches import ConnectionPatch, Patch

    with print_style():
        charts = (matched.first, matched.second)
        spans = [max(float(np.ptp(chart.well_samples.depths)), 1.0) for chart in charts]
        samples = max(len(chart.well_sampled) for chart in charts)
        height = 2.1 + min(max(2.6, 0.2 * samples), 8.5)
        figure = Figure(figsize=(8.6, height), facecolor="white")
        mean = np.concatenate(matched.shares).mean(axis=0)
        bands = [int(taxon) for taxon in np.argsort(-mean, kind="stable")[:MAX_BANDS]]
        panels = []
        tallest = 1 - 2.0 / height
        for left, chart, shares, span in zip((0.1, 0.6), charts, matched.shares, spans, strict=True):
            panel_height = tallest * span / max(spans)
            panel = figure.add_axes((left, 1 - 0.7 / height - panel_height, 0.3, panel_height))
            _draw_bands(panel, chart, shares, bands, on_right=left > 0.5)
            panels.append(panel)
        for (upper, lower), distance in zip(matched.depths, matched.correlation.distances, strict=True):
            line = ConnectionPatch(
                (1, upper), (0, lower), "data", "data", axesA=panels[0], axesB=panels[1],
                color=INK, linewidth=0.6, alpha=float(np.clip(1 - 2.5 * distance, 0.25, 1)),
            )  # fmt: skip
            figure.add_artist(line)
        names = [matched.taxa[taxon] for taxon in bands]
        if len(matched.taxa) > len(bands):
            names.append("others")
        figure.legend(
            handles=[
                Patch(color=_COLOURS[-1] if name == "others" else _COLOURS[row], label=shorten_name(name))
                for row, name in enumerate(names)
            ],
            loc="lower center",
            bbox_to_anchor=(0.5, 0.32 / height),
            ncols=5,
            fontsize=7.5,
        )
        figure.text(0.1, 0.14 / height, describe_match(matched), fontsize=7, color=QUIET)
        return figure


def describe_match(matched: MatchedWells) -> str:
    """Return the result of a correlation in a sentence."""
    correlation = matched.correlation
    if not len(correlation.pairs):
        return "no samples of these wells match"
    return (
        f"{len(correlation.pairs)} pairs of samples match (permutation test over the order of the second well's "
        f"samples: p = {correlation.p_value:.2g})"
    )


def _shares_over(chart: WellChart, taxa: tuple[str, ...]) -> NDArray[np.float64]:
    """Return shares (well-sampled samples, `taxa`) that sum to 1."""
    shares = np.zeros((len(chart.well_sampled), len(taxa)))
    columns = [taxa.index(taxon) for taxon in chart.taxa]
    shares[:, columns] = chart.estimate.shares[list(chart.well_sampled)]
    normalised: NDArray[np.float64] = shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-300)
    return normalised


def _draw_bands(
    panel: Axes, chart: WellChart, shares: NDArray[np.float64], bands: list[int], *, on_right: bool
) -> None:
    samples = [chart.well_samples.samples[row] for row in chart.well_sampled]
    y, thickness = row_positions(samples)
    depths = chart.well_samples.depths
    left = np.zeros(len(y))
    for row, taxon in enumerate([*bands, None]):
        width = 1 - left if taxon is None else shares[:, taxon]
        colour = _COLOURS[-1] if taxon is None else _COLOURS[row]
        panel.barh(y, width, left=left, height=thickness, color=colour, linewidth=0)
        left = left + width
    panel.set_xlim(0, 1)
    panel.set_ylim(*depth_limits(y, thickness))
    panel.set_xticks([])
    ticks = [tick for tick in panel.get_yticks() if depths.min() <= tick <= depths.max()]
    panel.set_yticks(ticks, [f"{tick:,.8g}" for tick in ticks], fontsize=7, color=INK)
    if on_right:
        panel.yaxis.tick_right()
    panel.spines["bottom"].set_visible(False)
    panel.spines["left"].set_visible(False)
    edges = [float(panel.get_ylim()[1]), *chart.borders_m, float(panel.get_ylim()[0])]
    for border in chart.borders_m:
        panel.axhline(border, color="white", linewidth=2.2)
        panel.axhline(border, color=INK, linewidth=0.7, dashes=(4, 3))
    if chart.zonation is not None and chart.zonation.number > 1:
        for zone, (upper, lower) in enumerate(itertools.pairwise(edges)):
            panel.text(
                0.02 if not on_right else 0.98, (upper + lower) / 2, f"Z{chart.zonation.number - zone}", fontsize=8,
                ha="right" if on_right else "left", va="center",
                bbox={"facecolor": "white", "edgecolor": RULE, "linewidth": 0.4, "pad": 1.2},
            )  # fmt: skip
    panel.set_title(
        f"Well {shorten_name(chart.well)}", fontsize=10, loc="left", weight="bold", color=INK, pad=8
    )
