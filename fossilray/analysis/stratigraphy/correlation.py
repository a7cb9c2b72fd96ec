"""Two wells set beside each other: which samples of one match which of the other, in the order of both.

Samples are alike by squared chord distance (Overpeck, Webb and Prentice 1985, Quat. Res. 23, 87-108), 0 to 2. The match
is time warping with the symmetric steps of Sakoe and Chiba (1978, IEEE Trans. ASSP 26): one sample may match
several of the other well, where that one accumulated faster. It begins and ends where it is worth most, as in Smith and
Waterman's (1981, J. Mol. Biol. 147) local alignment, which Waterman and Raymond (1987, Math. Geol. 19) brought to
stratigraphy; so what only one of the wells has stays unmatched.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MATCH_DISTANCE = 0.15
"""Overpeck, Webb and Prentice (1985) find pollen spectra below 0.15 to be of one vegetation."""
SHUFFLES = 199


@dataclass(frozen=True)
class Correlation:
    """Samples of two wells that match, from the top down."""

    pairs: NDArray[np.int64]
    """(n, 2) a sample of either well; empty where nothing matches."""
    distances: NDArray[np.float64]
    """(n,) squared chord distance of each pair."""
    score: float
    chance: float
    """How often the second well's samples, shuffled, match as well."""


def correlate(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    *,
    match_distance: float = MATCH_DISTANCE,
    shuffles: int = SHUFFLES,
    rng: np.random.Generator,
) -> Correlation:
    """The match of two wells' shares (samples, the same taxa), both from the top down.

    A pair of samples is worth 1 - distance / match_distance, so those farther apart than that cost.
    """
    distance = chord_distances(first, second)
    value = 1 - distance / match_distance
    scores, came_from = _align(value[None])
    best = float(scores[0].max())
    orders = np.stack([rng.permutation(len(second)) for _ in range(shuffles)])
    shuffled = _align(value[:, orders].transpose(1, 0, 2))[0].max(axis=(1, 2))
    chance = (1 + int((shuffled >= best - 1e-9).sum())) / (1 + shuffles)
    pairs = _walk_back(scores[0], came_from[0]) if best > 0 else []
    rows = np.array(pairs, np.int64).reshape(-1, 2)
    return Correlation(rows, distance[rows[:, 0], rows[:, 1]], best, chance)


def chord_distances(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared chord distances (n, m) between samples: sum over taxa of (sqrt p - sqrt q)^2."""
    apart = np.sqrt(first)[:, None, :] - np.sqrt(second)[None, :, :]
    distances: NDArray[np.float64] = (apart**2).sum(axis=2)
    return distances


def _align(value: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """Scores (batch, n, m) of the best match that ends with each pair, and by which step it came there.

    Steps: 0 begins, 1 goes on in both wells, 2 in the first alone, 3 in the second alone.
    """
    batch, n, m = value.shape
    score = np.zeros((batch, n + 1, m + 1))
    step = np.zeros((batch, n, m), np.int8)
    for i in range(n):
        for j in range(m):
            own = value[:, i, j]
            # A diagonal step passes a sample of both wells, so its pair counts twice (Sakoe and Chiba).
            ways = np.stack(
                [
                    2 * own,
                    score[:, i, j] + 2 * own,
                    score[:, i, j + 1] + own,
                    score[:, i + 1, j] + own,
                ]
            )
            # Going on from nothing is beginning.
            ways[1:] = np.where(
                np.stack([score[:, i, j], score[:, i, j + 1], score[:, i + 1, j]]) > 0, ways[1:], -np.inf
            )
            chosen = ways.argmax(axis=0)
            step[:, i, j] = chosen
            score[:, i + 1, j + 1] = np.maximum(ways.max(axis=0), 0)
    return score[:, 1:, 1:], step


def _walk_back(score: NDArray[np.float64], step: NDArray[np.int8]) -> list[tuple[int, int]]:
    i, j = (int(place) for place in np.unravel_index(int(score.argmax()), score.shape))
    pairs = [(i, j)]
    while step[i, j]:
        i, j = i - (step[i, j] != 3), j - (step[i, j] != 2)
        pairs.append((int(i), int(j)))
    return pairs[::-1]
