"""Probes of a backbone in training: retrieval, kNN accuracy, and signs of collapse."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.core.vectors import unit_vectors
from fossilray.models.retrieval_metrics import score_nearest_neighbours

_ROUNDING = 1e-9
"""Smallest singular value of unit vectors, relative to the square root of their number, that counts."""
_VOTE_TEMPERATURE = 0.07
"""Wu et al. 2018; also that of DINO's kNN evaluation."""


@dataclass(frozen=True)
class EmbeddingSpread:
    """Spread of vectors over the embedding space."""

    std: float
    """Mean over dimensions of the standard deviation of unit vectors, times the square root of the dimension.

    1 for uniformly distributed directions, 0 for identical vectors (Chen and He 2021, section 4.1).
    """
    effective_rank: float
    """Effective rank (Roy and Vetterli 2007): exp of the entropy of the normalised singular values."""


def measure_spread(vectors: NDArray[np.floating]) -> EmbeddingSpread:
    """Return the spread of vectors (n, d); the rank is that of the centred unit vectors."""
    unit = unit_vectors(vectors.astype(np.float64))
    spread = float(unit.std(axis=0).mean() * np.sqrt(unit.shape[1]))
    values = np.linalg.svd(unit - unit.mean(axis=0), compute_uv=False)
    values = values[values > _ROUNDING * np.sqrt(len(unit))]
    if not len(values):
        return EmbeddingSpread(spread, 0.0)
    shares = values / values.sum()
    return EmbeddingSpread(spread, float(np.exp(-(shares * np.log(shares)).sum())))


def knn_accuracy(vectors: NDArray[np.floating], label: NDArray[np.int64], *, neighbours: int) -> float:
    """Return the leave-one-out accuracy of a weighted vote of the nearest neighbours by cosine similarity.

    A vote weighs exp(cosine / 0.07) (Wu et al. 2018, eq. 8), so classes smaller than the neighbourhood can win.
    """
    unit = unit_vectors(vectors.astype(np.float64))
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
    """Return metrics by name: spread of all vectors (n, d), and retrieval among those with a known class (>= 0)."""
    spread = measure_spread(vectors)
    figures = {"embedding_std": spread.std, "effective_rank": spread.effective_rank}
    counts = np.bincount(label[label >= 0], minlength=1)
    queries = np.flatnonzero((label >= 0) & (counts[label] > 1))
    if len(np.unique(label[queries])) > 1:
        known, known_label = vectors[queries], label[queries]
        retrieval = score_nearest_neighbours(known, known_label)
        figures |= {
            "knn_accuracy": knn_accuracy(known, known_label, neighbours=neighbours),
            "nearest_f1": retrieval.macro_f1,
            "precision_at_nk": retrieval.precision_at_nk,
        }
    return figures
