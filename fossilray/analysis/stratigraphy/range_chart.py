"""Range chart of a well for print: depth downwards, a column per taxon, diversity, zones and their dendrogram."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.stratigraphy.chart import WellChart
from fossilray.analysis.stratigraphy.print_style import (
    GAP,
    INK,
    LEFT,
    LOSS,
    QUIET,
    RIGHT,
    RULE,
    Sheet,
    height_of,
    mark_scale,
    print_style,
    put_title,
    spread_labels,
)
from fossilray.analysis.stratigraphy.ranges import TaxonRange
from fossilray.analysis.stratigraphy.zones import Zonation
from fossilray.core.sample_terms import may_cave
from fossilray.render.svg_charts import depth_text, shorten_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Measure = Literal["percent", "counts", "concentration"]

MAX_COLUMNS = 36
"""With more taxa, the rarest share the last column."""
# Distinct in hue and lightness, after Okabe and Ito (2008); with more groups, the others share the last colour.
GROUP_COLOURS = ("#3f6f94", "#d5852a", "#3d8f6d", "#a85b8c", "#7a6a2f", "#7fb2d6", "#8c4a2f", "#6b6b6b")

_TYPE_MARKS = {
    "core": "■ core",
    "side-wall core": "▶ side-wall core",
    "ditch cuttings": "□ ditch cuttings",
    "outcrop": "grey box: outcrop",
}

# Inches.
_MIN_WIDTH, _SIDE, _TREE, _TYPES = 0.3, 0.62, 1.25, 0.14
_TAXA_WIDTH = (3.5, 12.5)


@dataclass(frozen=True)
class _Column:
    title: str
    colour: str
    values: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    range_: TaxonRange
    determined: NDArray[np.int64]
    """(samples,) objects that experts determined."""


def draw_chart(chart: WellChart, *, measure: Measure) -> Figure:
    """Draw the chart at one scale in all columns: per cent of a sample's objects, objects, or grains per gram or ml.

    A bar is the estimate and as high as the interval of its sample; the line across its end is the confidence interval.
    A column's axis is thick from a taxon's last to its first occurrence, and dotted where only cuttings hold it. Bars
    of samples with few objects are unfilled.
    """
    with print_style():
        return _draw(chart, measure)


def _draw(chart: WellChart, measure: Measure) -> Figure:
    columns = _columns(chart, measure)
    widths, largest = _fit_widths(columns)
    zonation = chart.zonation
    side_panels = 3 if chart.well_sampled else 1
    width_in = LEFT + sum(widths) + GAP * len(widths) + side_panels * (_SIDE + GAP) + 0.15 + RIGHT
    width_in += 0 if zonation is None else _TREE + GAP
    has_types = any(sample.sample_type is not None for sample in chart.well_samples.samples)
    width_in += _TYPES + GAP if has_types else 0
    sheet = Sheet(chart.well_samples.samples, width_in=width_in)
    if has_types:
        _draw_types(sheet.panel(_TYPES), chart, sheet)
    for column, width, extent in zip(columns, widths, largest, strict=True):
        panel = sheet.panel(width)
        panel.set_xlim(0, extent)
        _draw_column(panel, column, chart, sheet, measure=measure)
    sheet.left_in += 0.15
    _draw_side(sheet, chart)
    _draw_depths(sheet.panels[0], chart, sheet)
    if zonation is not None:
        _draw_tree(sheet.panel(_TREE), chart, zonation, sheet)
    _draw_zone_lines(sheet, chart)
    _draw_legend(sheet, chart, measure)
    return sheet.figure


def _columns(chart: WellChart, measure: Measure) -> list[_Column]:
    values, low, high = _measured(chart, measure)
    colours = _colours(chart)
    kept = list(range(len(chart.taxa)))
    if len(kept) > MAX_COLUMNS:
        top = np.argsort(-values.max(axis=0), kind="stable")[: MAX_COLUMNS - 1]
        kept = sorted(top.tolist())
    columns = [
        _Column(
            shorten_name(chart.taxa[taxon]),
            colours[chart.groups[taxon]],
            values[:, taxon],
            low[:, taxon],
            high[:, taxon],
            chart.ranges[taxon],
            chart.determined[:, taxon],
        )
        for taxon in kept
    ]
    rest = [taxon for taxon in range(len(chart.taxa)) if taxon not in kept]
    if rest:
        total = values[:, rest].sum(axis=1)
        columns.append(
            _Column(
                f"{len(rest)} rarer taxa",
                GROUP_COLOURS[-1],
                total,
                total,
                total,
                TaxonRange(None, None, None),
                chart.determined[:, rest].sum(axis=1),
            )
        )
    return columns


def _measured(chart: WellChart, measure: Measure) -> tuple[NDArray[np.float64], ...]:
    """Return values (samples, taxa) and the ends of their intervals, 0 where they are unknown."""
    estimate, concentrations = chart.estimate, chart.concentrations
    if measure == "concentration":
        assert concentrations is not None
        is_shown = np.array([unit == concentrations.unit for unit in concentrations.units])[:, None]
        return tuple(
            np.where(is_shown, np.nan_to_num(values[:, :-1], posinf=0.0), 0.0)
            for values in (concentrations.values, concentrations.low, concentrations.high)
        )
    shares = (estimate.shares, estimate.low, estimate.high)
    if measure == "percent":
        return tuple(np.nan_to_num(100.0 * each) for each in shares)
    # At least what was labelled is in the sample.
    return tuple(
        np.maximum(np.nan_to_num(each * estimate.objects[:, None]), chart.determined) for each in shares
    )


def _colours(chart: WellChart) -> dict[str, str]:
    names = list(dict.fromkeys(chart.groups))
    return {name: GROUP_COLOURS[min(row, len(GROUP_COLOURS) - 1)] for row, name in enumerate(names)}


def _fit_widths(columns: Sequence[_Column]) -> tuple[list[float], list[float]]:
    """Return the width of each column in inches and the end of its axis, at one scale in all columns."""
    # The interval of a small sample may end outside the column, a bar never does.
    extents = [
        max(float(c.values.max()), min(float(c.high.max()), 1.6 * float(c.values.max()))) for c in columns
    ]
    room = float(np.clip(0.62 * len(columns), *_TAXA_WIDTH))
    scale = room / max(sum(extents), 1e-9)
    for _ in range(30):
        widths = [max(extent * scale, _MIN_WIDTH) for extent in extents]
        scale *= room / sum(widths) if sum(widths) > max(room, _MIN_WIDTH * len(columns) * 1.02) else 1
    return widths, [width / scale for width in widths]


def _draw_column(panel: Axes, column: _Column, chart: WellChart, sheet: Sheet, *, measure: Measure) -> None:
    y, thickness = sheet.y, sheet.thickness
    filled = np.isin(np.arange(len(y)), chart.well_sampled)
    panel.axvline(0, color=RULE, linewidth=1.0)
    _draw_range(panel, column, sheet)
    # A core inside an interval of cuttings is drawn over it, and stronger.
    for row in np.argsort(-thickness, kind="stable").tolist():
        caves = may_cave(chart.well_samples.samples[row].sample_type)
        is_filled = bool(filled[row])
        panel.barh(
            y[row],
            column.values[row],
            height=thickness[row],
            color=(column.colour, 0.55 if caves else 0.8) if is_filled else "none",
            edgecolor="white" if is_filled else column.colour,
            linewidth=0.3 if is_filled else 0.6,
        )
    has_line = (column.high > column.low) & (chart.estimate.objects != 0)
    panel.hlines(y[has_line], column.low[has_line], column.high[has_line], color=INK, linewidth=0.7)
    seen = np.flatnonzero(column.determined)
    panel.plot(
        np.zeros(len(seen)),
        y[seen],
        marker="o",
        markersize=3.0,
        color=INK,
        linewidth=0,
        clip_on=False,
        zorder=4,
    )
    put_title(panel, column.title)
    mark_scale(panel, 10.0 if measure == "percent" else None)


def _draw_range(panel: Axes, column: _Column, sheet: Sheet) -> None:
    """Draw the range on the column's axis: thick as far as it is firm, dotted into cuttings below, open at its end."""
    range_, upper, lower = column.range_, sheet.y - sheet.thickness / 2, sheet.y + sheet.thickness / 2
    if range_.last is None or range_.first is None or range_.reliable_first is None:
        return
    style: dict[str, Any] = {"color": column.colour, "clip_on": False, "zorder": 3}
    firm_end = lower[max(range_.reliable_first, range_.last)]
    panel.plot([0, 0], [upper[range_.last], firm_end], linewidth=2.6, solid_capstyle="butt", **style)
    if not range_.is_first_doubtful:
        return
    panel.plot([0, 0], [firm_end, lower[range_.first]], linewidth=1.8, dashes=(1, 1), **style)
    panel.annotate(
        "▽", (0, lower[range_.first]), xytext=(0, -1), textcoords="offset points", ha="center", va="top",
        fontsize=5.5, color=column.colour, annotation_clip=False,
    )  # fmt: skip


