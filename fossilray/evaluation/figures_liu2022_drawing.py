"""Pictures of liu2022 as SVG files: ROC curves, and recall against how many crops a class has."""

from __future__ import annotations

import math

import numpy as np

from fossilray.evaluation.figures import new_figure, picture_style, save_svg
from fossilray.evaluation.liu2022 import ClassRow, Liu2022


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
