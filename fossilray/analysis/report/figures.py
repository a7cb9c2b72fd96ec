"""Charts of a report: objects against depth, and distributions of measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fossilray.render.slide_overview import SIZE_CLASSES
from fossilray.render.svg_charts import (
    BAR,
    INK,
    MOST_LABELS,
    PAPER,
    QUIET,
    RULE,
    chart_style,
    new_figure,
    row_positions,
    set_depth_axis,
    to_svg,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Quartiles:
    """Quartiles of a measure."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class DepthSample:
    """All slides of a well at one depth. Measures of objects are None if no objects were read."""

    label: str
    depth_m: float | None
    objects: int
    scanned_mm2: float
    class_counts: NDArray[np.int64] | None
    """Objects in each of SIZE_CLASSES."""
    opacity: Quartiles | None
    colour: tuple[int, int, int] | None
    """Median RGB of the objects."""
    top_m: float | None = None
    base_m: float | None = None

    @property
    def objects_per_mm2(self) -> float:
        return self.objects / self.scanned_mm2 if self.scanned_mm2 > 0 else 0.0


@dataclass(frozen=True)
class Distributions:
    """Measures of objects, each (objects,); NaN where unknown."""

    longest_um: NDArray[np.float64]
    opacity: NDArray[np.float64]
    sharpness: NDArray[np.float64]
    score: NDArray[np.float64]


def draw_depth_chart(samples: Sequence[DepthSample], *, densest_per_mm2: float, name: str) -> str:
    """Draw one well as SVG, depth downwards: objects per mm², size classes, opacity and colour.

    Args:
        samples: from the top down; samples without a depth are drawn in the given order.
        densest_per_mm2: end of the density axis, equal for all wells of a report.
        name: prefix of the SVG's ids, which must differ between charts of one page.
    """
    y, thickness = row_positions(samples)
    with chart_style(name):
        figure = new_figure(height_in=min(max(1.25 + 0.24 * len(samples), 2.2), 8.0))
        panels = figure.subplots(
            1, 4, sharey=True, gridspec_kw={"width_ratios": [4.2, 4.2, 2.1, 0.55], "wspace": 0.12}
        )
        _draw_density(panels[0], samples, y, thickness, densest_per_mm2)
        _draw_composition(panels[1], samples, y, thickness)
        _draw_opacity(panels[2], samples, y)
        _draw_colours(panels[3], samples, y, thickness)
        set_depth_axis(panels[0], samples, y, thickness)
        return to_svg(figure, name)


def draw_distributions(measures: Distributions) -> str:
    """Draw histograms of size (logarithmic, coloured by size class), opacity, sharpness and score as SVG."""
    with chart_style("distributions"):
        figure = new_figure(height_in=2.5)
        panels = figure.subplots(1, 4, gridspec_kw={"wspace": 0.16})
        _draw_sizes(panels[0], measures.longest_um)
        _draw_histogram(panels[1], measures.opacity, title="Opacity", unit="mean optical density")
        _draw_histogram(
            panels[2], measures.sharpness, title="Sharpness", unit="variance of the Laplacian", log=True
        )
        _draw_histogram(
            panels[3], measures.score, title="Confidence", unit="score of the detector", span=(0.0, 1.0)
        )
        return to_svg(figure, "distributions")


def _draw_density(
    panel: Axes,
    samples: Sequence[DepthSample],
    y: NDArray[np.float64],
    thickness: NDArray[np.float64],
    end: float,
) -> None:
    density = np.array([sample.objects_per_mm2 for sample in samples])
    end = max(end, 1e-9)
    if samples[0].depth_m is not None:
        panel.fill_betweenx(y, 0, density, color=BAR, alpha=0.14, linewidth=0)
    panel.barh(y, density, height=thickness, color=BAR, alpha=0.92, linewidth=0)
    panel.set_xlim(0, end * 1.3)
    panel.set_title("Objects per mm²", loc="left")
    if len(samples) <= MOST_LABELS:
        for depth, value, sample in zip(y, density, samples, strict=True):
            panel.text(
                value + end * 0.015, depth, f"{sample.objects:,}", va="center", color=QUIET, fontsize=7
            )
    _rule_vertically(panel)


def _draw_composition(
    panel: Axes, samples: Sequence[DepthSample], y: NDArray[np.float64], thickness: NDArray[np.float64]
) -> None:
    counts = np.array(
        [np.zeros(len(SIZE_CLASSES)) if s.class_counts is None else s.class_counts for s in samples],
        dtype=np.float64,
    )
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    left = np.zeros(len(samples))
    seam = 0.5 if len(samples) <= MOST_LABELS else 0.0
    for index, size in enumerate(SIZE_CLASSES):
        panel.barh(
            y,
            share[:, index],
            left=left,
            height=thickness,
            color=size.colour,
            edgecolor=PAPER,
            linewidth=seam,
        )
        left += share[:, index]
    panel.set_xlim(0, 100)
    panel.set_xticks([0, 25, 50, 75, 100])
    panel.set_title("Size classes, % of objects", loc="left")
    panel.tick_params(axis="y", length=0)


