"""The range chart of a well for paper: depth downwards, a column for each taxon, diversity, zones and their tree."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

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
from fossilray.analysis.stratigraphy.zones import Zonation
from fossilray.render.svg_charts import shorten_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Measure = Literal["percent", "counts"]

MOST_COLUMNS = 36
"""Taxa with a column of their own; the rarest beyond share the last one."""
# Hues and lightnesses apart, as Okabe and Ito (2008) advise; groups beyond share the last.
GROUP_COLOURS = ("#3f6f94", "#d5852a", "#3d8f6d", "#a85b8c", "#7a6a2f", "#7fb2d6", "#8c4a2f", "#6b6b6b")

_NARROWEST, _SIDE, _TREE = 0.3, 0.62, 1.25
_TAXA_WIDTH = (3.5, 12.5)


@dataclass(frozen=True)
class _Column:
    title: str
    colour: str
    values: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    last: int | None
    first: int | None


def draw_chart(charted: WellChart, *, measure: Measure) -> Figure:
    """The chart in per cent of a sample's objects, or in objects; one scale in all columns of taxa.

    A bar is the estimate, the line across its end the interval. A column's line is thick from a taxon's last to its
    first occurrence, where it is there for sure. Bars without filling: samples of few objects.
    """
    with print_style():
        return _draw(charted, measure)


def _draw(charted: WellChart, measure: Measure) -> Figure:
    columns = _columns(charted, measure)
    widths, largest = _lay(columns)
    zonation = charted.zonation
    beside = 3 if charted.full else 1
    side = LEFT + sum(widths) + GAP * len(widths) + beside * (_SIDE + GAP) + 0.15 + RIGHT
    sheet = Sheet(charted.found.samples, width_in=side + (0 if zonation is None else _TREE + GAP))
    for number, (column, width, extent) in enumerate(zip(columns, widths, largest, strict=True)):
        panel = sheet.panel(width)
        panel.set_xlim(0, extent)
        _draw_column(panel, column, charted, sheet, measure=measure)
        if not number:
            _draw_depths(panel, charted, sheet)
    sheet.left_in += 0.15
    _draw_side(sheet, charted)
    if zonation is not None:
        _draw_tree(sheet.panel(_TREE), charted, zonation, sheet)
    _draw_zone_lines(sheet, charted)
    _draw_words(sheet, charted, measure)
    return sheet.figure


def _columns(charted: WellChart, measure: Measure) -> list[_Column]:
    estimate = charted.estimate
    scale = 100.0 if measure == "percent" else estimate.objects[:, None]
    values, low, high = (
        np.nan_to_num(part * scale) for part in (estimate.shares, estimate.low, estimate.high)
    )
    colours = _colours(charted)
    kept = list(range(len(charted.taxa)))
    if len(kept) > MOST_COLUMNS:
        top = np.argsort(-values.max(axis=0), kind="stable")[: MOST_COLUMNS - 1]
        kept = sorted(top.tolist())
    columns = [
        _Column(
            shorten_name(charted.taxa[taxon]),
            colours[charted.groups[taxon]],
            values[:, taxon],
            low[:, taxon],
            high[:, taxon],
            charted.last[taxon],
            charted.first[taxon],
        )
        for taxon in kept
    ]
    rest = [taxon for taxon in range(len(charted.taxa)) if taxon not in kept]
    if rest:
        together = values[:, rest].sum(axis=1)
        columns.append(
            _Column(f"{len(rest)} rarer taxa", GROUP_COLOURS[-1], together, together, together, None, None)
        )
    return columns


def _colours(charted: WellChart) -> dict[str, str]:
    names = list(dict.fromkeys(charted.groups))
    return {name: GROUP_COLOURS[min(row, len(GROUP_COLOURS) - 1)] for row, name in enumerate(names)}


def _lay(columns: Sequence[_Column]) -> tuple[list[float], list[float]]:
    """The width of each column in inches, and how much it shows; a unit is as long in every column."""
    # A poor sample's interval may be cut at the column's end, a bar never.
    extents = [
        max(float(c.values.max()), min(float(c.high.max()), 1.6 * float(c.values.max()))) for c in columns
    ]
    room = float(np.clip(0.62 * len(columns), *_TAXA_WIDTH))
    scale = room / max(sum(extents), 1e-9)
    for _ in range(30):
        widths = [max(extent * scale, _NARROWEST) for extent in extents]
        scale *= room / sum(widths) if sum(widths) > max(room, _NARROWEST * len(columns) * 1.02) else 1
    return widths, [width / scale for width in widths]


def _draw_column(panel: Axes, column: _Column, charted: WellChart, sheet: Sheet, *, measure: Measure) -> None:
    y, thickness = sheet.y, sheet.thickness
    full = np.isin(np.arange(len(y)), charted.full)
    panel.axvline(0, color=RULE, linewidth=1.0)
    if column.last is not None and column.first is not None:
        ends = [y[column.last] - thickness / 2, y[column.first] + thickness / 2]
        panel.plot(
            [0, 0], ends, color=column.colour, linewidth=2.6, solid_capstyle="butt", clip_on=False, zorder=3
        )
    panel.barh(y[full], column.values[full], height=thickness, color=column.colour, alpha=0.8, linewidth=0)
    panel.barh(
        y[~full], column.values[~full], height=thickness, color="none", edgecolor=column.colour, linewidth=0.6
    )
    seen = (column.high > column.low) & np.isin(np.arange(len(y)), np.flatnonzero(charted.estimate.objects))
    panel.hlines(y[seen], column.low[seen], column.high[seen], color=INK, linewidth=0.7)
    put_title(panel, column.title)
    mark_scale(panel, 10.0 if measure == "percent" else None)


def _draw_depths(panel: Axes, charted: WellChart, sheet: Sheet) -> None:
    y, samples = sheet.y, charted.found.samples
    panel.set_ylabel("measured depth, m", fontsize=8, labelpad=4)
    kept = spread_labels(y, sheet, least_in=0.115)
    panel.set_yticks(y[kept], [f"{y[row]:,.8g}" for row in kept], fontsize=7, color=INK)
    panel.tick_params(axis="y", pad=9)
    for place, sample in zip(y, samples, strict=True):
        if sample.is_lossy:
            panel.annotate(
                "▲", (0, place), xytext=(-3, 0), textcoords="offset points", ha="right", va="center",
                fontsize=4.5, color=LOSS, annotation_clip=False,
            )  # fmt: skip


def _draw_side(sheet: Sheet, charted: WellChart) -> None:
    """Objects, Shannon's index and rarefied richness, of which the last two only where there is enough."""
    rows = np.arange(len(sheet.y))
    full = np.isin(rows, charted.full)
    objects = charted.estimate.objects
    panel = sheet.panel(_SIDE)
    panel.barh(sheet.y, objects, height=sheet.thickness, color=QUIET, alpha=0.45, linewidth=0)
    panel.set_xlim(0, max(float(objects.max()) * 1.05, 1))
    put_title(panel, "objects", colour=QUIET)
    mark_scale(panel, None)
    if not charted.full:
        return
    for title, values in (
        ("Shannon H′", [one.shannon for one in charted.diversity]),
        (f"taxa among {charted.effort:,}", [one.rarefied for one in charted.diversity]),
    ):
        panel = sheet.panel(_SIDE)
        known = np.array(values)
        shown = full & np.isfinite(known)
        panel.plot(known[shown], sheet.y[shown], color=INK, linewidth=0.8, marker="o", markersize=2.2)
        panel.set_xlim(0, max(float(known[shown].max()) * 1.1 if shown.any() else 1.0, 1e-3))
        panel.axvline(0, color=RULE, linewidth=1.0)
        put_title(panel, title, colour=QUIET)
        mark_scale(panel, None)


