"""Zones of a well: samples clustered in their order (CONISS), and how many zones are more than chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST_SAMPLES = 4
"""Fewer have no zones to speak of."""


@dataclass(frozen=True)
class Zonation:
    """How neighbouring samples join, and where the borders of the zones are."""

    merges: NDArray[np.int64]
    """(n - 1, 2) what joins at each step: a sample below n, or n + the step that made the cluster."""
    dispersion: NDArray[np.float64]
    """(n - 1,) total within-cluster sum of squares after each step: the axis of Grimm's dendrogram."""
    reduced: NDArray[np.float64]
    """(n - 1,) share of the total by which each further zone lessens it; the first makes two zones."""
    broken_stick: NDArray[np.float64]
    """(n - 1,) the same, if the total were broken by chance (Bennett 1996)."""
    zones: NDArray[np.int64]
    """(n,) the zone of each sample, 0 for the topmost."""

    @property
    def number(self) -> int:
        return int(self.zones[-1]) + 1

    @property
    def borders(self) -> list[int]:
        """The last sample of each zone but the lowest."""
        return np.flatnonzero(np.diff(self.zones)).tolist()


def find_zones(shares: NDArray[np.float64], *, number: int | None = None) -> Zonation:
    """Zones of samples (n, taxa) in the order of their depths.

    CONISS (Grimm 1987): of all neighbours those join whose union adds least to the sum of squares within clusters,
    here of square roots of shares, his option for percentages, where squared distance is Edwards' and Cavalli-Sforza's
    chord. number: of zones; None: while a further one lessens the sum by more than the broken-stick model has it
    (Bennett 1996, New Phytologist 132).
    """
    from scipy.sparse import diags
    from sklearn.cluster import AgglomerativeClustering

    n = len(shares)
    if n < 2:
        raise ValueError("zones need two samples")
    chain = diags([1.0, 1.0], [-1, 1], shape=(n, n))
    clusters = AgglomerativeClustering(
        n_clusters=1, linkage="ward", connectivity=chain, compute_distances=True
    )
    clusters.fit(np.sqrt(shares))
    # Ward's distance is the square root of twice what a merge adds to the sum of squares.
    dispersion = np.cumsum(clusters.distances_**2 / 2)
    merges = clusters.children_.astype(np.int64)
    reduced = np.diff(dispersion, prepend=0)[::-1] / max(float(dispersion[-1]), 1e-300)
    stick = broken_stick(n - 1)
    if number is None:
        beaten = (reduced <= stick) | (dispersion[-1] < 1e-12)
        number = 1 + (int(np.argmax(beaten)) if beaten.any() else n - 1)
    return Zonation(merges, dispersion, reduced, stick, _cut(merges, min(number, n)))


def broken_stick(pieces: int) -> NDArray[np.float64]:
    """Expected lengths of the pieces of a stick of length 1 broken at random, the longest first (MacArthur 1957)."""
    lengths: NDArray[np.float64] = np.cumsum(1 / np.arange(pieces, 0, -1))[::-1] / pieces
    return lengths


def _cut(merges: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """The zone of each sample when merging stops at so many clusters."""
    n = len(merges) + 1
    own = {sample: [sample] for sample in range(n)}
    for step in range(n - number):
        left, right = merges[step].tolist()
        own[n + step] = own.pop(left) + own.pop(right)
    zone_of = np.empty(n, np.int64)
    for zone, samples in enumerate(sorted(own.values(), key=min)):
        zone_of[samples] = zone
    return zone_of
