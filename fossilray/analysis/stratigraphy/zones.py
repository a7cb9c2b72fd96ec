"""Zones of a well: stratigraphically constrained clustering (CONISS) and the broken-stick number of zones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_SAMPLES = 4
"""A well of fewer samples is not divided into zones."""


@dataclass(frozen=True)
class Zonation:
    """A dendrogram of n samples in stratigraphic order, and its division into zones."""

    merges: NDArray[np.int64]
    """(n - 1, 2) the two clusters merged at each step: a sample if below n, else n + the step that made the cluster."""
    dispersion: NDArray[np.float64]
    """(n - 1,) total within-cluster sum of squares after each merge, the axis of Grimm's dendrogram."""
    reduced: NDArray[np.float64]
    """(n - 1,) share of the total dispersion that each further zone removes; the first value is for two zones."""
    broken_stick: NDArray[np.float64]
    """(n - 1,) shares expected if the total were divided at random (Bennett 1996)."""
    zones: NDArray[np.int64]
    """(n,) the zone of each sample, 0 for the topmost."""

    @property
    def number(self) -> int:
        return int(self.zones[-1]) + 1

    @property
    def borders(self) -> list[int]:
        """Row of the lowest sample of each zone except the lowest zone."""
        return np.flatnonzero(np.diff(self.zones)).tolist()


def find_zones(shares: NDArray[np.float64], *, number: int | None = None) -> Zonation:
    """Divide samples (n, taxa) in the order of their depths into zones.

    CONISS (Grimm 1987, Computers & Geosciences 13) merges the two neighbouring clusters whose union adds least to the
    within-cluster sum of squares. Shares are square-root transformed, Grimm's option for percentages, so that the
    squared distance is Edwards' and Cavalli-Sforza's chord distance.

    Args:
        number: how many zones; None: add zones while each removes more dispersion than the broken-stick model expects
            (Bennett 1996, New Phytologist 132).
    """
    from scipy.sparse import diags
    from sklearn.cluster import AgglomerativeClustering

    n = len(shares)
    if n < 2:
        raise ValueError(f"zones need at least two samples, got {n}")
    chain = diags([1.0, 1.0], [-1, 1], shape=(n, n))
    clusters = AgglomerativeClustering(
        n_clusters=1, linkage="ward", connectivity=chain, compute_distances=True
    )
    clusters.fit(np.sqrt(shares))
    # Ward's distance is the square root of twice the increase in the sum of squares.
    dispersion = np.cumsum(clusters.distances_**2 / 2)
    merges = clusters.children_.astype(np.int64)
    reduced = np.diff(dispersion, prepend=0)[::-1] / max(float(dispersion[-1]), 1e-300)
    stick = broken_stick(n - 1)
    if number is None:
        not_significant = (reduced <= stick) | (dispersion[-1] < 1e-12)
        number = 1 + (int(np.argmax(not_significant)) if not_significant.any() else n - 1)
    return Zonation(merges, dispersion, reduced, stick, _cut(merges, min(number, n)))


def broken_stick(pieces: int) -> NDArray[np.float64]:
    """Return the expected lengths of the pieces of a unit stick broken at random, longest first (MacArthur 1957)."""
    lengths: NDArray[np.float64] = np.cumsum(1 / np.arange(pieces, 0, -1))[::-1] / pieces
    return lengths


def _cut(merges: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """Return the zone of each sample when merging stops at `number` clusters."""
    n = len(merges) + 1
    clusters = {sample: [sample] for sample in range(n)}
    for step in range(n - number):
        left, right = merges[step].tolist()
        clusters[n + step] = clusters.pop(left) + clusters.pop(right)
    zone_of = np.empty(n, np.int64)
    for zone, samples in enumerate(sorted(clusters.values(), key=min)):
        zone_of[samples] = zone
    return zone_of
