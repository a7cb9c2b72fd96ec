"""Correlation of two wells: pairs of samples with similar assemblages, in stratigraphic order.

Similarity is the squared chord distance, 0 to 2 (Overpeck, Webb and Prentice 1985, Quat. Res. 23, 87-108). Samples are
paired by dynamic time warping with the symmetric steps of Sakoe and Chiba (1978, IEEE Trans. ASSP 26), so that one
sample may match several of the other well, where sediment accumulated faster. The alignment is local, after Smith and
Waterman (1981, J. Mol. Biol. 147), which Waterman and Raymond (1987, Math. Geol. 19) brought to stratigraphy: intervals
that only one well has stay unmatched.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MATCH_DISTANCE = 0.15
"""Overpeck, Webb and Prentice (1985): pollen spectra closer than 0.15 come from similar vegetation."""
SHUFFLES = 199


@dataclass(frozen=True)
class Correlation:
    """Matching samples of two wells, from the top down."""

    pairs: NDArray[np.int64]
    """(n, 2) rows of the first and of the second well; empty if no samples match."""
    distances: NDArray[np.float64]
    """(n,) squared chord distance of each pair."""
    score: float
    """Sum over the alignment; 0 if no samples match."""
    p_value: float
    """Permutation p-value: share of random orders of the second well's samples that score at least as high."""


def correlate(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    *,
    match_distance: float = MATCH_DISTANCE,
    shuffles: int = SHUFFLES,
    rng: np.random.Generator,
) -> Correlation:
    """Align the samples of two wells.

    Args:
        first, second: shares (samples, taxa) over the same taxa, from the top down.
        match_distance: squared chord distance at which a pair scores 0. A pair scores 1 - distance / match_distance.
        shuffles: random orders behind the p-value.
    """
    distance = chord_distances(first, second)
    similarity = 1 - distance / match_distance
    scores, steps = _align(similarity[None])
    best = float(scores[0].max())
    orders = np.stack([rng.permutation(len(second)) for _ in range(shuffles)])
    shuffled = _align(similarity[:, orders].transpose(1, 0, 2))[0].max(axis=(1, 2))
    p_value = (1 + int((shuffled >= best - 1e-9).sum())) / (1 + shuffles)
    pairs = _trace_back(scores[0], steps[0]) if best > 0 else []
    rows = np.array(pairs, np.int64).reshape(-1, 2)
    return Correlation(rows, distance[rows[:, 0], rows[:, 1]], best, p_value)


def chord_distances(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return squared chord distances (n, m) between samples: the sum over taxa of (sqrt p - sqrt q)^2."""
    difference = np.sqrt(first)[:, None, :] - np.sqrt(second)[None, :, :]
    distances: NDArray[np.float64] = (difference**2).sum(axis=2)
    return distances


def _align(similarity: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """Return the score (batch, n, m) of the best alignment that ends at each pair, and its last step.

    Steps: 0 starts an alignment, 1 advances in both wells, 2 in the first only, 3 in the second only.
    """
    batch, n, m = similarity.shape
    score = np.zeros((batch, n + 1, m + 1))
    step = np.zeros((batch, n, m), np.int8)
    for i in range(n):
        for j in range(m):
            pair = similarity[:, i, j]
            # A diagonal step advances in both wells, so its pair counts twice (Sakoe and Chiba).
            candidates = np.stack(
                [
                    2 * pair,
                    score[:, i, j] + 2 * pair,
                    score[:, i, j + 1] + pair,
                    score[:, i + 1, j] + pair,
                ]
            )
            # A step from a score of 0 would start an alignment, which step 0 does.
            candidates[1:] = np.where(
                np.stack([score[:, i, j], score[:, i, j + 1], score[:, i + 1, j]]) > 0,
                candidates[1:],
                -np.inf,
            )
            step[:, i, j] = candidates.argmax(axis=0)
            score[:, i + 1, j + 1] = np.maximum(candidates.max(axis=0), 0)
    return score[:, 1:, 1:], step


def _trace_back(score: NDArray[np.float64], step: NDArray[np.int8]) -> list[tuple[int, int]]:
    i, j = (int(index) for index in np.unravel_index(int(score.argmax()), score.shape))
    pairs = [(i, j)]
    while step[i, j]:
        i, j = i - (step[i, j] != 3), j - (step[i, j] != 2)
        pairs.append((int(i), int(j)))
    return pairs[::-1]
