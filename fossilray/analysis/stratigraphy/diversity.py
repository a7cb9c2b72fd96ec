"""Diversity indices and rarefaction of samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Diversity:
    """Diversity indices of one sample; nan where the sample is too small for an index."""

    objects: int
    richness: int
    """Number of taxa in the sample."""
    shannon: float
    """-sum p ln p, in nats (Shannon 1948)."""
    simpson: float
    """1 - sum p^2 (Simpson 1949)."""
    evenness: float
    """Shannon's index divided by its maximum, ln richness (Pielou 1966)."""
    fisher_alpha: float
    """Alpha of the logarithmic series (Fisher, Corbet and Williams 1943)."""
    rarefied: float
    """Expected taxa among `rarefaction_size` objects; nan in a smaller sample."""


def describe_diversity(counts: NDArray[np.int64], *, rarefaction_size: int) -> Diversity:
    """Return the indices of one sample.

    Args:
        counts: (taxa,) objects of each taxon.
        rarefaction_size: number of objects to which richness is rarefied; 0: not rarefied.
    """
    present = counts[counts > 0]
    total = int(present.sum())
    if not total:
        return Diversity(0, 0, np.nan, np.nan, np.nan, np.nan, np.nan)
    share = present / total
    shannon = float(-(share * np.log(share)).sum())
    return Diversity(
        objects=total,
        richness=len(present),
        shannon=shannon,
        simpson=float(1 - (share**2).sum()),
        evenness=shannon / np.log(len(present)) if len(present) > 1 else np.nan,
        fisher_alpha=fisher_alpha(total, len(present)),
        rarefied=float(rarefy(present, np.array([rarefaction_size]))[0])
        if 0 < rarefaction_size <= total
        else np.nan,
    )


def fisher_alpha(objects: int, taxa: int) -> float:
    """Solve taxa = alpha ln(1 + objects / alpha) for alpha; nan if every object is a different taxon."""
    from scipy.optimize import brentq

    if taxa < 1 or taxa >= objects:
        return float("nan")
    return float(brentq(lambda alpha: alpha * np.log1p(objects / alpha) - taxa, 1e-9, 1e9))


def rarefy(counts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the expected number of taxa among objects drawn from a sample without replacement (Hurlbert 1971).

    Args:
        counts: (taxa,) objects of each taxon.
        sizes: (n,) numbers of objects to draw.

    Raises:
        ValueError: a size exceeds the number of objects.
    """
    from scipy.special import gammaln

    total = int(counts.sum())
    if (sizes > total).any():
        raise ValueError(f"a sample of {total} objects cannot be rarefied to {sizes.max()}")

    def log_choose(n: NDArray[np.int64], k: NDArray[np.int64]) -> NDArray[np.float64]:
        possible = k <= n
        kept = np.where(possible, k, 0)
        chosen = gammaln(n + 1.0) - gammaln(kept + 1.0) - gammaln(n - kept + 1.0)
        return np.where(possible, chosen, -np.inf)

    present = counts[counts > 0]
    log_missed = log_choose(total - present[None, :], sizes[:, None]) - log_choose(
        np.array([[total]]), sizes[:, None]
    )
    expected: NDArray[np.float64] = (1 - np.exp(log_missed)).sum(axis=1)
    return expected


def round_counts(shares: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Return whole numbers in these shares that sum to `total`, by the largest-remainder method; 0 for nan shares."""
    if not total or not np.isfinite(shares).all():
        return np.zeros(len(shares), np.int64)
    exact = shares * total
    whole = np.floor(exact).astype(np.int64)
    rest = np.argsort(-(exact - whole), kind="stable")[: total - int(whole.sum())]
    whole[rest] += 1
    return whole