def _draw_types(panel: Axes, chart: WellChart, sheet: Sheet) -> None:
    """Draw the types of samples: a cored interval black, cuttings as an open box, a side-wall core as a triangle."""
    panel.set_xlim(0, 1)
    panel.set_xticks([])
    panel.spines["left"].set_visible(False)
    panel.spines["bottom"].set_visible(False)
    for y, height, sample in zip(sheet.y, sheet.thickness, chart.well_samples.samples, strict=True):
        if sample.sample_type == "side-wall core":
            panel.plot([0.5], [y], marker=">", markersize=4.2, color=INK, linewidth=0)
        elif sample.sample_type is not None:
            face = {"core": INK, "outcrop": RULE}.get(sample.sample_type, "none")
            panel.barh([y], [0.8], left=0.1, height=height, color=face, edgecolor=INK, linewidth=0.6)


def _draw_depths(panel: Axes, chart: WellChart, sheet: Sheet) -> None:
    y, samples = sheet.y, chart.well_samples.samples
    panel.set_ylabel("Measured depth, m", fontsize=8, labelpad=4)
    kept = spread_labels(y, sheet, min_gap_in=0.115)
    panel.set_yticks(y[kept], [depth_text(samples[row], ",.8g") for row in kept], fontsize=7, color=INK)
    panel.tick_params(axis="y", pad=9)
    for depth, sample in zip(y, samples, strict=True):
        if sample.is_lossy:
            panel.annotate(
                "▲", (0, depth), xytext=(-3, 0), textcoords="offset points", ha="right", va="center",
                fontsize=4.5, color=LOSS, annotation_clip=False,
            )  # fmt: skip


