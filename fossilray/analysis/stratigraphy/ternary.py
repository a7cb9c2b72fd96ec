"""The ternary diagram of palynofacies: amorphous matter, phytoclasts and palynomorphs of each sample."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.stratigraphy.palynofacies import PARTS
from fossilray.analysis.stratigraphy.print_style import INK, QUIET, RULE, print_style

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CORNERS = np.array([[0.5, np.sqrt(3) / 2], [0.0, 0.0], [1.0, 0.0]])
"""Of PARTS: amorphous matter above, phytoclasts left, palynomorphs right, as Tyson (1995) draws them."""
_STEP = 0.2
_MOST_NAMED = 25


def to_plane(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the points (n, 2) of shares (n, 3) in a triangle of side 1."""
    return np.asarray(shares @ _CORNERS, np.float64)


def draw_ternary(shares: NDArray[np.float64], labels: Sequence[str]) -> Figure:
    """Draw samples in the triangle, darker with depth.

    Args:
        shares: (samples, 3) in the order of PARTS; samples with nan are left out.
        labels: the depth of each sample.
    """
    from matplotlib.figure import Figure

    with print_style():
        figure = Figure(figsize=(5.6, 5.2), facecolor="white", layout="constrained")
        panel = figure.subplots()
        panel.set_axis_off()
        panel.set_aspect("equal")
        _draw_frame(panel)
        known = np.isfinite(shares).all(axis=1)
        points = to_plane(shares[known])
        depth = np.linspace(0.15, 1, max(int(known.sum()), 1))[: len(points)]
        panel.scatter(
            points[:, 0],
            points[:, 1],
            c=depth,
            cmap="YlOrBr",
            vmin=0,
            vmax=1.15,
            edgecolors=INK,
            linewidths=0.7,
            s=34,
            zorder=3,
        )
        named = [labels[row] for row in np.flatnonzero(known).tolist()]
        for (x, y), label in zip(points.tolist(), named if len(named) <= _MOST_NAMED else (), strict=False):
            panel.annotate(label, (x, y), xytext=(5, 3), textcoords="offset points", fontsize=6.5, color=INK)
        return figure


def _draw_frame(panel: Axes) -> None:
    for at in np.arange(0, 1 + _STEP / 2, _STEP).tolist():
        for corner in range(3):
            ends = np.zeros((2, 3))
            ends[:, corner] = at
            ends[0, (corner + 1) % 3] = ends[1, (corner + 2) % 3] = 1 - at
            line = to_plane(ends)
            is_rim = at in (0.0, 1.0)
            panel.plot(
                line[:, 0],
                line[:, 1],
                color=INK if is_rim else RULE,
                linewidth=1.0 if is_rim else 0.6,
                zorder=1,
            )
    for corner, name in enumerate(PARTS):
        panel.annotate(
            f"{name}, 100 %",
            tuple(_CORNERS[corner]),
            xytext=(0, 6 if corner == 0 else -12),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=QUIET,
        )
