"""Charts as inline SVG: colours as CSS variables of the page, for light and dark mode, and rows at depths."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from fossilray.core.text import strip_control_characters

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_IN = 11.0
MOST_LABELS = 45
"""Maximum number of samples whose rows are labelled."""

# Colours that the page's style sheet owns: matplotlib draws with a stand-in, the SVG gets the variable.
INK, QUIET, RULE, BAR, PAPER = "#010203", "#040506", "#070809", "#0a0b0c", "#0d0e0f"
_VARIABLES = {INK: "--ink", QUIET: "--quiet", RULE: "--rule", BAR: "--bar", PAPER: "--paper"}


class ChartSample(Protocol):
    """A sample that has a row in a chart."""

    @property
    def label(self) -> str: ...

    @property
    def depth_m(self) -> float | None: ...

    @property
    def top_m(self) -> float | None: ...

    @property
    def base_m(self) -> float | None: ...


def row_positions(samples: Sequence[ChartSample]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the position (n,) of each sample's row on the y axis, and the thickness (n,) of its bar.

    A sample of an interval is as thick as its interval; samples of one depth are as thick as their distances allow.
    """
    if any(sample.depth_m is None for sample in samples):
        return np.arange(len(samples), dtype=np.float64), np.full(len(samples), 0.66)
    ends = np.array(
        [
            [sample.depth_m if end is None else end for end in (sample.top_m, sample.base_m)]
            for sample in samples
        ],
        dtype=np.float64,
    )
    y = ends.mean(axis=1)
    if len(y) < 2:
        return y, np.maximum(ends[:, 1] - ends[:, 0], 1.0)
    gaps = np.diff(np.unique(y))
    gap = float(gaps.min()) if len(gaps) else 1.0
    least = max(0.66 * gap, 0.008 * float(np.ptp(y)))
    heights = ends[:, 1] - ends[:, 0]
    # Beside intervals, a sample of one depth is a line.
    point = min(least, 0.5 * float(np.median(heights[heights > 0]))) if (heights > 0).any() else least
    point = max(point, 0.006 * float(np.ptp(y)))
    return y, np.where(heights > 0, np.maximum(heights, 0.006 * float(np.ptp(y))), point)


def depth_text(sample: ChartSample, form: str = ",.10g") -> str:
    """Return the interval of a sample as `2,030–2,040`, or its depth."""
    if sample.top_m is None or sample.base_m is None or sample.top_m == sample.base_m:
        return format(sample.depth_m, form)
    return f"{sample.top_m:{form}}–{sample.base_m:{form}}"


def set_depth_axis(
    panel: Axes, samples: Sequence[ChartSample], y: NDArray[np.float64], thickness: NDArray[np.float64]
) -> None:
    """Set up a y axis of measured depths, downwards; of sample names if a depth is missing."""
    if any(sample.depth_m is None for sample in samples):
        few = len(samples) <= MOST_LABELS
        panel.set_yticks(y if few else [], [shorten_name(sample.label) for sample in samples] if few else [])
    else:
        panel.set_ylabel("Measured depth, m", color=QUIET)
        if len(y) <= 16:
            panel.set_yticks(y, [depth_text(sample) for sample in samples])
        else:
            ticks = [tick for tick in panel.get_yticks() if y.min() <= tick <= y.max()]
            panel.set_yticks(ticks, [f"{depth:,.10g}" for depth in ticks])
    bottom, top = depth_limits(y, thickness)
    panel.set_ylim(bottom, top)


def depth_limits(y: NDArray[np.float64], thickness: NDArray[np.float64]) -> tuple[float, float]:
    """Return the lower and the upper end of a y axis that holds all bars."""
    margin = 0.4 * float(np.median(thickness))
    return float((y + thickness / 2).max()) + margin, float((y - thickness / 2).min()) - margin


def shorten_name(name: str) -> str:
    """Shorten a name to the margin of a chart, without characters that reorder text."""
    name = strip_control_characters(name)
    return name if len(name) <= 28 else f"{name[:16]}…{name[-10:]}"


@contextmanager
def chart_style(name: str) -> Iterator[None]:
    """Draw with the page's fonts and colours in this block; `name` makes SVG ids reproducible."""
    import matplotlib as mpl

    with mpl.rc_context(
        {
            "svg.fonttype": "none",  # text stays text: the page sets its font, and it can be searched
            "svg.hashsalt": name,
            "text.parse_math": False,  # a slide's name may hold dollar signs
            "font.size": 8,
            "axes.titlesize": 8.5,
            "axes.titlepad": 9,
            "axes.labelsize": 7.5,
            "axes.edgecolor": RULE,
            "axes.labelcolor": QUIET,
            "axes.titlecolor": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.spines.left": False,
            "xtick.color": RULE,
            "ytick.color": RULE,
            "xtick.labelcolor": QUIET,
            "ytick.labelcolor": INK,
            "xtick.labelsize": 7.5,
            "ytick.labelsize": 7.5,
            "xtick.major.size": 3,
            "ytick.major.size": 0,
        }
    ):
        yield


def new_figure(*, height_in: float) -> Figure:
    """Create a figure without pyplot, which needs no display and no closing."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02)  # type: ignore[union-attr,call-arg]
    figure.patch.set_visible(False)
    return figure


def to_svg(figure: Figure, name: str) -> str:
    """Return the figure as inline SVG with ids that are unique on the page."""
    for panel in figure.axes:
        panel.patch.set_visible(False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = _keep_ids_apart(svg, name)
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, f"var({variable})")
    return svg


def _keep_ids_apart(svg: str, name: str) -> str:
    """Prefix ids that the SVG refers to with the chart's name, and remove the others."""
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "", svg)
    return re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
