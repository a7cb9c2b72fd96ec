"""Evaluate transfer learning by the protocol liu2022, and write page, tables and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fossilray.core.types import OnProgress, ignore_progress
from fossilray.evaluation.figures import draw_recall_against_size, draw_roc
from fossilray.evaluation.liu2022 import TRANSFER_METRICS, Liu2022, TrainAndPredict, score_transfer
from fossilray.evaluation.output import (
    Evaluation,
    encode_confusion,
    encode_csv,
    evaluation_metadata,
    write_evaluation,
)
from fossilray.evaluation.protocol_training import ProtocolModel, ProtocolTraining
from fossilray.labels.embed import EmbeddedCrops
from fossilray.labels.load import LabelledSet
from fossilray.models.heads import Head, train_head

COMPARED_SETTINGS: Mapping[str, tuple[str, ...]] = {
    f"{layers.replace('_', ' ')}, {'with' if random_crop else 'without'} random crop": (
        f"transfer.layers={layers}",
        f"views.kind={'transfer_crop' if random_crop else 'transfer'}",
    )
    for layers in ("deep_half", "all")
    for random_crop in (True, False)
}
"""The ways of training that Liu et al. compare, as assignments of training fields by the condition's name."""


def evaluate_transfer(
    labelled: LabelledSet,
    source: EmbeddedCrops | ProtocolTraining,
    *,
    out: Path,
    labels: str,
    splits: int = 1,
    reduced: Sequence[int] = (),
    compared: Mapping[str, ProtocolTraining] | None = None,
    seed: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> Evaluation:
    """Score a classifier by the measures of Liu et al. (2022).

    Writes evaluation.html, evaluation.json, repetitions.csv, per_class.csv, confusion.csv, roc.csv, conditions.csv,
    roc.svg and recall_by_size.svg.

    Args:
        labelled: The labelled crops.
        source: The crops' vectors by one backbone, on which a logistic regression is trained, or a training with
            method transfer.
        out: Folder for the files.
        labels: Name of the labels on the page.
        splits: Repetitions with other divisions into training, validation and test crops.
        reduced: Limits on the training crops of each class; each limit is one further condition.
        compared: Other ways of training by name, compared under the smallest limit.
        seed: Seed of the divisions and of the regression.
        on_progress: Called after each training.

    Raises:
        UsageError: There are too few labels, or the folder cannot be written.
    """
    models: list[ProtocolModel] = []
    crops = labelled.crops
    result = score_transfer(
        _train_and_predict(labelled, source, models, seed=seed),
        crops.label,
        crops.classes,
        group=labelled.group,
        repetitions=splits,
        reduced=reduced,
        compared={
            name: _train_and_predict(labelled, training, models, prefix=name, seed=seed)
            for name, training in (compared or {}).items()
        },
        seed=seed,
        on_progress=on_progress,
    )
    first = source if isinstance(source, EmbeddedCrops) else models[0]
    training = None if isinstance(source, EmbeddedCrops) else source.config.what_changes_results()
    return write_evaluation(
        out,
        "transfer.html.j2",
        labelled,
        metadata=evaluation_metadata(
            labelled,
            protocol="liu2022",
            labels=labels,
            backbone=first.backbone,
            dimension=int(first.vectors.shape[1]),
            splits=splits,
            seed=seed,
            training=training,
        ),
        figures=_figures(result),
        files={
            **_tables(result, crops.classes),
            "roc.svg": draw_roc(result),
            "recall_by_size.svg": draw_recall_against_size(result),
        },
        result=result,
        metrics=TRANSFER_METRICS,
        training=training,
    )


def _train_and_predict(
    labelled: LabelledSet,
    source: EmbeddedCrops | ProtocolTraining,
    models: list[ProtocolModel],
    *,
    prefix: str = "",
    seed: int,
) -> TrainAndPredict:
    """Return a function that trains on some rows and predicts all; it appends the models it trains to `models`."""
    classes = labelled.crops.classes

    def predict(rows: NDArray[np.int64], name: str) -> NDArray[np.float32]:
        if isinstance(source, EmbeddedCrops):
            head = train_head(
                source.vectors[rows],
                labelled.crops.label[rows],
                classes,
                kind="logistic",
                backbone=source.backbone,
                seed=seed,
            )
            return _probabilities_of_all_classes(head, source.vectors, classes)
        model = source(rows, name=f"{prefix}-{name}".strip("-").replace(" ", "-"))
        models.append(model)
        assert model.head is not None, "training with method transfer writes a head"
        return _probabilities_of_all_classes(model.head, model.vectors, classes)

    return predict


def _probabilities_of_all_classes(
    head: Head, vectors: NDArray[np.floating], classes: Sequence[str]
) -> NDArray[np.float32]:
    """Return probabilities (n, classes): 0 for classes without training crops."""
    probability = np.zeros((len(vectors), len(classes)), np.float32)
    probability[:, [classes.index(name) for name in head.classes]] = head.predict(vectors)
    return probability


def _figures(result: Liu2022) -> dict[str, float]:
    figures = {}
    for metric in TRANSFER_METRICS:
        figures[metric] = result.test.mean(metric)
        deviation = result.test.deviation(metric)
        if deviation is not None:
            figures[f"{metric} deviation"] = deviation
    figures["validation top1"] = float(np.nanmean(result.validation.values["top1"]))
    figures |= {"micro AUC": result.micro.auc, "macro AUC": result.macro.auc}
    if result.size_correlation is not None:
        figures["recall against size, Spearman"] = result.size_correlation
    return {name: value for name, value in figures.items() if np.isfinite(value)}


def _tables(result: Liu2022, classes: Sequence[str]) -> dict[str, bytes]:
    no_confusion = ("", None)
    return {
        "repetitions.csv": encode_csv(
            ("part", "repetition", *TRANSFER_METRICS),
            (
                (part, number, *(scores.values[metric][number] for metric in TRANSFER_METRICS))
                for part, scores in (("test", result.test), ("validation", result.validation))
                for number in range(len(scores.values["top1"]))
            ),
        ),
        "per_class.csv": encode_csv(
            (
                *("genus", "crops_learned_from", "asked", "precision", "recall", "f1", "auc"),
                *(f"{column}_{number}" for number in (1, 2, 3) for column in ("taken_for", "share")),
            ),
            (
                (
                    *(row.name, row.train_crops, row.tested, row.precision, row.recall, row.f1, row.auc),
                    *(
                        cell
                        for number in range(3)
                        for cell in (
                            (row.confusions[number].name, row.confusions[number].share)
                            if number < len(row.confusions)
                            else no_confusion
                        )
                    ),
                )
                for row in result.per_class
            ),
        ),
        "confusion.csv": encode_confusion(classes, result.confusion),
        "roc.csv": encode_csv(
            ("average", "false_positive_rate", "true_positive_rate"),
            (
                (name, float(x), float(y))
                for name, curve in (("micro", result.micro), ("macro", result.macro))
                for x, y in zip(curve.false_positive, curve.true_positive, strict=True)
            ),
        ),
        "conditions.csv": encode_csv(
            ("condition", "most_of_a_class", "crops_learned_from", *TRANSFER_METRICS),
            (
                (
                    *(condition.name, condition.max_per_class, condition.train_crops),
                    *(condition.scores.mean(metric) for metric in TRANSFER_METRICS),
                )
                for condition in result.conditions
            ),
        ),
    }
