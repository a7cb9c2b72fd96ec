"""Matplotlib style of printed charts, panels that share a depth scale, and picture files."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from fossilray.render.svg_charts import MOST_LABELS, ChartSample, depth_limits, row_positions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PictureForm = Literal["svg", "png"]

INK, QUIET, RULE, LOSS = "#24211c", "#716a5f", "#cfc8ba", "#a33b20"
PAPER_PX_PER_IN = 160
LEFT, TOP, BOTTOM, RIGHT, GAP = 0.95, 1.45, 0.95, 0.45, 0.11
"""Margins around the panels and the gap between them, in inches."""


@contextmanager
def print_style(name: str = "") -> Iterator[None]:
    """Apply the print style to matplotlib inside the context. `name` seeds the ids of an SVG, which are then stable."""
    import matplotlib as mpl

    with mpl.rc_context(
        {
            "svg.hashsalt": name,
            "svg.fonttype": "none",  # text stays text, so that it can be edited and searched
            "text.parse_math": False,
            "font.family": "sans-serif",
            "font.sans-serif": ["Helvetica Neue", "Arial", "DejaVu Sans"],
            "font.size": 8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": RULE,
            "text.color": INK,
            "axes.labelcolor": QUIET,
            "xtick.color": QUIET,
            "ytick.color": QUIET,
            "xtick.labelsize": 6.5,
            "xtick.major.size": 2.5,
            "xtick.major.pad": 1.5,
            "ytick.major.size": 0,
            "legend.frameon": False,
        }
    ):
        yield


class Sheet:
    """A figure whose panels stand from left to right and share one depth scale. Sizes are in inches."""

    def __init__(self, samples: Sequence[ChartSample], *, width_in: float) -> None:
        from matplotlib.figure import Figure

        self.y, self.thickness = row_positions(samples)
        self.height_in = TOP + BOTTOM + min(max(2.4, 0.26 * len(samples)), 9.0)
        self.width_in = width_in
        self.figure = Figure(figsize=(width_in, self.height_in), facecolor="white")
        self.left_in = LEFT
        self.panels: list[Axes] = []
        self.bottom, self.top = depth_limits(self.y, self.thickness)

    def panel(self, width_in: float) -> Axes:
        """Add a panel of this width to the right of the last one."""
        panel = self.figure.add_axes(
            (
                self.left_in / self.width_in,
                BOTTOM / self.height_in,
                width_in / self.width_in,
                1 - (TOP + BOTTOM) / self.height_in,
            )
        )
        panel.patch.set_visible(False)
        panel.set_ylim(self.bottom, self.top)
        panel.set_yticks([])
        self.left_in += width_in + GAP
        self.panels.append(panel)
        return panel


def to_bytes(figure: Figure, form: PictureForm, *, name: str) -> bytes:
    """Encode a figure. Equal figures give equal bytes. `name` seeds the ids of an SVG."""
    buffer = io.BytesIO()
    with print_style(name):
        metadata = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
        figure.savefig(buffer, format=form, dpi=PAPER_PX_PER_IN, metadata=metadata)
    return buffer.getvalue()


def spread_labels(y: NDArray[np.float64], sheet: Sheet, *, min_gap_in: float) -> list[int]:
    """Return the rows to label so that labels are at least `min_gap_in` apart."""
    per_in = (sheet.bottom - sheet.top) / (sheet.height_in - TOP - BOTTOM)
    kept = [0]
    for row in range(1, len(y)):
        if y[row] - y[kept[-1]] >= min_gap_in * per_in:
            kept.append(row)
    return kept


def height_of(sheet: Sheet, depth: float) -> float:
    """Return the position of a depth as a share of the figure's height, from the bottom."""
    inner = 1 - (TOP + BOTTOM) / sheet.height_in
    return BOTTOM / sheet.height_in + inner * (sheet.bottom - depth) / (sheet.bottom - sheet.top)


def put_title(panel: Axes, title: str, *, colour: str = INK) -> None:
    """Write a slanted title above a panel, in italics for taxa."""
    panel.annotate(
        title,
        (0, 1),
        xycoords="axes fraction",
        xytext=(3, 4),
        textcoords="offset points",
        rotation=50,
        rotation_mode="anchor",
        ha="left",
        va="bottom",
        fontsize=8,
        color=colour,
        style="italic" if colour == INK else "normal",
        annotation_clip=False,
    )


def mark_scale(panel: Axes, step: float | None) -> None:
    """Set few round ticks below a column whose numbers do not overlap those of the next column."""
    extent = panel.get_xlim()[1]
    width_in = panel.get_position().width * panel.figure.get_figwidth()  # type: ignore[union-attr]
    spacings = [step] if step else []
    spacings += [base * 10.0**power for power in range(-2, 7) for base in (1, 2, 5)]
    fitting = [
        spacing
        for spacing in spacings
        if spacing / extent * width_in >= (0.17 if step else 0.24) and (not step or spacing >= step)
    ]
    marks = np.arange(0, extent * 1.0001, fitting[0]) if fitting else np.array([0.0])
    if len(marks) > 1 and len(marks) > MOST_LABELS:
        marks = marks[:: len(marks) // MOST_LABELS + 1]
    shown = marks[1:] if len(marks) > 1 else marks[:0]
    panel.set_xticks(shown, [f"{mark:,g}" for mark in shown])
