"""How diverse samples are, by the indices of the field, and how many taxa equal efforts would have found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Diversity:
    """Indices of one sample; nan where a sample is too small for one."""

    objects: int
    richness: int
    """Taxa that were counted."""
    shannon: float
    """-sum p ln p, in nats (Shannon 1948)."""
    simpson: float
    """1 - sum p^2 (Simpson 1949)."""
    evenness: float
    """Shannon's index over that of equal shares, ln richness (Pielou 1966)."""
    fisher_alpha: float
    """Of the logarithmic series (Fisher, Corbet and Williams 1943)."""
    rarefied: float
    """Taxa expected among as many objects as all samples have; nan in a sample of fewer."""


def describe_diversity(counts: NDArray[np.int64], *, effort: int) -> Diversity:
    """The indices of one sample's counts. effort: objects to which it is rarefied."""
    own = counts[counts > 0]
    total = int(own.sum())
    if not total:
        return Diversity(0, 0, np.nan, np.nan, np.nan, np.nan, np.nan)
    share = own / total
    shannon = float(-(share * np.log(share)).sum())
    return Diversity(
        objects=total,
        richness=len(own),
        shannon=shannon,
        simpson=float(1 - (share**2).sum()),
        evenness=shannon / np.log(len(own)) if len(own) > 1 else np.nan,
        fisher_alpha=fisher_alpha(total, len(own)),
        rarefied=float(rarefy(own, np.array([effort]))[0]) if 0 < effort <= total else np.nan,
    )


def fisher_alpha(objects: int, taxa: int) -> float:
    """The alpha for which taxa = alpha ln(1 + objects / alpha); nan where every object is a taxon of its own."""
    from scipy.optimize import brentq

    if taxa < 1 or taxa >= objects:
        return float("nan")
    return float(brentq(lambda alpha: alpha * np.log1p(objects / alpha) - taxa, 1e-9, 1e9))


def rarefy(counts: NDArray[np.int64], efforts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Taxa expected among so many objects drawn from a sample without putting them back (Hurlbert 1971).

    efforts: numbers of objects, none above the sample's.
    """
    from scipy.special import gammaln

    total = int(counts.sum())
    if (efforts > total).any():
        raise ValueError(f"a sample of {total} objects cannot be rarefied to {efforts.max()}")

    def log_choose(n: NDArray[np.int64], k: NDArray[np.int64]) -> NDArray[np.float64]:
        possible = k <= n
        kept = np.where(possible, k, 0)
        chosen = gammaln(n + 1.0) - gammaln(kept + 1.0) - gammaln(n - kept + 1.0)
        return np.where(possible, chosen, -np.inf)

    own = counts[counts > 0]
    missed = log_choose(total - own[None, :], efforts[:, None]) - log_choose(
        np.array([[total]]), efforts[:, None]
    )
    found: NDArray[np.float64] = (1 - np.exp(missed)).sum(axis=1)
    return found


def round_counts(shares: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Whole numbers in these shares that add up to the total: the largest remainders are rounded up."""
    if not total or not np.isfinite(shares).all():
        return np.zeros(len(shares), np.int64)
    exact = shares * total
    whole = np.floor(exact).astype(np.int64)
    rest = np.argsort(-(exact - whole), kind="stable")[: total - int(whole.sum())]
    whole[rest] += 1
    return whole