def _draw_side(sheet: Sheet, chart: WellChart) -> None:
    """Draw objects, and Shannon's index and rarefied richness of well-sampled samples."""
    well_sampled = np.isin(np.arange(len(sheet.y)), chart.well_sampled)
    objects = chart.estimate.objects
    panel = sheet.panel(_SIDE)
    panel.barh(sheet.y, objects, height=sheet.thickness, color=QUIET, alpha=0.45, linewidth=0)
    panel.set_xlim(0, max(float(objects.max()) * 1.05, 1))
    put_title(panel, "Objects", colour=QUIET)
    mark_scale(panel, None)
    if not chart.well_sampled:
        return
    for title, values in (
        ("Shannon H′", np.array([diversity.shannon for diversity in chart.diversity])),
        (
            f"Taxa in {chart.rarefaction_size:,}",
            np.array([diversity.rarefied for diversity in chart.diversity]),
        ),
    ):
        panel = sheet.panel(_SIDE)
        shown = well_sampled & np.isfinite(values)
        panel.plot(values[shown], sheet.y[shown], color=INK, linewidth=0.8, marker="o", markersize=2.2)
        panel.set_xlim(0, max(float(values[shown].max()) * 1.1 if shown.any() else 1.0, 1e-3))
        panel.axvline(0, color=RULE, linewidth=1.0)
        put_title(panel, title, colour=QUIET)
        mark_scale(panel, None)


def _draw_tree(panel: Axes, chart: WellChart, zonation: Zonation, sheet: Sheet) -> None:
    """Draw Grimm's dendrogram, in which clusters merge at the total within-cluster sum of squares."""
    y_of = dict(enumerate(sheet.y[list(chart.well_sampled)].tolist()))
    x_of = dict.fromkeys(y_of, 0.0)
    n = len(y_of)
    for step, ((left, right), x) in enumerate(
        zip(zonation.merges.tolist(), zonation.dispersion.tolist(), strict=True)
    ):
        panel.plot(
            [x_of[left], x, x, x_of[right]],
            [y_of[left], y_of[left], y_of[right], y_of[right]],
            color=INK,
            linewidth=0.8,
            solid_joinstyle="miter",
        )
        y_of[n + step], x_of[n + step] = (y_of[left] + y_of[right]) / 2, x
    panel.set_xlim(0, float(zonation.dispersion[-1]) * 1.03 or 1)
    put_title(panel, "CONISS", colour=QUIET)
    mark_scale(panel, None)


