"""Signs that a backbone learns, or collapses, while it is trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.models.retrieval_metrics import judge_retrieval

_ROUNDING = 1e-9
"""Of a singular value of unit vectors, next to the root of their number: less is no direction."""
_VOTE_TEMPERATURE = 0.07
"""Of Wu et al. 2018, as DINO's kNN evaluation has it."""


@dataclass(frozen=True)
class Spread:
    """How much room vectors take up."""

    std: float
    """Mean over dimensions of the deviation of normalised vectors, times the root of the dimension.

    1 where they point everywhere alike, 0 where all are one (Chen and He 2021, section 4.1).
    """
    effective_rank: float
    """Dimensions in use (Roy and Vetterli 2007): exp of the entropy of the singular values' shares."""


def measure_spread(vectors: NDArray[np.floating]) -> Spread:
    """Signs of collapse of vectors (n, d); the rank is that of the centred vectors."""
    unit = normalised(vectors)
    spread = float(unit.std(axis=0).mean() * np.sqrt(unit.shape[1]))
    values = np.linalg.svd(unit - unit.mean(axis=0), compute_uv=False)
    values = values[values > _ROUNDING * np.sqrt(len(unit))]
    if not len(values):
        return Spread(spread, 0.0)
    shares = values / values.sum()
    return Spread(spread, float(np.exp(-(shares * np.log(shares)).sum())))


def knn_accuracy(vectors: NDArray[np.floating], label: NDArray[np.int64], *, neighbours: int) -> float:
    """Share of crops whose class most of their nearest others (cosine) vote for.

    A vote weighs exp(cosine / 0.07) (Wu et al. 2018, eq. 8): classes smaller than the neighbourhood can win.
    """
    unit = normalised(vectors)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, : min(neighbours, len(label) - 1)]
    weight = np.exp(np.take_along_axis(similarity, nearest, axis=1) / _VOTE_TEMPERATURE)
    votes = np.zeros((len(label), int(label.max()) + 1))
    np.add.at(votes, (np.arange(len(label))[:, None], label[nearest]), weight)
    return float((votes.argmax(axis=1) == label).mean())


def probe_vectors(
    vectors: NDArray[np.floating], label: NDArray[np.int64], *, neighbours: int
) -> dict[str, float]:
    """Figures by name: the spread of all vectors, and retrieval among those whose class is known (>= 0)."""
    spread = measure_spread(vectors)
    figures = {"embedding_std": spread.std, "effective_rank": spread.effective_rank}
    counts = np.bincount(label[label >= 0], minlength=1)
    asked = np.flatnonzero((label >= 0) & (counts[label] > 1))
    if len(np.unique(label[asked])) > 1:
        known, of = vectors[asked], label[asked]
        retrieval = judge_retrieval(known, of)
        figures |= {
            "knn_accuracy": knn_accuracy(known, of, neighbours=neighbours),
            "nearest_f1": retrieval.macro_f1,
            "precision_at_nk": retrieval.precision_at_nk,
        }
    return figures


def normalised(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """Vectors (n, d) of length 1."""
    wide = vectors.astype(np.float64)
    unit: NDArray[np.float64] = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    return unit
