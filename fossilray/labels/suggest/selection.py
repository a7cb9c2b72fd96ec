"""Which of many objects to label next: numbers in, row numbers out.

Vectors have length 1 (`directions`); distances are between them. Every choice keeps to a quota for each well.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fossilray.store.query.sampling import even_quotas

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]

NEIGHBOURS = 20
"""Among which an object is typical (Hacohen et al. 2022, section 3.2)."""
SMALL_CLUSTER = 5
"""Clusters below this size are strays, asked about last (Hacohen et al. 2022, appendix)."""
_MOST_CLUSTERS = 512


class Quotas:
    """How many objects each well may still give, and which were taken."""

    def __init__(self, well: NDArray[np.int64], count: int) -> None:
        """well: (n,) number of each object's well. count: how many are to be chosen in all, at most n."""
        self.well = well
        self.left = even_quotas(np.bincount(well), min(count, len(well)))
        self.free = np.ones(len(well), bool)

    @property
    def open(self) -> NDArray[np.bool_]:
        """(n,) which objects may be taken."""
        return self.free & (self.left[self.well] > 0)

    def take(self, row: int) -> None:
        """Note that an object was chosen."""
        self.free[row] = False
        self.left[self.well[row]] -= 1

    def cut(self, shares: list[float]) -> list[int]:
        """The objects still to be chosen, divided by shares that sum to 1."""
        ends = np.rint(np.cumsum(shares) * int(self.left.sum())).astype(int)
        return [int(part) for part in np.diff(ends, prepend=0)]


def centred_directions(
    vectors: NDArray[np.floating], *, centre: Vectors | None = None
) -> tuple[Vectors, Vectors]:
    """Vectors as seen from their mean, brought to length 1, and that mean.

    What all vectors of a backbone have in common says nothing of one of them, and hides how they differ.
    """
    wide = vectors.astype(np.float32)
    if centre is None:
        centre = wide.mean(axis=0)
    wide = wide - centre
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), np.float32(1e-12)), centre


def distance_to_nearest(vectors: Vectors, known: Vectors) -> NDArray[np.float32]:
    """(n,) 1 - cosine to the nearest of the known ones; 2, the most there is, where none is known."""
    nearest = np.full(len(vectors), -1, np.float32)
    for first in range(0, len(known), 1024):
        np.maximum(nearest, (vectors @ known[first : first + 1024].T).max(axis=1), out=nearest)
    return 1 - nearest


def select_badge(
    probability: NDArray[np.float32], vectors: Vectors, count: int, quotas: Quotas, rng: np.random.Generator
) -> list[int]:
    """Uncertain ones that differ: k-means++ on the gradients they would have (BADGE, Ash et al. 2020, algorithm 1).

    The gradient of an object under its likeliest class c is the outer product of (probability - [class = c]) and its
    vector. Its inner product with another is the product of theirs, so that gradients are never written out.
    """
    error = probability.astype(np.float32).copy()
    error[np.arange(len(error)), probability.argmax(axis=1)] -= 1
    length = (error**2).sum(axis=1) * (vectors**2).sum(axis=1)
    apart = np.full(len(error), np.inf, np.float32)
    chosen: list[int] = []
    while len(chosen) < count and (may := quotas.open).any():
        if chosen:
            weight = np.where(may, apart, 0).astype(np.float64)
            total = weight.sum()
            row = int(rng.choice(len(weight), p=weight / total)) if total > 0 else int(np.flatnonzero(may)[0])
        else:
            row = int(np.where(may, length, -1).argmax())
        quotas.take(row)
        chosen.append(row)
        both = (error @ error[row]) * (vectors @ vectors[row])
        apart = np.minimum(apart, np.maximum(length + length[row] - 2 * both, 0))
    return chosen


def select_margin(probability: NDArray[np.float32], count: int, quotas: Quotas) -> list[int]:
    """Those whose two likeliest classes are closest (margin sampling, Scheffer et al. 2001)."""
    top = np.sort(probability, axis=1)[:, -2:]
    return _first(np.argsort(top[:, 1] - top[:, 0], kind="stable"), count, quotas)


def select_k_center(vectors: Vectors, known: Vectors, count: int, quotas: Quotas) -> list[int]:
    """Each the farthest from all that is known or chosen before (k-centre greedy, Sener and Savarese 2018, alg. 1)."""
    apart = distance_to_nearest(vectors, known)
    chosen: list[int] = []
    while len(chosen) < count and (may := quotas.open).any():
        row = int(np.where(may, apart, -1).argmax())
        quotas.take(row)
        chosen.append(row)
        apart = np.minimum(apart, 1 - vectors @ vectors[row])
    return chosen


def select_typical(vectors: Vectors, known: Vectors, count: int, quotas: Quotas, *, seed: int) -> list[int]:
    """Typical ones of clusters where nothing is known, the largest clusters first (TypiClust, Hacohen et al. 2022).

    There are as many clusters as objects known and to be chosen, at most 512.
    """
    from sklearn.cluster import MiniBatchKMeans

    everything = np.concatenate([known, vectors])
    clusters = min(len(known) + count, _MOST_CLUSTERS, len(everything))
    if clusters < 1 or not count:
        return []
    fitted = MiniBatchKMeans(clusters, random_state=seed, batch_size=2048, n_init=3).fit(everything)
    of_known, of = fitted.labels_[: len(known)], fitted.labels_[len(known) :]
    covered = np.bincount(of_known, minlength=clusters)
    size = np.bincount(of, minlength=clusters)
    ranked = [_most_typical_first(vectors, np.flatnonzero(of == cluster)) for cluster in range(clusters)]
    chosen: list[int] = []
    while len(chosen) < count and quotas.open.any():
        # The fewest known first, strays last, and the largest of equals.
        for cluster in np.lexsort((-size, size < SMALL_CLUSTER, covered)).tolist():
            may = quotas.open
            row = next((row for row in ranked[cluster] if may[row]), None)
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
    """Any, by lot."""
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
    """Rows of one cluster by their mean distance to their nearest neighbours in it."""
    if len(rows) < 3:
        return [int(row) for row in rows]
    seen = rows[:2048]  # a part of a large cluster tells its dense places as well
    cosine = vectors[rows] @ vectors[seen].T
    k = min(NEIGHBOURS + 1, len(seen))
    nearest = np.partition(cosine, -k, axis=1)[:, -k:]  # itself among them, which changes no order
    distance = np.sqrt(np.maximum(2 - 2 * nearest, 0)).mean(axis=1)
    return [int(row) for row in rows[np.argsort(distance, kind="stable")]]
