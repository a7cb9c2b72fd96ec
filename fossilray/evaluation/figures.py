"""Pictures of an evaluation as SVG files: vectors laid out on a plane, and the precision-recall curve."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fossilray.evaluation.liu2022 import ClassRow, Liu2022
from fossilray.evaluation.scampi import Scampi

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKERS = "osD^vP"
_COLOURS = 10


def lay_out_by_tsne(vectors: NDArray[np.floating], *, seed: int = 0) -> NDArray[np.float32]:
    """Places (n, 2) of vectors by t-SNE (van der Maaten & Hinton 2008), begun from their principal components."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(vectors) - 1) / 3)
    model = TSNE(perplexity=perplexity, init="pca", learning_rate="auto", random_state=seed)
    return np.asarray(model.fit_transform(vectors.astype(np.float32)), np.float32)


def lay_out_by_umap(vectors: NDArray[np.floating], *, seed: int = 0) -> NDArray[np.float32] | None:
    """Places (n, 2) of vectors by UMAP (McInnes et al. 2018); None where umap-learn is not installed."""
    try:
        import umap
    except ImportError:
        return None
    model = umap.UMAP(n_neighbors=min(15, len(vectors) - 1), random_state=seed, n_jobs=1)
    return np.asarray(model.fit_transform(vectors.astype(np.float32)), np.float32)


def draw_map(
    places: NDArray[np.float32], label: NDArray[np.int64], classes: Sequence[str], *, title: str
) -> bytes:
    """One mark a crop, of its class's colour and form, as an SVG file."""
    import matplotlib as mpl

    with picture_style(title):
        figure = new_figure(9.5, 6.2)
        axes = figure.subplots()
        colours = mpl.colormaps["tab10"]
        for number, name in enumerate(classes):
            own = places[label == number]
            axes.scatter(
                own[:, 0],
                own[:, 1],
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


def draw_curve(scampi: Scampi) -> bytes:
    """The precision-recall curve with its ends, as an SVG file."""
    with picture_style("curve"):
        figure = new_figure(6.2, 4.2)
        axes = figure.subplots()
        recall = [0.0, *(point.recall for point in scampi.curve), 1.0]
        precision = [1.0, *(point.precision for point in scampi.curve), 0.0]
        axes.fill_between(recall, precision, color="#3f6f94", alpha=0.12, linewidth=0)
        axes.plot(recall, precision, color="#3f6f94", linewidth=1.2)
        for point in scampi.curve:
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
        axes.set_title(f"area {scampi.pr_auc:.3f}", loc="left")
        return save_svg(figure)


@contextmanager
def picture_style(name: str) -> Iterator[None]:
    import matplotlib as mpl

    with mpl.rc_context(
        {
            "svg.fonttype": "none",  # text stays text, so that any script shows
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


def new_figure(width_in: float, height_in: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), facecolor="white")


def save_svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def draw_roc(found: Liu2022) -> bytes:
    """Micro and macro average of the curves of each class against the rest."""
    with picture_style("roc"):
        figure = new_figure(5.2, 4.2)
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color="#bbb", linewidth=0.8, linestyle=":")
        for curve, name, colour in ((found.micro, "micro", "#3f6f94"), (found.macro, "macro", "#9a5b13")):
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


def draw_recall_against_size(found: Liu2022) -> bytes:
    """One dot a class; its size tells how many of its crops were asked about."""
    with picture_style("size"):
        figure = new_figure(6.4, 4.2)
        axes = figure.subplots()
        rows = [row for row in found.per_class if row.asked]
        axes.scatter(
            [row.trained for row in rows],
            [row.recall for row in rows],
            s=[10 + 6 * math.sqrt(row.asked) for row in rows],
            color="#3f6f94",
            alpha=0.75,
            linewidths=0,
        )
        axes.set_xscale("log")
        named: list[ClassRow] = []
        for row in sorted(rows, key=lambda one: one.recall)[:8]:
            # A name beside another would hide it.
            if any(
                abs(row.recall - one.recall) < 0.05 and row.trained < 2 * one.trained < 4 * row.trained
                for one in named
            ):
                continue
            named.append(row)
            axes.annotate(
                row.name, (row.trained, row.recall), textcoords="offset points", xytext=(6, -3), fontsize=7
            )
        axes.set(xlabel="crops of the class to learn from", ylabel="recall", ylim=(-0.03, 1.03))
        from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter

        sizes = np.array([row.trained for row in rows])
        if sizes.max() < 10 * sizes.min():
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(ScalarFormatter())
        return save_svg(figure)