def _draw_tree(panel: Axes, charted: WellChart, zonation: Zonation, sheet: Sheet) -> None:
    """Grimm's dendrogram: clusters join at the total sum of squares."""
    place = dict(enumerate(sheet.y[list(charted.full)].tolist()))
    reach = dict.fromkeys(place, 0.0)
    n = len(place)
    for step, ((left, right), x) in enumerate(
        zip(zonation.merges.tolist(), zonation.dispersion.tolist(), strict=True)
    ):
        panel.plot(
            [reach[left], x, x, reach[right]],
            [place[left], place[left], place[right], place[right]],
            color=INK,
            linewidth=0.8,
            solid_joinstyle="miter",
        )
        place[n + step], reach[n + step] = (place[left] + place[right]) / 2, x
    panel.set_xlim(0, float(zonation.dispersion[-1]) * 1.03 or 1)
    put_title(panel, "CONISS", colour=QUIET)
    mark_scale(panel, None)


def _draw_zone_lines(sheet: Sheet, charted: WellChart) -> None:
    from matplotlib.lines import Line2D

    first, last = sheet.panels[0], sheet.panels[-1]
    edges = [sheet.top, *charted.borders_m, sheet.bottom]
    for border in charted.borders_m:
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
    if charted.zonation is not None and charted.zonation.number > 1:
        number = charted.zonation.number
        for zone, (upper, lower) in enumerate(itertools.pairwise(edges)):
            x = last.get_position().x1 + 0.1 / sheet.width_in
            sheet.figure.text(
                x, height_of(sheet, (upper + lower) / 2), f"Z{number - zone}", fontsize=8.5, va="center"
            )
    right = sheet.panels[-1 if charted.zonation is None else -2].get_position().x1
    for place, sample in zip(sheet.y, charted.found.samples, strict=True):
        if sample.objects:
            continue
        why = "barren" if sample.is_barren else "not classified"
        height = height_of(sheet, place)
        sheet.figure.add_artist(
            Line2D(
                [first.get_position().x0, right], [height, height], color=QUIET, linewidth=0.6, dashes=(1, 3)
            )
        )
        sheet.figure.text(
            first.get_position().x0 + 0.08 / sheet.width_in, height, why, fontsize=6.5, style="italic",
            color=QUIET, va="center", bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip


def _draw_words(sheet: Sheet, charted: WellChart, measure: Measure) -> None:
    figure, level = sheet.figure, 100 * charted.options.level
    unit = "per cent of a sample's objects" if measure == "percent" else "objects in a sample"
    carried = "the lot and the classifier's confusion" if charted.confusion is not None else "the lot alone"
    marks = [f"bars: {unit}; line: {level:g} % interval for {carried}"]
    if len(charted.full) < len(charted.found.samples):
        marks.append(f"unfilled: fewer than {charted.options.fewest} objects")
    if charted.zonation is not None:
        marks.append("CONISS: total sum of squares within clusters")
    left = LEFT / sheet.width_in
    figure.text(left, 0.42 / sheet.height_in, "; ".join(marks), fontsize=7, color=QUIET)
    if any(sample.is_lossy for sample in charted.found.samples):
        figure.text(
            left, 0.24 / sheet.height_in, "▲ part of the sample could not be read", fontsize=7, color=LOSS
        )
    groups = {name: colour for name, colour in _colours(charted).items() if name}
    x = left
    for name, colour in groups.items():
        figure.text(x, 0.06 / sheet.height_in, f"■ {shorten_name(name)}", fontsize=7.5, color=colour)
        x += (0.075 * len(shorten_name(name)) + 0.3) / sheet.width_in
    figure.text(
        left,
        1 - 0.2 / sheet.height_in,
        f"Well {shorten_name(charted.well)}",
        fontsize=11,
        weight="bold",
        va="top",
    )
