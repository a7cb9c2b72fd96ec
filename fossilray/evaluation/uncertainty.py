"""Evaluate the uncertainty that a head states, and write page, tables and the reliability diagram."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fossilray.core.config.choices import HeadKind
from fossilray.core.types import OnProgress, ignore_progress
from fossilray.evaluation.figures import picture_style, save_svg, white_figure
from fossilray.evaluation.output import Evaluation, encode_csv, evaluation_metadata, write_evaluation
from fossilray.evaluation.uncertainty_scores import (
    ALL_NOVELTY,
    UNCERTAINTY_SPLITS,
    SetCoverage,
    UncertaintyScores,
    score_uncertainty,
)
from fossilray.labels.embed import EmbeddedCrops
from fossilray.labels.load import LabelledSet
from fossilray.models.heads.calibration import Bin

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def evaluate_uncertainty(
    labelled: LabelledSet,
    embedded: EmbeddedCrops,
    *,
    kind: HeadKind,
    out: Path,
    labels: str,
    splits: int = UNCERTAINTY_SPLITS,
    coverage: float = 0.9,
    wrong_share: float = 0.05,
    on_progress: OnProgress = ignore_progress,
) -> Evaluation:
    """Score calibration, prediction sets, the entropy threshold and novelty on crops that a head was not trained on.

    Writes evaluation.html, evaluation.json, coverage.csv, wells.csv, reliability.csv, novelty.csv and
    reliability.svg.

    Args:
        labelled: The labelled crops.
        embedded: Their vectors.
        kind: Kind of the trained head.
        out: Folder for the files.
        labels: Name of the labels on the page.
        splits: Stratified divisions into training and test crops.
        coverage: Target coverage of prediction sets.
        wrong_share: Share of wrong predictions allowed among those that the entropy threshold keeps.
        on_progress: Called after each division and each group of wells.

    Raises:
        UsageError: There are too few labels, or the folder cannot be written.
    """
    result = score_uncertainty(
        labelled,
        embedded,
        kind=kind,
        splits=splits,
        coverage=coverage,
        wrong_share=wrong_share,
        on_progress=on_progress,
    )
    # With two wells, the one that is left for training cannot be divided by wells once more.
    by_well = {row.name: row for row in result.wells_by_wells}
    return write_evaluation(
        out,
        "uncertainty.html.j2",
        labelled,
        metadata=evaluation_metadata(
            labelled,
            protocol="certainty",
            labels=labels,
            backbone=embedded.backbone,
            head=kind,
            splits=splits,
            coverage=coverage,
            wrong_share=wrong_share,
        ),
        figures=result.figures,
        files={**_tables(result), "reliability.svg": _draw_reliability(result)},
        result=result,
        wells=[(row, by_well.get(row.name)) for row in result.wells],
        kinds=ALL_NOVELTY,
    )


def _tables(result: UncertaintyScores) -> dict[str, bytes]:
    return {
        "coverage.csv": _encode_coverage(("genus", result.classes)),
        "wells.csv": _encode_coverage(
            ("crops held out", result.wells), ("wells held out", result.wells_by_wells)
        ),
        "reliability.csv": encode_csv(
            ("temperature", "low", "high", "predictions", "confidence", "accuracy"),
            (
                (temperature, row.low, row.high, row.count, row.confidence, row.accuracy)
                for temperature, bins in (("fitted", result.bins), ("none", result.bins_uncalibrated))
                for row in bins
            ),
        ),
        "novelty.csv": encode_csv(
            ("genus withheld", "crops", *(f"auroc_{kind}" for kind in ALL_NOVELTY)),
            (
                (genus.name, genus.crops, *(genus.auroc[kind] for kind in ALL_NOVELTY))
                for genus in result.left_out_genera
            ),
        ),
    }


def _encode_coverage(*tables: tuple[str, Sequence[SetCoverage]]) -> bytes:
    return encode_csv(
        ("of", "name", "asked", "covered", "genera_in_a_set"),
        ((group, row.name, row.tested, row.covered, row.mean_size) for group, rows in tables for row in rows),
    )


def _draw_reliability(result: UncertaintyScores) -> bytes:
    """Draw the accuracy of predictions against their probability, without and with temperature scaling, as SVG."""
    figures = result.figures
    panels = (
        ("uncalibrated", result.bins_uncalibrated, figures["ECE before the temperature"]),
        ("temperature scaling", result.bins, figures["ECE"]),
    )
    with picture_style("reliability"):
        figure = white_figure(9.0, 4.9)
        grid = figure.subplots(2, 2, height_ratios=(4, 1), sharex=True, sharey="row")
        for column, (title, bins, error) in enumerate(panels):
            _draw_bins(grid[0, column], grid[1, column], bins)
            grid[0, column].set_title(f"{title}: ECE {error:.3f}", loc="left")
        grid[0, 0].set_ylabel("accuracy")
        grid[1, 0].set_ylabel("predictions")
        figure.tight_layout()
        return save_svg(figure)


def _draw_bins(upper: Axes, lower: Axes, bins: Sequence[Bin]) -> None:
    filled = [row for row in bins if row.count]
    width = 0.92 * (bins[0].high - bins[0].low)
    upper.plot([0, 1], [0, 1], color="#999", linewidth=0.8, linestyle=(0, (4, 3)))
    upper.bar(
        [(row.low + row.high) / 2 for row in filled],
        [row.accuracy for row in filled],
        width=width,
        color="#3f6f94",
        alpha=0.75,
        linewidth=0,
    )
    upper.plot(
        [row.confidence for row in filled],
        [row.accuracy for row in filled],
        "o",
        color="#9a5b13",
        markersize=4,
        linestyle="none",
    )
    upper.set(xlim=(0, 1), ylim=(0, 1.03))
    lower.bar(
        [(row.low + row.high) / 2 for row in bins],
        [row.count for row in bins],
        width=width,
        color="#b9b2a5",
        linewidth=0,
    )
    lower.set_xlabel("probability of the predicted genus")
