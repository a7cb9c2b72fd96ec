"""Selection of the objects to label next: arrays in, row numbers out.

Vectors have length 1 (`centred_directions`), and a distance is 1 - cosine. Every selection respects a quota per well.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fossilray.core.vectors import unit_vectors
from fossilray.store.query.sampling import even_quotas

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]

_TYPICAL_NEIGHBOURS = 20
"""Nearest neighbours that define how typical an object is (Hacohen et al. 2022, section 3.2)."""
_SMALL_CLUSTER = 5
"""Smaller clusters are outliers and come last (Hacohen et al. 2022, appendix)."""
_MAX_CLUSTERS = 512


class Quotas:
    """Number of objects that may still be selected from each well, and the objects that are selected."""

    def __init__(self, well: NDArray[np.int64], count: int) -> None:
        """well: (n,) index of each object's well. count: objects to select in total, at most n."""
        self.well = well
        self.left = even_quotas(np.bincount(well), min(count, len(well)))
        self.free = np.ones(len(well), bool)

    @property
    def eligible(self) -> NDArray[np.bool_]:
        """(n,) whether an object may be selected."""
        return self.free & (self.left[self.well] > 0)

    def take(self, row: int) -> None:
        """Mark an object as selected."""
        self.free[row] = False
        self.left[self.well[row]] -= 1

    def split(self, shares: list[float]) -> list[int]:
        """Divide the number of objects still to select by shares that sum to 1."""
        ends = np.rint(np.cumsum(shares) * int(self.left.sum())).astype(int)
        return [int(count) for count in np.diff(ends, prepend=0)]


def centred_directions(
    vectors: NDArray[np.floating], *, centre: Vectors | None = None
) -> tuple[Vectors, Vectors]:
    """Subtract the mean of the vectors and scale them to length 1; returns the mean too.

    The mean is common to all vectors of a backbone and hides how they differ. centre: a mean to subtract instead.
    """
    floats = vectors.astype(np.float32)
    if centre is None:
        centre = floats.mean(axis=0)
    return unit_vectors(floats - centre), centre


def distance_to_nearest(vectors: Vectors, known: Vectors) -> NDArray[np.float32]:
    """Return 1 - cosine (n,) to the nearest of the known vectors; 2, the maximum, without known vectors."""
    nearest = np.full(len(vectors), -1, np.float32)
    for first in range(0, len(known), 1024):
        np.maximum(nearest, (vectors @ known[first : first + 1024].T).max(axis=1), out=nearest)
    return 1 - nearest


def select_badge(
    probability: NDArray[np.float32], vectors: Vectors, count: int, quotas: Quotas, rng: np.random.Generator
) -> list[int]:
    """Select uncertain and diverse objects: k-means++ on gradient embeddings (BADGE, Ash et al. 2020, algorithm 1).

    The gradient of an object for its most probable class c is the outer product of (probability - [class = c]) and
    its vector. The inner product of two gradients is the product of the inner products of their factors, so that
    gradients are never materialised.
    """
    error = probability.astype(np.float32).copy()
    error[np.arange(len(error)), probability.argmax(axis=1)] -= 1
    length = (error**2).sum(axis=1) * (vectors**2).sum(axis=1)
    apart = np.full(len(error), np.inf, np.float32)
    chosen: list[int] = []
    while len(chosen) < count and (eligible := quotas.eligible).any():
        if chosen:
            weight = np.where(eligible, apart, 0).astype(np.float64)
            total = weight.sum()
            row = (
                int(rng.choice(len(weight), p=weight / total))
                if total > 0
                else int(np.flatnonzero(eligible)[0])
            )
        else:
            row = int(np.where(eligible, length, -1).argmax())
        quotas.take(row)
        chosen.append(row)
        products = (error @ error[row]) * (vectors @ vectors[row])
        apart = np.minimum(apart, np.maximum(length + length[row] - 2 * products, 0))
    return chosen


def select_margin(probability: NDArray[np.float32], count: int, quotas: Quotas) -> list[int]:
    """Select the objects with the smallest margin between their two most probable classes (Scheffer et al. 2001)."""
    top = np.sort(probability, axis=1)[:, -2:]
    return _first(np.argsort(top[:, 1] - top[:, 0], kind="stable"), count, quotas)


def select_k_center(vectors: Vectors, known: Vectors, count: int, quotas: Quotas) -> list[int]:
    """Select the object farthest from all known and selected ones (k-center greedy, Sener & Savarese 2018)."""
    apart = distance_to_nearest(vectors, known)
    chosen: list[int] = []
    while len(chosen) < count and (eligible := quotas.eligible).any():
        row = int(np.where(eligible, apart, -1).argmax())
        quotas.take(row)
        chosen.append(row)
        apart = np.minimum(apart, 1 - vectors @ vectors[row])
    return chosen


def select_typical(vectors: Vectors, known: Vectors, count: int, quotas: Quotas, *, seed: int) -> list[int]:
    """Select typical objects of clusters without labels, the largest clusters first (TypiClust, Hacohen et al. 2022).

    The number of clusters is that of the known objects and of those to select, at most 512.
    """
    from sklearn.cluster import MiniBatchKMeans

    everything = np.concatenate([known, vectors])
    clusters = min(len(known) + count, _MAX_CLUSTERS, len(everything))
    if clusters < 1 or not count:
        return []
    fitted = MiniBatchKMeans(clusters, random_state=seed, batch_size=2048, n_init=3).fit(everything)
    cluster_of_known, cluster_of_row = fitted.labels_[: len(known)], fitted.labels_[len(known) :]
    covered = np.bincount(cluster_of_known, minlength=clusters)
    size = np.bincount(cluster_of_row, minlength=clusters)
    ranked = [
        _most_typical_first(vectors, np.flatnonzero(cluster_of_row == cluster)) for cluster in range(clusters)
    ]
    chosen: list[int] = []
    while len(chosen) < count and quotas.eligible.any():
        # The fewest known objects first, then the largest cluster; outliers come last.
        for cluster in np.lexsort((-size, size < _SMALL_CLUSTER, covered)).tolist():
            eligible = quotas.eligible
            row = next((row for row in ranked[cluster] if eligible[row]), None)
            if row is None:
                covered[cluster] = np.iinfo(np.int64).max
                continue
            quotas.take(row)
            chosen.append(row)
            covered[cluster] += 1
            break
        else:
            break
    return chosen


def select_random(count: int, quotas: Quotas, rng: np.random.Generator) -> list[int]:
    """Select objects at random."""
    return _first(rng.permutation(len(quotas.well)), count, quotas)


def _first(order: Rows, count: int, quotas: Quotas) -> list[int]:
    chosen: list[int] = []
    for row in order.tolist():
        if len(chosen) >= count:
            break
        if quotas.free[row] and quotas.left[quotas.well[row]] > 0:
            quotas.take(row)
            chosen.append(row)
    return chosen


def _most_typical_first(vectors: Vectors, rows: Rows) -> list[int]:
    """Sort the rows of a cluster by their mean distance to their nearest neighbours in it."""
    if len(rows) < 3:
        return [int(row) for row in rows]
    sample = rows[:2048]  # a sample of a large cluster shows its dense regions as well
    cosine = vectors[rows] @ vectors[sample].T
    k = min(_TYPICAL_NEIGHBOURS + 1, len(sample))
    nearest = np.partition(cosine, -k, axis=1)[
        :, -k:
    ]  # includes the row itself, which does not change the order
    distance = np.sqrt(np.maximum(2 - 2 * nearest, 0)).mean(axis=1)
    return [int(row) for row in rows[np.argsort(distance, kind="stable")]]
