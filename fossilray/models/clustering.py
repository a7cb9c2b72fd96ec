"""Clustering of vectors on two levels: clusters, and families of clusters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MIN_MEMBERS = 10
"""Mean number of vectors per cluster; smaller clusters do not represent a kind of object."""

_ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class Clusters:
    """Centres of clusters, sorted by family and size, the largest first."""

    centres: NDArray[np.float32]
    """(k, d)."""
    family: NDArray[np.int32]
    """(k,) family of each cluster."""

    def __len__(self) -> int:
        return len(self.centres)

    def assign(self, vectors: NDArray[np.float32]) -> NDArray[np.int32]:
        """Return the cluster (n,) with the nearest centre to each vector (n, d)."""
        half = (self.centres**2).sum(axis=1) / 2
        nearest = [
            (vectors[first : first + _ROWS_AT_ONCE] @ self.centres.T - half).argmax(axis=1)
            for first in range(0, len(vectors), _ROWS_AT_ONCE)
        ]
        return np.concatenate([np.zeros(0, np.int32), *nearest]).astype(np.int32)


def find_clusters(vectors: NDArray[np.float32], *, clusters: int, families: int, seed: int) -> Clusters:
    """Cluster unit vectors (n, d) by mini-batch k-means, then the centres by k-means.

    Hierarchical as in Vo et al. 2024 (arXiv 2405.15613): families depend on the kinds of objects and not on their
    frequency, so that rare kinds get families of their own.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans

    distinct = len(np.unique(vectors, axis=0))
    count = max(1, min(clusters, len(vectors) // _MIN_MEMBERS, distinct))
    lower = MiniBatchKMeans(count, batch_size=4096, n_init=3, max_iter=100, random_state=seed).fit(vectors)
    centres = lower.cluster_centers_.astype(np.float32)
    size = np.bincount(lower.labels_, minlength=count)
    above = max(1, min(families, len(np.unique(centres, axis=0))))
    family = KMeans(above, n_init=10, random_state=seed).fit(centres).labels_
    rank = np.empty(above, np.int32)
    rank[np.argsort(-np.bincount(family, weights=size, minlength=above), kind="stable")] = np.arange(above)
    order = np.lexsort((-size, rank[family]))
    return Clusters(np.ascontiguousarray(centres[order]), rank[family][order])
