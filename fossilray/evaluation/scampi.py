"""The retrieval protocol of the SCAMPI benchmark ("The Fossil Frontier", and its published code).

Every crop is a query against all others by Euclidean distance. P@N_k: for a class of N_k + 1 crops, the share of its
crops among the N_k nearest, averaged over queries. The precision-recall curve joins mean recall and mean precision at
k = N_k, 1, 10, 20 … 190, 500, with ends at (0, 1) and (1, 0); PR AUC is the area under it by the trapezoidal rule.
NN F1 is the F1 of the nearest neighbour over the ten splits of the classification protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config.choices import Distance
from fossilray.core.errors import UsageError
from fossilray.core.types import OnProgress, ignore_progress
from fossilray.core.vectors import unit_vectors
from fossilray.evaluation.martinsen2024 import CLASSIFICATION_SPLITS, nearest_f1
from fossilray.models.retrieval_metrics import retrieve

_CURVE_K = (1, *range(10, 200, 10), 500)
_QUERIES_SHOWN = 10
_NEAREST_SHOWN = 9


@dataclass(frozen=True)
class CurvePoint:
    """Mean recall and precision over queries at one k; k is None at N_k, which differs between classes."""

    k: int | None
    recall: float
    precision: float


@dataclass(frozen=True)
class RankedQuery:
    """One query with its nearest neighbours."""

    row: int
    precision: float
    """P@N_k."""
    nearest: tuple[int, ...]
    """Rows of the nearest crops, nearest first."""


@dataclass(frozen=True)
class Scampi:
    """Results of the protocol."""

    queries: int
    """Crops whose class has another image."""
    nn_f1: tuple[float, ...]
    """One value a split."""
    precision_at_nk: float
    per_crop: NDArray[np.float64]
    """(n,) P@N_k of each crop; NaN where its class has no other image."""
    per_class: tuple[float, ...]
    """Mean P@N_k of each class; NaN for a class of one image."""
    curve: tuple[CurvePoint, ...]
    """Points in order of recall, without the ends."""
    pr_auc: float
    best: tuple[RankedQuery, ...]
    worst: tuple[RankedQuery, ...]


def score_retrieval(
    vectors: NDArray[np.floating],
    label: NDArray[np.int64],
    classes: Sequence[str],
    *,
    group: NDArray[np.int64],
    distance: Distance = "euclidean",
    splits: int = CLASSIFICATION_SPLITS,
    on_progress: OnProgress = ignore_progress,
) -> Scampi:
    """Run the protocol on vectors.

    Copies of a query's own image are neither retrieved nor counted. A crop whose class has no other image is no
    query, but can be retrieved. Values of k beyond the number of crops are left out of the curve.

    Args:
        vectors: (n, d).
        label: (n,) class numbers, 0 to len(classes) - 1.
        classes: Names of the classes.
        group: (n,) equal numbers for copies of one image.
        distance: Distance between vectors; published is euclidean.
        splits: Number of splits for NN F1.
        on_progress: Called after each split.

    Raises:
        UsageError: No class has two images, or there are too few crops to split.
    """
    retrieved = retrieve(vectors, label, group=group, distance=distance, nearest=_NEAREST_SHOWN)
    queries = np.flatnonzero(retrieved.relevant > 0)
    if not len(queries):
        raise UsageError("no class has two images, so nothing can be retrieved; give more labels")
    per_crop = retrieved.precision_at(retrieved.relevant)
    points = [_curve_point(None, retrieved.recall_at(retrieved.relevant)[queries], per_crop[queries])]
    for k in _CURVE_K:
        if k < len(label):
            points.append(
                _curve_point(k, retrieved.recall_at(k)[queries], retrieved.precision_at(k)[queries])
            )
    curve = tuple(sorted(points, key=lambda point: (point.recall, -point.precision)))
    order = queries[np.argsort(-per_crop[queries], kind="stable")]
    ranked = [
        RankedQuery(int(row), float(per_crop[row]), tuple(retrieved.nearest[row].tolist())) for row in order
    ]
    of_class = [per_crop[(label == c) & (retrieved.relevant > 0)] for c in range(len(classes))]
    compared = vectors.astype(np.float64)
    if distance == "cosine":
        compared = unit_vectors(compared)
    return Scampi(
        queries=len(queries),
        nn_f1=nearest_f1(compared, label, group=group, splits=splits, on_progress=on_progress),
        precision_at_nk=float(per_crop[queries].mean()),
        per_crop=per_crop,
        per_class=tuple(float(values.mean()) if len(values) else float("nan") for values in of_class),
        curve=curve,
        pr_auc=area_under(curve),
        best=tuple(ranked[:_QUERIES_SHOWN]),
        worst=tuple(ranked[::-1][:_QUERIES_SHOWN]),
    )


def area_under(curve: Sequence[CurvePoint]) -> float:
    """Return the area under a curve in order of recall, with ends (0, 1) and (1, 0), by the trapezoidal rule."""
    recall = np.array([0.0, *(point.recall for point in curve), 1.0])
    precision = np.array([1.0, *(point.precision for point in curve), 0.0])
    return float((np.diff(recall) * (precision[1:] + precision[:-1]) / 2).sum())


def _curve_point(k: int | None, recall: NDArray[np.float64], precision: NDArray[np.float64]) -> CurvePoint:
    return CurvePoint(k, float(recall.mean()), float(precision.mean()))
