"""Picture and tables of human counts beside ours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.stratigraphy.expert.comparison import ExpertComparison
from fossilray.analysis.stratigraphy.print_style import INK, LOSS, QUIET, RULE, print_style
from fossilray.analysis.stratigraphy.range_chart import GROUP_COLOURS
from fossilray.analysis.stratigraphy.tables import depth_columns, write_csv
from fossilray.render.svg_charts import shorten_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_NAMED = 6
"""Names of more points would overlap."""
_AGREES, _DIFFERS = GROUP_COLOURS[0], LOSS
_TICKS = (0, 1, 5, 10, 20, 40, 60, 80, 100)

_CELLS = (
    "well", "measured_depth_m", "top_depth_m", "base_depth_m", "sample_type", "taxon", "specimens", "of_specimens",
    "expert_percent", "expert_percent_low", "expert_percent_high", "percent", "percent_low", "percent_high",
    "is_within_interval", "p_value", "agrees",
)  # fmt: skip
_TAXA = (
    "well", "taxon", "samples", "samples_that_agree", "expert_mean_percent", "mean_percent", "bias_points",
    "bias_low", "bias_high",
)  # fmt: skip
_RECOUNT = (
    "order", "well", "measured_depth_m", "top_depth_m", "base_depth_m", "sample_type", "slides", "taxon", "specimens",
    "expected_specimens", "p_value",
)  # fmt: skip
_CORRELATION = ("measure", "transform", "samples", "taxa", "correlation", "p_value", "attainable")


def expert_tables(compared: ExpertComparison) -> dict[str, bytes]:
    """Return CSV files by name: each cell, each taxon, correlations, and the cells to recount."""
    return {
        "expert.csv": write_csv(_CELLS, _cell_rows(compared)),
        "expert_taxa.csv": write_csv(_TAXA, _taxon_rows(compared)),
        "expert_correlation.csv": write_csv(_CORRELATION, _correlation_rows(compared)),
        "recount.csv": write_csv(_RECOUNT, _recount_rows(compared)),
    }


def draw_comparison(compared: ExpertComparison) -> Figure:
    """Draw our share of each taxon and sample against the expert's with both intervals, and the bias of each taxon."""
    from matplotlib.figure import Figure

    with print_style():
        height = max(4.6, 1.5 + 0.24 * len(compared.taxa))
        figure = Figure(figsize=(9.4, height), facecolor="white", layout="constrained")
        shares, bias = figure.subplots(1, 2, width_ratios=(1.45, 1))
        _draw_shares(shares, compared)
        _draw_bias(bias, compared)
        return figure


def _draw_shares(panel: Axes, compared: ExpertComparison) -> None:
    estimate, theirs = compared.estimate, 100 * compared.shares
    ours, low, high = (100 * values for values in (estimate.shares, estimate.low, estimate.high))
    named = np.zeros(theirs.shape, bool)
    for cell in compared.recounts:
        named[cell.row, cell.column] = True
    end = float(min(100, 1.08 * max(high.max(), 100 * compared.high.max())))
    panel.set_xscale("function", functions=(_root, _square))
    panel.set_yscale("function", functions=(_root, _square))
    panel.plot([0, end], [0, end], color=RULE, linewidth=1, zorder=0)
    shifted = ~named & ~compared.agrees & named.any(axis=1, keepdims=True)
    for chosen, colour, alpha, face, label in (
        (~named & ~shifted, _AGREES, 0.45, _AGREES, "not to recount"),
        (shifted, _AGREES, 0.8, "white", "shifted by a recount in its sample"),
        (named, _DIFFERS, 0.95, _DIFFERS, "recount"),
    ):
        if not chosen.any():
            continue
        panel.errorbar(
            theirs[chosen],
            ours[chosen],
            xerr=np.abs([theirs[chosen] - 100 * compared.low[chosen], 100 * compared.high[chosen] - theirs[chosen]]),
            yerr=np.abs([ours[chosen] - low[chosen], high[chosen] - ours[chosen]]),
            fmt="o", markerfacecolor=face, markersize=3.2, linewidth=0.6, color=colour, alpha=alpha, label=label,
        )  # fmt: skip
    for cell in compared.recounts[:MAX_NAMED]:
        x, y = theirs[cell.row, cell.column], ours[cell.row, cell.column]
        is_above = y > x
        panel.annotate(
            f"{shorten_name(compared.taxa[cell.column])}, {compared.samples[cell.row].interval}",
            (x, y), xytext=(5, 5 if is_above else -5), textcoords="offset points", fontsize=6.5, color=INK,
            ha="left", va="bottom" if is_above else "top",
        )  # fmt: skip
    ticks = [tick for tick in _TICKS if tick <= end]
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_ticks(ticks, [f"{tick}" for tick in ticks], fontsize=7)
        axis.set_ticks([], minor=True)
    panel.set_xlim(0, end)
    panel.set_ylim(0, end)
    panel.set_aspect("equal")
    panel.set_xlabel("Expert, % of the compared taxa")
    panel.set_ylabel("Predictions, % of the compared taxa")
    panel.legend(loc="lower right", fontsize=7)
    panel.set_title(
        f"Taxa in samples, with {100 * compared.level:g} % intervals (axes: square roots)",
        fontsize=8, loc="left", color=INK,
    )  # fmt: skip


