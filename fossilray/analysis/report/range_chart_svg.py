"""Range chart of a report as SVG: the share of each taxon in each sample of a well, depth downwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.stratigraphy.chart import WellChart
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


def draw_range_chart(chart: WellChart, *, name: str) -> str:
    """Draw the numbers of a well's chart. Bars are shares at one scale in all columns, the number beside one a count.

    The thick part of a column's axis is the range of the taxon; a dot is a taxon that an expert determined. Samples
    without a depth are drawn in the given order.

    Args:
        name: prefix of the SVG's ids, which must differ between charts of one page.
    """
    samples = chart.well_samples.samples
    columns = _columns(chart)
    has_depths = chart.well_samples.has_depths
    rows = samples if has_depths else [_SlideRow(sample.label) for sample in samples]
    y, thickness = row_positions(rows)
    with chart_style(name):
        figure = new_figure(height_in=min(max(2.1 + 0.24 * len(samples), 3.2), 9.5))
        panel = figure.subplots()
        panel.set_xlim(0, 1)
        set_depth_axis(panel, rows, y, thickness)
        panel.set_xticks([])
        panel.spines["bottom"].set_visible(False)
        _draw_totals(panel, chart, y, thickness)
        _draw_taxa(panel, columns, y, thickness, has_depths=has_depths)
        _mark_empty(panel, chart, y)
        return to_svg(figure, name)


@dataclass(frozen=True)
class _SlideRow:
    """A slide of a well without depths."""

    label: str
    depth_m: None = None
    top_m: None = None
    base_m: None = None


@dataclass(frozen=True)
class _Column:
    title: str
    counts: NDArray[np.float64]
    """(samples,) estimated objects."""
    shares: NDArray[np.float64]
    determined: NDArray[np.int64]
    range_: tuple[int, int] | None
    """Rows of the last and the first occurrence; None: the taxon occurs for sure in no sample."""


def _columns(chart: WellChart) -> list[_Column]:
    """Return a column for each taxon; the last one sums the rarest taxa if there are too many."""
    counts, shares = chart.counts, np.nan_to_num(chart.estimate.shares)
    common = np.zeros(len(chart.taxa), bool)
    common[np.argsort(-counts.sum(axis=0), kind="stable")[:MAX_TAXA]] = True
    columns = [
        _Column(
            shorten_name(chart.taxa[taxon]),
            counts[:, taxon],
            shares[:, taxon],
            chart.determined[:, taxon],
            None if range_.last is None or range_.first is None else (range_.last, range_.first),
        )
        for taxon, range_ in enumerate(chart.ranges)
        if common[taxon]
    ]
    if common.all():
        return columns
    rest = ~common
    return [
        *columns,
        _Column(
            f"{int(rest.sum())} rarer taxa",
            counts[:, rest].sum(axis=1),
            shares[:, rest].sum(axis=1),
            chart.determined[:, rest].sum(axis=1),
            None,
        ),
    ]


def _draw_totals(
    panel: Axes, chart: WellChart, y: NDArray[np.float64], thickness: NDArray[np.float64]
) -> None:
    total = chart.estimate.objects
    width = _TOTAL_SHARE - 0.045
    bars = total / max(total.max(), 1) * width
    panel.barh(y, bars, height=thickness, color=QUIET, alpha=0.55, linewidth=0)
    if len(y) <= MOST_LABELS:
        for depth, bar, count in zip(y, bars, total, strict=True):
            _number(panel, bar, depth, float(count))
    _title(panel, 0.0, "Objects counted", colour=QUIET)
    panel.axvline(0, color=RULE, linewidth=0.6)


def _draw_taxa(
    panel: Axes,
    columns: Sequence[_Column],
    y: NDArray[np.float64],
    thickness: NDArray[np.float64],
    *,
    has_depths: bool,
) -> None:
    if not columns:
        return
    scale, widths = _fit_columns(np.array([column.shares.max() for column in columns]))
    left = _TOTAL_SHARE
    step = _step(scale)
    bottom = panel.get_ylim()[0]
    for column, width in zip(columns, widths, strict=True):
        bars = column.shares * scale
        panel.axvline(left, color=RULE, linewidth=0.6)
        if has_depths:
            panel.fill_betweenx(y, left, left + bars, color=BAR, alpha=0.14, linewidth=0)
        if has_depths and column.range_ is not None:
            last, first = column.range_
            ends = [y[last] - thickness[last] / 2, y[first] + thickness[first] / 2]
            panel.plot([left, left], ends, color=BAR, linewidth=1.6, solid_capstyle="butt")
        panel.barh(y, bars, left=left, height=thickness, color=BAR, alpha=0.92, linewidth=0)
        seen = np.flatnonzero(column.determined)
        panel.plot(np.full(len(seen), left), y[seen], marker="o", markersize=2.6, color=INK, linewidth=0)
        if len(y) <= MOST_LABELS:
            for row, count in enumerate(column.counts.tolist()):
                _number(panel, left + bars[row], y[row], count)
        _title(panel, left, column.title, colour=INK)
        _draw_scale(panel, left, bottom, step, scale, float(column.shares.max()))
        left += width + _GAP_SHARE
    _annotate_below(
        panel,
        f"Ticks: every {100 * step:.0f} % of a sample's objects"
        + ("; ● determined by an expert" if any(column.determined.any() for column in columns) else ""),
        (_TOTAL_SHARE, bottom),
        offset=-23,
        align="left",
        fontsize=7.5,
    )


def _draw_scale(panel: Axes, left: float, bottom: float, step: float, scale: float, largest: float) -> None:
    for mark in np.arange(step, largest + 1e-9, step):
        panel.plot([left + mark * scale] * 2, [bottom, bottom], marker=3, color=RULE, clip_on=False)
        _annotate_below(panel, f"{100 * mark:.0f}", (left + mark * scale, bottom), offset=-10, fontsize=6.5)


def _annotate_below(
    panel: Axes,
    text: str,
    position: tuple[float, float],
    *,
    offset: float,
    fontsize: float,
    align: Literal["left", "center"] = "center",
) -> None:
    panel.annotate(
        text,
        position,
        xytext=(0, offset),
        textcoords="offset points",
        ha=align,
        va="center",
        fontsize=fontsize,
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


def _mark_empty(panel: Axes, chart: WellChart, y: NDArray[np.float64]) -> None:
    """Draw a dashed line through each sample without objects, with the reason."""
    without = "not classified yet" if chart.well_samples.predictions is not None else "no labels"
    for sample, depth in zip(chart.well_samples.samples, y, strict=True):
        if sample.objects:
            continue
        reason = "barren" if sample.is_barren else without
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


def _number(panel: Axes, x: float, y: float, count: float) -> None:
    """Write the count beside a bar; less than half an object has none."""
    if count < 0.5:
        return
    panel.annotate(
        f"{count:,.0f}",
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
