"""How well vectors tell classes apart that nobody trained them on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
