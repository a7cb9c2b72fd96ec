"""Evaluate classification on a backbone's vectors by the protocol martinsen2024, and write page, tables and maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fossilray.core.types import OnProgress, ignore_progress
from fossilray.evaluation.figures import draw_map, tsne_layout, umap_layout
from fossilray.evaluation.martinsen2024 import (
    CLASSIFICATION_METRICS,
    CLASSIFICATION_SPLITS,
    LOGISTIC,
    NEAREST,
    ClassScores,
    Martinsen2024,
    score_classification,
)
from fossilray.evaluation.output import (
    Evaluation,
    TableRows,
    encode_confusion,
    encode_csv,
    encode_layouts,
    evaluation_metadata,
    write_evaluation,
)
from fossilray.labels.embed import EmbeddedCrops
from fossilray.labels.load import LabelledSet


def evaluate_classification(
    labelled: LabelledSet,
    embedded: EmbeddedCrops,
    *,
    out: Path,
    labels: str,
    splits: int = CLASSIFICATION_SPLITS,
    maps: bool = True,
    on_progress: OnProgress = ignore_progress,
) -> Evaluation:
    """Score nearest neighbours and logistic regression on a backbone's vectors, as Martinsen et al. (2024).

    Writes evaluation.html, evaluation.json, splits.csv, summary.csv, per_class.csv and confusion.csv.

    Args:
        labelled: The labelled crops.
        embedded: Their vectors.
        out: Folder for the files.
        labels: Name of the labels on the page.
        splits: Stratified divisions into training and test crops.
        maps: Also draw t-SNE and UMAP (tsne.svg, umap.svg, maps.csv), which take longer than everything else.
        on_progress: Called after each division.

    Raises:
        UsageError: There are too few labels, or the folder cannot be written.
    """
    crops = labelled.crops
    result = score_classification(
        embedded.vectors,
        crops.label,
        crops.classes,
        group=labelled.group,
        splits=splits,
        on_progress=on_progress,
    )
    return write_evaluation(
        out,
        "classification.html.j2",
        labelled,
        metadata=evaluation_metadata(
            labelled,
            protocol="martinsen2024",
            labels=labels,
            backbone=embedded.backbone,
            dimension=int(embedded.vectors.shape[1]),
            splits=splits,
            distance="euclidean",
        ),
        figures=_figures(result),
        files={**_tables(result, crops.classes), **(_draw_maps(labelled, embedded) if maps else {})},
        result=result,
        metrics=CLASSIFICATION_METRICS,
        logistic=LOGISTIC,
        per_class=_pair_classifiers(result.per_class),
    )


def _figures(result: Martinsen2024) -> dict[str, float]:
    """Return mean and standard deviation of every metric of every classifier, named `classifier: metric`."""
    figures = {}
    for scores in result.methods:
        for metric in CLASSIFICATION_METRICS:
            summary = scores.summary(metric)
            if summary is not None:
                figures[f"{scores.method}: {metric}"] = summary.mean
                figures[f"{scores.method}: {metric} deviation"] = summary.deviation
    return figures


def _tables(result: Martinsen2024, classes: Sequence[str]) -> dict[str, bytes]:
    metrics = CLASSIFICATION_METRICS

    def by_split() -> TableRows:
        for scores in result.methods:
            for split in range(len(scores.values["accuracy"])):
                values = (scores.values[metric] for metric in metrics)
                yield scores.method, split, *(value[split] if value else None for value in values)

    def summaries() -> TableRows:
        for scores in result.methods:
            for metric in metrics:
                summary = scores.summary(metric)
                if summary is not None:
                    yield (
                        *(scores.method, metric),
                        *(summary.mean, summary.deviation, summary.lowest, summary.highest),
                    )

    return {
        "splits.csv": encode_csv(("method", "split", *metrics), by_split()),
        "summary.csv": encode_csv(
            ("method", "metric", "mean", "deviation", "lowest", "highest"), summaries()
        ),
        "per_class.csv": encode_csv(
            ("method", "genus", "crops", "asked", "precision", "recall", "f1"),
            (
                (row.method, row.name, row.crops, row.tested, row.precision, row.recall, row.f1)
                for row in result.per_class
            ),
        ),
        "confusion.csv": encode_confusion(classes, result.confusion),
    }


def _draw_maps(labelled: LabelledSet, embedded: EmbeddedCrops) -> dict[str, bytes]:
    """Draw both layouts as SVG, with the positions of the crops as maps.csv; no UMAP where it is not installed."""
    titles = {"tsne": "t-SNE", "umap": "UMAP"}
    positions: dict[str, NDArray[np.float32] | None] = {
        "tsne": tsne_layout(embedded.vectors),
        "umap": umap_layout(embedded.vectors),
    }
    layouts = {name: xy for name, xy in positions.items() if xy is not None}
    label, classes = labelled.crops.label, labelled.crops.classes
    return {
        **{f"{name}.svg": draw_map(xy, label, classes, title=titles[name]) for name, xy in layouts.items()},
        "maps.csv": encode_layouts(labelled, layouts, range(len(label))),
    }


def _pair_classifiers(rows: Sequence[ClassScores]) -> list[tuple[ClassScores, ClassScores]]:
    """Return the scores of each class under the nearest neighbour and under logistic regression."""
    nearest = [row for row in rows if row.method == NEAREST]
    logistic = [row for row in rows if row.method == LOGISTIC]
    return list(zip(nearest, logistic, strict=True))
