"""Retrieval metrics: how well embeddings separate classes that the backbone was not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config.choices import Distance
from fossilray.core.vectors import unit_vectors

_ROWS_AT_ONCE = 512


@dataclass(frozen=True)
class Retrieval:
    """Leave-one-out scores of one set of labelled vectors, all in 0..1."""

    crops: int
    classes: int
    accuracy: float
    """Share of crops whose nearest neighbour is of their class."""
    macro_f1: float
    """F1 of the nearest neighbour's class, averaged over classes."""
    precision_at_nk: float
    """Share of the N_k nearest crops that are of the class, which has N_k + 1 crops; averaged over crops."""


@dataclass(frozen=True)
class Ranking:
    """For each crop as a query, all other crops ranked by distance."""

    same: NDArray[np.bool_]
    """(n, n) whether the crop at each rank is of the query's class; crops of the query's picture are last, as False."""
    nearest: NDArray[np.int64]
    """(n, m) rows of the nearest crops."""
    relevant: NDArray[np.int64]
    """(n,) number of relevant crops: of the query's class, and of another picture."""

    def precision_at(self, k: NDArray[np.int64] | int) -> NDArray[np.float64]:
        """Return the share (n,) of the k nearest crops that are relevant; NaN where k is 0."""
        return self._hits(k) / np.where(np.asarray(k) > 0, k, np.nan)

    def recall_at(self, k: NDArray[np.int64] | int) -> NDArray[np.float64]:
        """Return the share (n,) of the relevant crops among the k nearest; NaN for queries without relevant crops."""
        return self._hits(k) / np.where(self.relevant > 0, self.relevant, np.nan)

    def _hits(self, k: NDArray[np.int64] | int) -> NDArray[np.int64]:
        counts: NDArray[np.int64] = (
            self.same & (np.arange(self.same.shape[1]) < np.reshape(k, (-1, 1)))
        ).sum(1)
        return counts


def retrieve(
    vectors: NDArray[np.floating],
    label: NDArray[np.int64],
    *,
    group: NDArray[np.int64],
    distance: Distance,
    nearest: int = 9,
) -> Ranking:
    """Rank all crops for each crop; ties are ranked by row. group: equal for crops of one picture."""
    points = vectors.astype(np.float64)
    if distance == "cosine":
        points = unit_vectors(points)
    square = (points**2).sum(axis=1)
    count = len(label)
    same = np.zeros((count, count), bool)
    nearest_rows = np.zeros((count, min(nearest, max(count - 1, 0))), np.int64)
    for first in range(0, count, _ROWS_AT_ONCE):
        block = slice(first, first + _ROWS_AT_ONCE)
        squared = square[block, None] + square[None] - 2 * points[block] @ points.T
        squared[group[block, None] == group[None]] = np.inf
        order = np.argsort(squared, axis=1, kind="stable")
        is_same_picture = np.isinf(np.take_along_axis(squared, order, axis=1))
        same[block] = (label[order] == label[block, None]) & ~is_same_picture
        nearest_rows[block] = order[:, : nearest_rows.shape[1]]
    return Ranking(same, nearest_rows, same.sum(axis=1))


def score_nearest_neighbours(vectors: NDArray[np.floating], label: NDArray[np.int64]) -> Retrieval:
    """Score the nearest neighbours of vectors (n, d) by cosine similarity, each crop being the query once.

    Raises:
        ValueError: a class has a single crop, which cannot be retrieved.
    """
    classes, label = np.unique(label, return_inverse=True)
    sizes = np.bincount(label)
    if sizes.min() < 2:
        raise ValueError("every class needs at least two crops")
    unit = unit_vectors(vectors.astype(np.float64))
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    order = np.argsort(-similarity, axis=1, kind="stable")
    same = label[order] == label[:, None]
    others = sizes[label] - 1
    hits = np.array([row[:count].mean() for row, count in zip(same, others, strict=True)])
    nearest = label[order[:, 0]]
    return Retrieval(
        crops=len(label),
        classes=len(classes),
        accuracy=float((nearest == label).mean()),
        macro_f1=_macro_f1(label, nearest, len(classes)),
        precision_at_nk=float(hits.mean()),
    )


def _macro_f1(truth: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> float:
    correct = np.bincount(truth[truth == predicted], minlength=classes)
    # F1 = 2 TP / (2 TP + FP + FN); the denominator is the number of true plus the number of predicted crops.
    total = np.bincount(truth, minlength=classes) + np.bincount(predicted, minlength=classes)
    return float((2 * correct / total).mean())