def _draw_zone_lines(sheet: Sheet, chart: WellChart) -> None:
    from matplotlib.lines import Line2D

    first, last = sheet.panels[0], sheet.panels[-1]
    edges = [sheet.top, *chart.borders_m, sheet.bottom]
    for border in chart.borders_m:
        height = height_of(sheet, border)
        sheet.figure.add_artist(
            Line2D(
                [first.get_position().x0, last.get_position().x1 + 0.25 / sheet.width_in],
                [height, height],
                color=INK,
                linewidth=0.8,
                dashes=(4, 3),
            )
        )
    if chart.zonation is not None and chart.zonation.number > 1:
        number = chart.zonation.number
        for zone, (upper, lower) in enumerate(itertools.pairwise(edges)):
            x = last.get_position().x1 + 0.1 / sheet.width_in
            sheet.figure.text(
                x, height_of(sheet, (upper + lower) / 2), f"Z{number - zone}", fontsize=8.5, va="center"
            )
    right = sheet.panels[-1 if chart.zonation is None else -2].get_position().x1
    for depth, sample in zip(sheet.y, chart.well_samples.samples, strict=True):
        if sample.objects:
            continue
        reason = "not classified" if chart.well_samples.predictions is not None else "no labels"
        reason = "barren" if sample.is_barren else reason
        height = height_of(sheet, depth)
        sheet.figure.add_artist(
            Line2D(
                [first.get_position().x0, right], [height, height], color=QUIET, linewidth=0.6, dashes=(1, 3)
            )
        )
        sheet.figure.text(
            first.get_position().x0 + 0.08 / sheet.width_in, height, reason, fontsize=6.5, style="italic",
            color=QUIET, va="center", bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip


def _draw_legend(sheet: Sheet, chart: WellChart, measure: Measure) -> None:
    figure, level = sheet.figure, 100 * chart.options.level
    unit = {
        "percent": "relative abundance, % of a sample's objects",
        "counts": "objects per sample",
        "concentration": f"grains per {chart.concentrations.unit}, from the marker grains"
        if chart.concentrations is not None
        else "",
    }[measure]
    errors = "sampling and classification error" if chart.confusion is not None else "sampling error only"
    marks = [f"Bars: {unit}; lines: {level:g} % interval ({errors})"]
    if len(chart.well_sampled) < len(chart.well_samples.samples):
        marks.append(f"unfilled: fewer than {chart.options.min_objects} objects")
    if chart.zonation is not None:
        marks.append("CONISS: total within-cluster sum of squares")
    kinds = {sample.sample_type for sample in chart.well_samples.samples}
    of_types = [text for kind, text in _TYPE_MARKS.items() if kind in kinds]
    if any(range_.is_first_doubtful for range_ in chart.ranges):
        of_types.append("▽ first occurrence in cuttings, may be caved")
    if chart.determined.any():
        of_types.append("● determined by an expert, present for sure")
    left = LEFT / sheet.width_in
    figure.text(left, 0.6 / sheet.height_in, "; ".join(of_types), fontsize=7, color=QUIET)
    figure.text(left, 0.42 / sheet.height_in, "; ".join(marks), fontsize=7, color=QUIET)
    if any(sample.is_lossy for sample in chart.well_samples.samples):
        figure.text(
            left, 0.24 / sheet.height_in, "▲ part of the sample was unreadable", fontsize=7, color=LOSS
        )
    groups = {name: colour for name, colour in _colours(chart).items() if name}
    x = left
    for name, colour in groups.items():
        figure.text(x, 0.06 / sheet.height_in, f"■ {shorten_name(name)}", fontsize=7.5, color=colour)
        x += (0.075 * len(shorten_name(name)) + 0.3) / sheet.width_in
    figure.text(
        left,
        1 - 0.2 / sheet.height_in,
        f"Well {shorten_name(chart.well)}",
        fontsize=11,
        weight="bold",
        va="top",
    )
