"""Evaluate metric learning by the protocol karaderi2021, and write page, tables and the morphology map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fossilray.core.types import OnProgress, ignore_progress
from fossilray.evaluation.figures import tsne_layout, umap_layout
from fossilray.evaluation.karaderi2021 import (
    EmbeddingMatrix,
    Karaderi2021,
    TrainAndEmbed,
    draw_groups,
    score_metric_learning,
)
from fossilray.evaluation.morphology_map import choose_shown, render_map
from fossilray.evaluation.output import (
    Evaluation,
    crops_per_class,
    encode_confusion,
    encode_csv,
    encode_layouts,
    evaluation_metadata,
    write_evaluation,
)
from fossilray.evaluation.protocol_training import ProtocolModel, ProtocolTraining
from fossilray.labels.embed import EmbeddedCrops
from fossilray.labels.load import LabelledSet

REPETITIONS_OF_VECTORS, REPETITIONS_OF_TRAININGS = 10, 3
_CLUSTER_METRICS = ("accuracy", "f1", "nmi", "ari")


def evaluate_metric_learning(
    labelled: LabelledSet,
    source: EmbeddedCrops | ProtocolTraining,
    *,
    out: Path,
    labels: str,
    splits: int | None = None,
    withhold: Sequence[Sequence[str]] = (),
    withheld_size: int | None = None,
    maps: bool = True,
    seed: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> Evaluation:
    """Score closed and open sets of classes, as Karaderi et al. (2021).

    Writes evaluation.html, evaluation.json, closed_set.csv, open_set.csv, per_class.csv and confusion.csv.

    Args:
        labelled: The labelled crops.
        source: The crops' vectors by one backbone, or a training that is repeated without the withheld crops.
        out: Folder for the files.
        labels: Name of the labels on the page.
        splits: Repetitions of either set; by default 10 for vectors, 3 for trainings.
        withhold: Groups of classes for the open set; by default drawn at random, one for each repetition.
        withheld_size: Classes in a group that is drawn; by default two of seven.
        maps: Also write the morphology map (morphology.html, maps.csv).
        seed: Seed of the splits, the groups and the clustering.
        on_progress: Called after each repetition.

    Raises:
        UsageError: There are too few labels, a withheld class is unknown, or the folder cannot be written.
    """
    label, classes, group = labelled.crops.label, labelled.crops.classes, labelled.group
    if splits is None:
        splits = REPETITIONS_OF_VECTORS if isinstance(source, EmbeddedCrops) else REPETITIONS_OF_TRAININGS
    groups = tuple(tuple(names) for names in withhold) or draw_groups(
        label, classes, group=group, repetitions=splits, size=withheld_size, seed=seed
    )
    models: list[ProtocolModel] = []

    result = score_metric_learning(
        _train_and_embed(source, models),
        label,
        classes,
        group=group,
        repetitions=splits,
        withheld=groups,
        seed=seed,
        on_progress=on_progress,
    )
    training = None if isinstance(source, EmbeddedCrops) else source.config.what_changes_results()
    metadata = evaluation_metadata(
        labelled,
        protocol="karaderi2021",
        labels=labels,
        backbone=source.backbone if isinstance(source, EmbeddedCrops) else models[-1].backbone,
        dimension=int(result.last_vectors.shape[1]),
        splits=splits,
        seed=seed,
        training=training,
        withheld=[list(open_set.withheld) for open_set in result.open_sets],
    )
    files = _tables(result, labelled)
    if maps:
        name = metadata["backbone"]["name"]
        files |= _morphology_map(labelled, result, name=name, trained=training is not None, seed=seed)
    return write_evaluation(
        out,
        "metric_learning.html.j2",
        labelled,
        metadata=metadata,
        figures=_figures(result),
        files=files,
        result=result,
        training=training,
    )


def _train_and_embed(source: EmbeddedCrops | ProtocolTraining, models: list[ProtocolModel]) -> TrainAndEmbed:
    """Return a function that trains on some rows and embeds all; it appends the models it trains to `models`."""

    def embed(rows: NDArray[np.int64], name: str) -> EmbeddingMatrix:
        if isinstance(source, EmbeddedCrops):
            return source.vectors
        models.append(source(rows, name=name))
        return models[-1].vectors

    return embed


def _figures(result: Karaderi2021) -> dict[str, float]:
    """Return the mean over repetitions of every metric, and its standard deviation where there are several."""
    by_name = {
        "closed set: accuracy": result.closed.accuracy,
        "closed set: F1": result.closed.f1,
        "open set: accuracy": tuple(open_set.accuracy for open_set in result.open_sets),
        "open set: F1": tuple(open_set.f1 for open_set in result.open_sets),
        "open set: NMI": tuple(open_set.nmi for open_set in result.open_sets),
        "open set: ARI": tuple(open_set.ari for open_set in result.open_sets),
        "open set: accuracy by chance": tuple(open_set.chance_accuracy for open_set in result.open_sets),
    }
    figures = {}
    for name, values in by_name.items():
        figures[name] = float(np.mean(values))
        if len(values) > 1:
            figures[f"{name} deviation"] = float(np.std(values, ddof=1))
    return figures


def _tables(result: Karaderi2021, labelled: LabelledSet) -> dict[str, bytes]:
    classes, counts = labelled.crops.classes, crops_per_class(labelled)
    open_f1: dict[str, list[float]] = {name: [] for name in classes}
    for open_set in result.open_sets:
        for name, f1 in zip(open_set.withheld, open_set.per_class, strict=True):
            open_f1[name].append(f1)
    return {
        "closed_set.csv": encode_csv(
            ("repetition", "accuracy", "f1"),
            (
                (number, accuracy, f1)
                for number, (accuracy, f1) in enumerate(
                    zip(result.closed.accuracy, result.closed.f1, strict=True)
                )
            ),
        ),
        "open_set.csv": encode_csv(
            ("repetition", "withheld", "crops", *_CLUSTER_METRICS, "accuracy_by_chance"),
            (
                (
                    number,
                    "; ".join(open_set.withheld),
                    open_set.crops,
                    *(getattr(open_set, metric) for metric in _CLUSTER_METRICS),
                    open_set.chance_accuracy,
                )
                for number, open_set in enumerate(result.open_sets)
            ),
        ),
        "per_class.csv": encode_csv(
            ("genus", "crops", "closed_f1", "times_withheld", "open_f1"),
            (
                (
                    name,
                    counts[c],
                    result.closed.per_class[c],
                    len(open_f1[name]),
                    float(np.mean(open_f1[name])) if open_f1[name] else None,
                )
                for c, name in enumerate(classes)
            ),
        ),
        "confusion.csv": encode_confusion(classes, result.closed.confusion),
    }


def _morphology_map(
    labelled: LabelledSet, result: Karaderi2021, *, name: str, trained: bool, seed: int
) -> dict[str, bytes]:
    """Return morphology.html and maps.csv, by the vectors of the last repetition."""
    rows = choose_shown(labelled.crops.label, seed=seed)
    vectors = result.last_vectors[rows]
    positions = {"UMAP": umap_layout(vectors), "t-SNE": tsne_layout(vectors)}
    layouts = {layout: xy for layout, xy in positions.items() if xy is not None}
    caption = "Crops with similar vectors are close to each other."
    if trained:
        caption += " Squares and dashed frames mark classes withheld from training."
    page = render_map(
        labelled,
        layouts,
        rows=rows,
        title=f"Morphology map: {name}",
        caption=caption,
        withheld=result.open_sets[-1].withheld if trained else (),
    )
    return {"morphology.html": page.encode(), "maps.csv": encode_layouts(labelled, layouts, rows.tolist())}
