"""How well vectors tell classes apart that nobody trained them on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config.choices import Distance

_ROWS_AT_ONCE = 512


@dataclass(frozen=True)
class Retrieval:
    """Leave-one-out figures over one set of labelled vectors, all in 0..1."""

    crops: int
    classes: int
    accuracy: float
    """Share of crops whose nearest neighbour is of their class."""
    macro_f1: float
    """F1 of the nearest neighbour's class, averaged over classes."""
    precision_at_nk: float
    """Share of a crop's N_k nearest that are of its class of N_k + 1, averaged over crops."""


@dataclass(frozen=True)
class Retrieved:
    """What every crop gets when it asks all the others, nearest first."""

    same: NDArray[np.bool_]
    """(n, n) of the crop's own class? The crop itself, and what is the same picture, stand last, as False."""
    nearest: NDArray[np.int64]
    """(n, m) rows of the nearest."""
    relevant: NDArray[np.int64]
    """(n,) how many there are to find: of its class, and of another picture."""

    def precision_at(self, k: NDArray[np.int64] | int) -> NDArray[np.float64]:
        """(n,) share of the k nearest that are of the crop's class; NaN where k is 0."""
        return self._hits(k) / np.where(np.asarray(k) > 0, k, np.nan)

    def recall_at(self, k: NDArray[np.int64] | int) -> NDArray[np.float64]:
        """(n,) share of what there is to find that is among the k nearest; NaN where there is nothing."""
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
) -> Retrieved:
    """Let every crop ask all the others; ties go to the earlier row. group: equal for crops that are one picture."""
    seen = vectors.astype(np.float64)
    if distance == "cosine":
        seen /= np.maximum(np.linalg.norm(seen, axis=1, keepdims=True), 1e-12)
    square = (seen**2).sum(axis=1)
    count = len(label)
    same = np.zeros((count, count), bool)
    found = np.zeros((count, min(nearest, max(count - 1, 0))), np.int64)
    for first in range(0, count, _ROWS_AT_ONCE):
        part = slice(first, first + _ROWS_AT_ONCE)
        apart = square[part, None] + square[None] - 2 * seen[part] @ seen.T
        apart[group[part, None] == group[None]] = np.inf
        order = np.argsort(apart, axis=1, kind="stable")
        itself = np.isinf(np.take_along_axis(apart, order, axis=1))
        same[part] = (label[order] == label[part, None]) & ~itself
        found[part] = order[:, : found.shape[1]]
    return Retrieved(same, found, same.sum(axis=1))


def judge_retrieval(vectors: NDArray[np.floating], label: NDArray[np.int64]) -> Retrieval:
    """Nearest-neighbour figures of vectors (n, d) by cosine similarity; every crop asks all the others.

    Raises:
        ValueError: a class has a single crop, which nothing could retrieve.
    """
    classes, label = np.unique(label, return_inverse=True)
    sizes = np.bincount(label)
    if sizes.min() < 2:
        raise ValueError("every class needs at least two crops")
    unit = vectors.astype(np.float64)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
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


def _macro_f1(truth: NDArray[np.int64], found: NDArray[np.int64], classes: int) -> float:
    right = np.bincount(truth[truth == found], minlength=classes)
    # F1 = 2 TP / (2 TP + FP + FN), and the denominator is how often a class is true plus how often said.
    return float(
        (2 * right / (np.bincount(truth, minlength=classes) + np.bincount(found, minlength=classes))).mean()
    )