def _draw_opacity(panel: Axes, samples: Sequence[DepthSample], y: NDArray[np.float64]) -> None:
    known = [(depth, s.opacity) for depth, s in zip(y, samples, strict=True) if s.opacity is not None]
    depths = [depth for depth, _ in known]
    medians = [quartiles.median for _, quartiles in known]
    for depth, quartiles in known:
        panel.plot([quartiles.low, quartiles.high], [depth, depth], color=BAR, linewidth=2.2, alpha=0.45)
    if samples[0].depth_m is not None and len(samples) <= MOST_LABELS:
        panel.plot(medians, depths, color=BAR, linewidth=0.8, alpha=0.6)
    panel.scatter(medians, depths, color=BAR, s=16, linewidth=0, zorder=3)
    panel.set_xlim(0, max([quartiles.high for _, quartiles in known], default=1.0) * 1.1)
    panel.set_title("Opacity, quartiles", loc="left")
    panel.tick_params(axis="y", length=0)
    _rule_vertically(panel)


def _draw_colours(
    panel: Axes, samples: Sequence[DepthSample], y: NDArray[np.float64], thickness: NDArray[np.float64]
) -> None:
    for depth, height, sample in zip(y, thickness, samples, strict=True):
        if sample.colour is not None:
            panel.barh(
                depth, 1, height=height, color=[channel / 255 for channel in sample.colour], linewidth=0
            )
    panel.set_xlim(0, 1)
    panel.set_xticks([])
    panel.set_title("colour", loc="left")
    panel.tick_params(axis="y", length=0)
    panel.spines["bottom"].set_visible(False)


def _draw_sizes(panel: Axes, longest_um: NDArray[np.float64]) -> None:
    sizes = longest_um[longest_um > 0]
    panel.set_title("longest side", loc="left")
    panel.set_xlabel("µm, log scale")
    panel.set_yticks([])
    panel.set_xscale("log")
    if not len(sizes):
        return
    low, high = np.quantile(sizes, [0.0005, 0.9995])
    edges = np.geomspace(max(low * 0.9, 0.5), max(high * 1.1, low * 1.5), 46)
    counts, _ = np.histogram(sizes, edges)
    centres = np.sqrt(edges[:-1] * edges[1:])
    borders = np.array([size.from_um for size in SIZE_CLASSES[1:]])
    colours = [SIZE_CLASSES[i].colour for i in np.searchsorted(borders, centres, side="right")]
    panel.bar(edges[:-1], counts, width=np.diff(edges) * 0.92, align="edge", color=colours, linewidth=0)
    _set_log_axis(panel, edges, steps=(1, 2, 5))
    _mark_median(panel, float(np.median(sizes)), f"median {np.median(sizes):.0f} µm")


def _draw_histogram(
    panel: Axes,
    values: NDArray[np.float64],
    *,
    title: str,
    unit: str,
    log: bool = False,
    span: tuple[float, float] | None = None,
) -> None:
    values = values[np.isfinite(values) & ((values > 0) if log else True)]
    panel.set_title(title, loc="left")
    panel.set_xlabel(unit + (", log scale" if log else ""))
    panel.set_yticks([])
    if not len(values):
        return
    low, high = span if span is not None else np.quantile(values, [0.0005, 0.9995])
    if log:
        panel.set_xscale("log")
        edges = np.geomspace(low * 0.9, max(high * 1.1, low * 1.5), 46)
    else:
        edges = np.linspace(min(low, 0.0), max(high, low + 1e-6), 46)
    counts, _ = np.histogram(values, edges)
    panel.bar(
        edges[:-1], counts, width=np.diff(edges) * 0.92, align="edge", color=BAR, alpha=0.85, linewidth=0
    )
    if log:
        _set_log_axis(panel, edges, steps=(1,) if edges[-1] / edges[0] > 300 else (1, 3))
    else:
        panel.set_xlim(edges[0], edges[-1])
    median = float(np.median(values))
    _mark_median(panel, median, f"median {median:.3g}")


def _set_log_axis(panel: Axes, edges: NDArray[np.float64], *, steps: tuple[int, ...]) -> None:
    ticks = [step * 10.0**power for power in range(-6, 9) for step in steps]
    ticks = [tick for tick in ticks if edges[0] <= tick <= edges[-1]]
    panel.set_xticks(ticks, [f"{tick:,.10g}" for tick in ticks])
    panel.set_xticks([], minor=True)
    panel.set_xlim(edges[0], edges[-1])


def _mark_median(panel: Axes, median: float, label: str) -> None:
    top = panel.get_ylim()[1]
    panel.set_ylim(0, top * 1.16)
    panel.plot([median, median], [0, top * 1.03], color=INK, linewidth=0.9)
    left, right = panel.get_xlim()
    if panel.get_xscale() == "log":
        position = np.log(median / left) / np.log(right / left)
    else:
        position = (median - left) / (right - left)
    side = "right" if position > 0.55 else "left"
    panel.annotate(
        label,
        (median, top * 1.08),
        xytext=(-3 if side == "right" else 3, 0),
        textcoords="offset points",
        ha=side,
        va="center",
        fontsize=7.5,
        color=INK,
    )


def _rule_vertically(panel: Axes) -> None:
    panel.grid(axis="x", color=RULE, linewidth=0.6)
    panel.set_axisbelow(True)