def _draw_bias(panel: Axes, compared: ExpertComparison) -> None:
    y = np.arange(len(compared.taxa))
    panel.axvline(0, color=RULE, linewidth=1)
    for row, bias in enumerate(compared.bias):
        colour = _DIFFERS if bias.is_nonzero else _AGREES
        panel.plot([100 * bias.low, 100 * bias.high], [row, row], color=colour, linewidth=1)
        panel.plot([100 * bias.bias], [row], marker="o", markersize=4, color=colour)
    panel.set_yticks(
        y, [shorten_name(taxon) for taxon in compared.taxa], fontsize=7.5, style="italic", color=INK
    )
    panel.set_ylim(len(y) - 0.5, -0.5)
    panel.set_xlabel("Predictions minus expert, percentage points")
    panel.set_title("Bias, mean over samples", fontsize=8, loc="left", color=INK)
    panel.spines["left"].set_visible(False)
    panel.tick_params(axis="x", colors=QUIET)


def _root(values: NDArray[np.float64]) -> NDArray[np.float64]:
    root: NDArray[np.float64] = np.sqrt(np.maximum(values, 0))
    return root


def _square(values: NDArray[np.float64]) -> NDArray[np.float64]:
    square: NDArray[np.float64] = np.square(values)
    return square


def _cell_rows(compared: ExpertComparison) -> Iterable[Sequence[object]]:
    estimate, shares = compared.estimate, compared.shares
    for row, sample in enumerate(compared.samples):
        for column, taxon in enumerate(compared.taxa):
            cell = row, column
            yield (
                compared.well, *depth_columns(sample), taxon, int(compared.specimens[cell]),
                int(compared.specimens[row].sum()),
                *(
                    round(100 * float(values[cell]), 2)
                    for values in (
                        shares, compared.low, compared.high, estimate.shares, estimate.low, estimate.high
                    )
                ),
                bool(compared.is_within[cell]), float(f"{compared.p_values[cell]:.3g}"), bool(compared.agrees[cell]),
            )  # fmt: skip


def _taxon_rows(compared: ExpertComparison) -> Iterable[Sequence[object]]:
    for column, (taxon, bias) in enumerate(zip(compared.taxa, compared.bias, strict=True)):
        yield (
            compared.well, taxon, len(compared.samples), int(compared.agrees[:, column].sum()),
            *(
                round(100 * float(value), 2)
                for value in (
                    compared.shares[:, column].mean(), compared.estimate.shares[:, column].mean(),
                    bias.bias, bias.low, bias.high,
                )
            ),
        )  # fmt: skip


def _correlation_rows(compared: ExpertComparison) -> Iterable[Sequence[object]]:
    match = compared.ordination
    if match is None:
        return
    size = ("Hellinger", len(compared.samples), len(compared.taxa))
    yield (
        "Procrustes", *size, round(match.procrustes, 4), float(f"{match.p_value:.3g}"),
        round(compared.attainable, 4),
    )  # fmt: skip
    for axis, value in enumerate(match.axes, 1):
        yield f"PCA axis {axis}", *size, round(value, 4), "", ""


def _recount_rows(compared: ExpertComparison) -> Iterable[Sequence[object]]:
    for order, cell in enumerate(compared.recounts, 1):
        sample = compared.samples[cell.row]
        yield (
            order, compared.well, *depth_columns(sample), "; ".join(sample.slide_ids), compared.taxa[cell.column],
            cell.specimens, round(cell.expected, 1), float(f"{cell.p_value:.3g}"),
        )  # fmt: skip
