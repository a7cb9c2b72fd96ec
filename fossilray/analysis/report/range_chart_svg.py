"""Range chart of a report as SVG: the share of each taxon in each sample of a well, depth downwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.report.assemblages import Assemblages, TaxonSample
from fossilray.render.svg_charts import (
    BAR,
    INK,
    MOST_LABELS,
    QUIET,
    RULE,
    WIDTH_IN,
    chart_style,
    new_figure,
    row_positions,
    set_depth_axis,
    shorten_name,
    to_svg,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_TAXA = 24
"""Taxa with a column of their own; rarer taxa share one more column."""

# Shares of the chart's width.
_TOTAL_SHARE = 0.09
"""Column of the counts of all taxa together."""
_MIN_WIDTH_SHARE = 0.031
"""Narrowest column, which has room for a count."""
_GAP_SHARE = 0.006


def draw_range_chart(assemblages: Assemblages, *, name: str) -> str:
    """Draw the chart of one well. Bars are shares at one scale in all columns, the number beside a bar is a count.

    The thick part of a column's axis reaches from a taxon's first to its last sample. Samples without a depth are
    drawn in the given order.

    Args:
        name: prefix of the SVG's ids, which must differ between charts of one page.
    """
    samples = assemblages.samples
    titles, counts = _columns(assemblages)
    y, thickness = row_positions(samples)
    with chart_style(name):
        figure = new_figure(height_in=min(max(2.1 + 0.24 * len(samples), 3.2), 9.5))
        panel = figure.subplots()
        panel.set_xlim(0, 1)
        set_depth_axis(panel, samples, y, thickness)
        panel.set_xticks([])
        panel.spines["bottom"].set_visible(False)
        _draw_totals(panel, samples, y, thickness)
        _draw_taxa(panel, titles, counts, samples, y, thickness)
        _mark_empty(panel, samples, y)
        return to_svg(figure, name)


def _columns(assemblages: Assemblages) -> tuple[list[str], NDArray[np.int64]]:
    """Return titles and counts (samples, columns); the last column sums the rarest taxa if there are too many."""
    taxa = assemblages.taxa
    counts = np.array([sample.counts for sample in assemblages.samples], np.int64)
    if len(taxa) <= MAX_TAXA:
        return [shorten_name(taxon) for taxon in taxa], counts
    common = np.zeros(len(taxa), bool)
    common[np.argsort(-counts.sum(axis=0), kind="stable")[:MAX_TAXA]] = True
    titles = [shorten_name(taxon) for taxon, is_common in zip(taxa, common, strict=True) if is_common]
    rest = counts[:, ~common].sum(axis=1, keepdims=True)
    return [*titles, f"{int((~common).sum())} rarer taxa"], np.concatenate([counts[:, common], rest], axis=1)


def _draw_totals(
    panel: Axes, samples: Sequence[TaxonSample], y: NDArray[np.float64], thickness: NDArray[np.float64]
) -> None:
    total = np.array([sample.total for sample in samples], np.float64)
    width = _TOTAL_SHARE - 0.045
    bars = total / max(total.max(), 1) * width
    panel.barh(y, bars, height=thickness, color=QUIET, alpha=0.55, linewidth=0)
    if len(samples) <= MOST_LABELS:
        for depth, bar, count in zip(y, bars, total, strict=True):
            if count:
                _number(panel, bar, depth, int(count))
    _title(panel, 0.0, "Objects classified", colour=QUIET)
    panel.axvline(0, color=RULE, linewidth=0.6)


def _draw_taxa(
    panel: Axes,
    titles: Sequence[str],
    counts: NDArray[np.int64],
    samples: Sequence[TaxonSample],
    y: NDArray[np.float64],
    thickness: NDArray[np.float64],
) -> None:
    if not titles:
        return
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    scale, widths = _fit_columns(share.max(axis=0))
    with_depths = samples[0].depth_m is not None
    left = _TOTAL_SHARE
    step = _step(scale)
    bottom = panel.get_ylim()[0]
    for column, title in enumerate(titles):
        bars = share[:, column] * scale
        present = np.flatnonzero(counts[:, column])
        panel.axvline(left, color=RULE, linewidth=0.6)
        if with_depths and present.size:
            ends = [
                y[present[0]] - thickness[present[0]] / 2,
                y[present[-1]] + thickness[present[-1]] / 2,
            ]
            panel.plot([left, left], ends, color=BAR, linewidth=1.6, solid_capstyle="butt")
            panel.fill_betweenx(y, left, left + bars, color=BAR, alpha=0.14, linewidth=0)
        panel.barh(y, bars, left=left, height=thickness, color=BAR, alpha=0.92, linewidth=0)
        if len(samples) <= MOST_LABELS:
            for row in present:
                _number(panel, left + bars[row], y[row], int(counts[row, column]))
        _title(panel, left, title, colour=INK)
        for mark in np.arange(step, share[:, column].max() + 1e-9, step):
            panel.plot([left + mark * scale] * 2, [bottom, bottom], marker=3, color=RULE, clip_on=False)
            panel.annotate(
                f"{100 * mark:.0f}",
                (left + mark * scale, bottom),
                xytext=(0, -10),
                textcoords="offset points",
                ha="center",
                va="center",
                fontsize=6.5,
                color=QUIET,
                annotation_clip=False,
            )
        left += widths[column] + _GAP_SHARE
    panel.annotate(
        f"Ticks: every {100 * step:.0f} % of a sample's classified objects",
        (_TOTAL_SHARE, bottom),
        xytext=(0, -23),
        textcoords="offset points",
        ha="left",
        va="center",
        fontsize=7.5,
        color=QUIET,
        annotation_clip=False,
    )


def _fit_columns(largest: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Return the length of 100 % and the width of each column, so that the columns fill the chart."""
    room = 1 - _TOTAL_SHARE - _GAP_SHARE * len(largest)
    # Room for a count beside the longest bar.
    number = 0.018
    low, high = 0.0, 4.0
    for _ in range(40):
        scale = (low + high) / 2
        widths = np.maximum(largest * scale + number, _MIN_WIDTH_SHARE)
        low, high = (scale, high) if widths.sum() <= room else (low, scale)
    return low, np.maximum(largest * low + number, _MIN_WIDTH_SHARE)


