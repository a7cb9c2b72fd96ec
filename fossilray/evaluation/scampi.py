"""Retrieval as the SCAMPI benchmark ("The Fossil Frontier", and the code beside it) judges it.

Every crop asks all the others by Euclidean distance. P@N_k: of a class with N_k + 1 crops, the share of its class
among the N_k nearest, averaged over crops. The precision-recall curve joins mean recall and precision at
k = N_k, 1, 10, 20 … 190, 500, begun at (0, 1) and ended at (1, 0); PR AUC is the area below by trapezoids. NN F1 is
the nearest neighbour's F1 over the ten splits of the classification protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import UsageError
from fossilray.evaluation.martinsen2024 import SPLITS, nearest_f1
from fossilray.models.retrieval_metrics import Distance, retrieve

CURVE_AT = (1, *range(10, 200, 10), 500)
SHOWN = 10
"""Best and worst retrievals on a sheet."""
NEAREST_SHOWN = 9


@dataclass(frozen=True)
class CurvePoint:
    """Mean over crops at one k; k is None at N_k, which differs from class to class."""

    k: int | None
    recall: float
    precision: float


@dataclass(frozen=True)
class Retrieval:
    """One crop's own question."""

    row: int
    precision: float
    """P@N_k."""
    nearest: tuple[int, ...]
    """Rows, nearest first."""


@dataclass(frozen=True)
class Scampi:
    """All figures of the protocol."""

    asked: int
    """Crops whose class has another picture to find."""
    nn_f1: tuple[float, ...]
    """One a split."""
    precision_at_nk: float
    per_crop: NDArray[np.float64]
    """(n,) P@N_k of each crop; NaN where there was nothing to find."""
    per_class: tuple[float, ...]
    """Mean P@N_k of each class's crops; NaN for a class of one picture."""
    curve: tuple[CurvePoint, ...]
    """By recall, without its ends."""
    pr_auc: float
    best: tuple[Retrieval, ...]
    worst: tuple[Retrieval, ...]


def judge_retrievals(
    vectors: NDArray[np.floating],
    label: NDArray[np.int64],
    classes: Sequence[str],
    *,
    group: NDArray[np.int64],
    distance: Distance = "euclidean",
    splits: int = SPLITS,
) -> Scampi:
    """The protocol over vectors (n, d) with labels (n,) in 0..len(classes)-1.

    Pictures that are the query's own count neither as found nor as to be found. A crop whose class has no other
    picture does not ask, but may be found. Of the curve's k, those beyond the number of crops are left out.

    Raises:
        UsageError: no class has two pictures, or there are too few crops for the splits.
    """
    found = retrieve(vectors, label, group=group, distance=distance, nearest=NEAREST_SHOWN)
    asking = np.flatnonzero(found.relevant > 0)
    if not len(asking):
        raise UsageError("no class has two pictures, so there is nothing to retrieve; give more labels")
    per_crop = found.precision_at(found.relevant)
    points = [_point(None, found.recall_at(found.relevant)[asking], per_crop[asking])]
    for k in CURVE_AT:
        if k < len(label):
            points.append(_point(k, found.recall_at(k)[asking], found.precision_at(k)[asking]))
    curve = tuple(sorted(points, key=lambda point: (point.recall, -point.precision)))
    order = asking[np.argsort(-per_crop[asking], kind="stable")]
    spread = {c: per_crop[(label == c) & (found.relevant > 0)] for c in range(len(classes))}
    tell = [Retrieval(int(row), float(per_crop[row]), tuple(found.nearest[row].tolist())) for row in order]
    in_seen = vectors.astype(np.float64)
    if distance == "cosine":
        in_seen /= np.maximum(np.linalg.norm(in_seen, axis=1, keepdims=True), 1e-12)
    return Scampi(
        asked=len(asking),
        nn_f1=nearest_f1(in_seen, label, group=group, splits=splits),
        precision_at_nk=float(per_crop[asking].mean()),
        per_crop=per_crop,
        per_class=tuple(float(values.mean()) if len(values) else float("nan") for values in spread.values()),
        curve=curve,
        pr_auc=area_under(curve),
        best=tuple(tell[:SHOWN]),
        worst=tuple(tell[::-1][:SHOWN]),
    )


def area_under(curve: Sequence[CurvePoint]) -> float:
    """Area by trapezoids below a curve in the order of recall, from (0, 1) to (1, 0)."""
    recall = np.array([0.0, *(point.recall for point in curve), 1.0])
    precision = np.array([1.0, *(point.precision for point in curve), 0.0])
    return float((np.diff(recall) * (precision[1:] + precision[:-1]) / 2).sum())


def _point(k: int | None, recall: NDArray[np.float64], precision: NDArray[np.float64]) -> CurvePoint:
    return CurvePoint(k, float(recall.mean()), float(precision.mean()))
