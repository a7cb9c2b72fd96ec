"""Two levels of clusters over vectors, which cluster a vector is of, and weights that even clusters out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST_MEMBERS = 10
"""Sampled objects per cluster, on average: smaller clusters say nothing about their kind."""

_ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class Clusters:
    """Centres of clusters; those of a family stand side by side, large families and clusters first."""

    centres: NDArray[np.float32]
    """(k, d)."""
    family: NDArray[np.int32]
    """(k,) which family each is of."""

    def __len__(self) -> int:
        return len(self.centres)

    def assign(self, vectors: NDArray[np.float32]) -> NDArray[np.int32]:
        """(n,) the nearest centre to each of the vectors (n, d)."""
        half = (self.centres**2).sum(axis=1) / 2
        nearest = [
            (vectors[first : first + _ROWS_AT_ONCE] @ self.centres.T - half).argmax(axis=1)
            for first in range(0, len(vectors), _ROWS_AT_ONCE)
        ]
        return np.concatenate([np.zeros(0, np.int32), *nearest]).astype(np.int32)


def find_clusters(vectors: NDArray[np.float32], *, clusters: int, families: int, seed: int) -> Clusters:
    """Mini-batch k-means over vectors (n, d) of length 1, then k-means over its centres.

    From below, as Vo et al. 2024 (arXiv 2405.15613) do: clusters of clusters follow what there is, and not how often,
    so that rare kinds get families of their own.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans

    distinct = len(np.unique(vectors, axis=0))
    count = max(1, min(clusters, len(vectors) // LEAST_MEMBERS, distinct))
    lower = MiniBatchKMeans(count, batch_size=4096, n_init=3, max_iter=100, random_state=seed).fit(vectors)
    centres = lower.cluster_centers_.astype(np.float32)
    size = np.bincount(lower.labels_, minlength=count)
    above = max(1, min(families, len(np.unique(centres, axis=0))))
    family = KMeans(above, n_init=10, random_state=seed).fit(centres).labels_
    rank = np.empty(above, np.int32)
    rank[np.argsort(-np.bincount(family, weights=size, minlength=above), kind="stable")] = np.arange(above)
    order = np.lexsort((-size, rank[family]))
    return Clusters(np.ascontiguousarray(centres[order]), rank[family][order])
