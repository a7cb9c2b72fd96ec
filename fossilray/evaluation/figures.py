"""Figures of an evaluation as SVG: layouts of vectors in the plane, and curves."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fossilray.evaluation.liu2022 import ClassResult, Liu2022
from fossilray.evaluation.scampi import Scampi

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKERS = "osD^vP"
_COLOURS = 10


def tsne_layout(vectors: NDArray[np.floating], *, seed: int = 0) -> NDArray[np.float32]:
    """Return positions (n, 2) of vectors by t-SNE (van der Maaten & Hinton 2008), initialised by PCA."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(vectors) - 1) / 3)
    model = TSNE(perplexity=perplexity, init="pca", learning_rate="auto", random_state=seed)
    return np.asarray(model.fit_transform(vectors.astype(np.float32)), np.float32)


def umap_layout(vectors: NDArray[np.floating], *, seed: int = 0) -> NDArray[np.float32] | None:
    """Return positions (n, 2) of vectors by UMAP (McInnes et al. 2018); None where umap-learn is not installed."""
    try:
        import umap
    except ImportError:
        return None
    model = umap.UMAP(n_neighbors=min(15, len(vectors) - 1), random_state=seed, n_jobs=1)
    return np.asarray(model.fit_transform(vectors.astype(np.float32)), np.float32)


def draw_map(
    positions: NDArray[np.float32], label: NDArray[np.int64], classes: Sequence[str], *, title: str
) -> bytes:
    """Draw one mark a crop, with the colour and shape of its class, as SVG."""
    import matplotlib as mpl

    with picture_style(title):
        figure = white_figure(9.5, 6.2)
        axes = figure.subplots()
        colours = mpl.colormaps["tab10"]
        for number, name in enumerate(classes):
            of_class = positions[label == number]
            axes.scatter(
                of_class[:, 0],
                of_class[:, 1],
                s=26,
                color=colours(number % _COLOURS),
                marker=_MARKERS[number // _COLOURS % len(_MARKERS)],
                linewidths=0.3,
                edgecolors="white",
                label=name,
            )
        axes.spines[:].set_visible(False)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(title, loc="left")
        columns = 1 + (len(classes) - 1) // 26
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=7.5, ncols=columns)
        return save_svg(figure)


def draw_precision_recall(result: Scampi) -> bytes:
    """Draw the precision-recall curve with its ends, as SVG."""
    with picture_style("curve"):
        figure = white_figure(6.2, 4.2)
        axes = figure.subplots()
        recall = [0.0, *(point.recall for point in result.curve), 1.0]
        precision = [1.0, *(point.precision for point in result.curve), 0.0]
        axes.fill_between(recall, precision, color="#3f6f94", alpha=0.12, linewidth=0)
        axes.plot(recall, precision, color="#3f6f94", linewidth=1.2)
        for point in result.curve:
            at_nk = point.k is None
            axes.plot(
                point.recall,
                point.precision,
                "D" if at_nk else "o",
                color="#9a5b13" if at_nk else "#3f6f94",
                ms=5 if at_nk else 3,
            )
            if at_nk or point.k == 1:
                axes.annotate(
                    f"k = {'N' if at_nk else 1}" + ("ₖ" if at_nk else ""),
                    (point.recall, point.precision),
                    textcoords="offset points",
                    xytext=(7, 5),
                    fontsize=8,
                )
        axes.set(xlabel="mean recall", ylabel="mean precision", xlim=(0, 1), ylim=(0, 1.02))
        axes.set_title(f"area {result.pr_auc:.3f}", loc="left")
        return save_svg(figure)


@contextmanager
def picture_style(name: str) -> Iterator[None]:
    """Set matplotlib's style for one figure; `name` makes the ids in its SVG reproducible."""
    import matplotlib as mpl

    with mpl.rc_context(
        {
            "svg.fonttype": "none",  # text stays text, so that the reader's fonts show any script
            "svg.hashsalt": name,
            "text.parse_math": False,  # a class's name may hold dollar signs
            "font.family": "sans-serif",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": "#999",
        }
    ):
        yield


def white_figure(width_in: float, height_in: float) -> Figure:
    """Return a figure that pyplot does not manage."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), facecolor="white")


def save_svg(figure: Figure) -> bytes:
    """Encode a figure as SVG without date and program."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def draw_roc(result: Liu2022) -> bytes:
    """Draw the micro and macro average of the ROC curves of each class against the rest, as SVG."""
    with picture_style("roc"):
        figure = white_figure(5.2, 4.2)
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color="#bbb", linewidth=0.8, linestyle=":")
        for curve, name, colour in ((result.micro, "micro", "#3f6f94"), (result.macro, "macro", "#9a5b13")):
            axes.plot(
                curve.false_positive,
                curve.true_positive,
                color=colour,
                linewidth=1.4,
                label=f"{name} average, area {curve.auc:.3f}",
            )
        axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.01, 1), ylim=(0, 1.01))
        axes.legend(frameon=False, loc="lower right", fontsize=8)
        return save_svg(figure)


def draw_recall_against_size(result: Liu2022) -> bytes:
    """Draw recall against training crops as SVG: one dot a class, larger for more test crops."""
    with picture_style("size"):
        figure = white_figure(6.4, 4.2)
        axes = figure.subplots()
        rows = [row for row in result.per_class if row.tested]
        axes.scatter(
            [row.train_crops for row in rows],
            [row.recall for row in rows],
            s=[10 + 6 * math.sqrt(row.tested) for row in rows],
            color="#3f6f94",
            alpha=0.75,
            linewidths=0,
        )
        axes.set_xscale("log")
        named: list[ClassResult] = []
        for row in sorted(rows, key=lambda row: row.recall)[:8]:
            if any(_would_overlap(row, other) for other in named):
                continue
            named.append(row)
            axes.annotate(
                row.name,
                (row.train_crops, row.recall),
                textcoords="offset points",
                xytext=(6, -3),
                fontsize=7,
            )
        axes.set(xlabel="training crops of the class", ylabel="recall", ylim=(-0.03, 1.03))
        from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter

        sizes = np.array([row.train_crops for row in rows])
        if sizes.max() < 10 * sizes.min():
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(ScalarFormatter())
        return save_svg(figure)


def _would_overlap(row: ClassResult, other: ClassResult) -> bool:
    """Return whether the names of two classes would cover each other."""
    return (
        abs(row.recall - other.recall) < 0.05
        and row.train_crops < 2 * other.train_crops < 4 * row.train_crops
    )