def _step(scale: float) -> float:
    """Return a round share between ticks whose numbers do not overlap."""
    return next((step for step in (0.05, 0.1, 0.2, 0.5) if step * scale >= 0.018), 1.0)


def _mark_empty(panel: Axes, samples: Sequence[TaxonSample], y: NDArray[np.float64]) -> None:
    """Draw a dashed line through each sample without objects, with the reason."""
    for sample, depth in zip(samples, y, strict=True):
        if sample.total:
            continue
        reason = "barren" if sample.is_barren else "not classified yet"
        panel.plot([0, 1], [depth, depth], color=QUIET, linewidth=0.8, dashes=(2, 3))
        panel.annotate(
            reason,
            (0, depth),
            xytext=(3, 0),
            textcoords="offset points",
            va="bottom",
            fontsize=7,
            color=QUIET,
        )


def _number(panel: Axes, x: float, y: float, count: int) -> None:
    panel.annotate(
        f"{count:,}",
        (x, y),
        xytext=(1.5, 0),
        textcoords="offset points",
        va="center_baseline",
        fontsize=6.3,
        color=QUIET,
    )


def _title(panel: Axes, left: float, title: str, *, colour: str) -> None:
    panel.annotate(
        title,
        (left, panel.get_ylim()[1]),
        xytext=(WIDTH_IN * 0.2, 3),
        textcoords="offset points",
        rotation=52,
        rotation_mode="anchor",
        ha="left",
        va="bottom",
        fontsize=8,
        color=colour,
        annotation_clip=False,
    )
