"""Evaluate retrieval by a backbone's vectors, by the protocol scampi, and write page, tables and curve."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fossilray.core.config.choices import Distance
from fossilray.core.images import resize_to
from fossilray.core.types import OnProgress, ignore_progress
from fossilray.evaluation.figures import draw_precision_recall
from fossilray.evaluation.martinsen2024 import CLASSIFICATION_SPLITS
from fossilray.evaluation.output import (
    Evaluation,
    crops_per_class,
    encode_csv,
    evaluation_metadata,
    write_evaluation,
)
from fossilray.evaluation.scampi import RankedQuery, Scampi, score_retrieval
from fossilray.labels.embed import EmbeddedCrops
from fossilray.labels.load import LabelledSet
from fossilray.render.crops import jpeg_uri

_CELL_PX = 92


@dataclass(frozen=True)
class RetrievalCrop:
    """One crop of the page, in its aspect ratio."""

    uri: str
    width_px: int
    height_px: int
    name: str
    genus: str
    correct: bool
    """Whether it is of the query's class."""


@dataclass(frozen=True)
class RetrievalRow:
    """One query of the page with its nearest neighbours."""

    precision: float
    query: RetrievalCrop
    nearest: tuple[RetrievalCrop, ...]


def evaluate_retrieval(
    labelled: LabelledSet,
    embedded: EmbeddedCrops,
    *,
    out: Path,
    labels: str,
    distance: Distance = "euclidean",
    splits: int = CLASSIFICATION_SPLITS,
    on_progress: OnProgress = ignore_progress,
) -> Evaluation:
    """Score how well a backbone's vectors retrieve crops of the same class, as the SCAMPI benchmark.

    Writes evaluation.html, evaluation.json, per_crop.csv, per_class.csv, curve.csv, nn_f1.csv and
    precision_recall.svg.

    Args:
        labelled: The labelled crops.
        embedded: Their vectors.
        out: Folder for the files.
        labels: Name of the labels on the page.
        distance: Distance between vectors; published is euclidean.
        splits: Stratified divisions for the F1 of the nearest neighbour.
        on_progress: Called after each division.

    Raises:
        UsageError: There are too few labels, or the folder cannot be written.
    """
    crops = labelled.crops
    result = score_retrieval(
        embedded.vectors,
        crops.label,
        crops.classes,
        group=labelled.group,
        distance=distance,
        splits=splits,
        on_progress=on_progress,
    )
    return write_evaluation(
        out,
        "retrieval.html.j2",
        labelled,
        metadata=evaluation_metadata(
            labelled,
            protocol="scampi",
            labels=labels,
            backbone=embedded.backbone,
            dimension=int(embedded.vectors.shape[1]),
            splits=splits,
            distance=distance,
        ),
        figures=_figures(result),
        files={**_tables(result, labelled), "precision_recall.svg": draw_precision_recall(result)},
        result=result,
        sheets=[
            ("Ten best retrievals", [_show(labelled, query) for query in result.best]),
            ("Ten worst retrievals", [_show(labelled, query) for query in result.worst]),
        ],
    )


def _figures(result: Scampi) -> dict[str, float]:
    deviation = float(np.std(result.nn_f1, ddof=1)) if len(result.nn_f1) > 1 else 0.0
    return {
        "NN F1": float(np.mean(result.nn_f1)),
        "NN F1 deviation": deviation,
        "P@N_k": result.precision_at_nk,
        "PR AUC": result.pr_auc,
    }


def _tables(result: Scampi, labelled: LabelledSet) -> dict[str, bytes]:
    crops = labelled.crops
    genera = [crops.classes[c] for c in crops.label.tolist()]
    return {
        "per_crop.csv": encode_csv(
            ("name", "genus", "precision_at_nk"),
            zip(labelled.names, genera, result.per_crop.tolist(), strict=True),
        ),
        "per_class.csv": encode_csv(
            ("genus", "crops", "precision_at_nk"),
            zip(crops.classes, crops_per_class(labelled), result.per_class, strict=True),
        ),
        "curve.csv": encode_csv(
            ("k", "recall", "precision"),
            (
                ("N_k" if point.k is None else point.k, point.recall, point.precision)
                for point in result.curve
            ),
        ),
        "nn_f1.csv": encode_csv(("split", "nn_f1"), enumerate(result.nn_f1)),
    }


def _show(labelled: LabelledSet, query: RankedQuery) -> RetrievalRow:
    return RetrievalRow(
        query.precision,
        _show_crop(labelled, query.row, query.row),
        tuple(_show_crop(labelled, row, query.row) for row in query.nearest),
    )


def _show_crop(labelled: LabelledSet, row: int, query_row: int) -> RetrievalCrop:
    crops = labelled.crops
    width, height = (max(1, round(_CELL_PX * float(side))) for side in crops.shape[row])
    return RetrievalCrop(
        jpeg_uri(resize_to(crops.pixels[row], size_px=_CELL_PX)),
        width,
        height,
        labelled.names[row],
        crops.classes[int(crops.label[row])],
        correct=int(crops.label[row]) == int(crops.label[query_row]),
    )
