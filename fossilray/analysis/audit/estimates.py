"""Estimates from an audit: the share of wrong calls in all and by called taxon, and corrected shares of taxa.

The corrected share of a taxon is what was called it, less the calls that are wrong, plus the objects that are of it and
were called otherwise. That is the stratified mean of the labels over the population, and the estimate of prediction-
powered inference for a mean with the calls as predictions (Angelopoulos et al. 2023, Science 382, 669-674; in strata
Fisch et al. 2024, "Stratified prediction-powered inference"): unbiased whatever the errors of the head. Their intervals
are asymptotic and fail for the few errors of an audit; here the two parts have exact bounds (`bounds`), whose errors
add up to the stated one (Bonferroni).

Draws that are open (passed over, doubtful, coarser than the call) are no part of an estimate, and count in each bound
as what makes it widest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.audit.bounds import lower_bound, upper_bound
from fossilray.labels.audit.allocation import Stratum


@dataclass(frozen=True)
class AuditSample:
    """Draws that were reached, as numbers."""

    strata: tuple[Stratum, ...]
    stratum: NDArray[np.int64]
    """(m,) position of each draw's stratum."""
    is_marked: NDArray[np.bool_]
    """(m,)"""
    call: NDArray[np.int64]
    """(m,) position of the called taxon in `names`."""
    truth: NDArray[np.int64]
    """(m,) position of what the object is in `names`; -1: open."""
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.stratum)

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """(strata,) share of the population in each stratum."""
        sizes = np.array([stratum.objects for stratum in self.strata], np.float64)
        shares: NDArray[np.float64] = sizes / sizes.sum()
        return shares

    @cached_property
    def scale(self) -> float:
        """Share of the population for which a marked draw stands, times the number of draws; at least 1."""
        objects = sum(stratum.objects for stratum in self.strata)
        draws = sum(stratum.draws for stratum in self.strata)
        return max(stratum.objects / stratum.draws for stratum in self.strata) * draws / objects

    @cached_property
    def is_complete(self) -> bool:
        """Whether it has all objects of the population."""
        objects = sum(stratum.objects for stratum in self.strata)
        return len(self) == objects and all(stratum.is_complete for stratum in self.strata)

    @cached_property
    def decided(self) -> NDArray[np.float64]:
        """(strata,) draws that are not open."""
        return np.bincount(self.stratum, self.truth >= 0, len(self.strata)).astype(np.float64)


@dataclass(frozen=True)
class BoundedShare:
    """An estimated share with its bounds."""

    share: float | None
    """None: no draw decides."""
    low: float
    high: float


@dataclass(frozen=True)
class WrongCalls:
    """Wrong calls among the draws of a stratum, or of all."""

    draws: int
    """Draws that were reached."""
    wrong: int
    open: int
    """Draws that decide nothing."""
    share: BoundedShare
    """Share of wrong calls; each bound holds at the level on its own."""


def wrong_calls(sample: AuditSample, *, level: float) -> tuple[WrongCalls, list[WrongCalls]]:
    """Return the wrong calls of all strata together, and of each stratum.

    level: confidence level of each bound, at least 0.75. Each holds for its own stratum, not for all at once.
    """
    is_open = sample.truth < 0
    is_wrong = ~is_open & (sample.truth != sample.call)
    tail = 1 - level
    of_strata = []
    for number, stratum in enumerate(sample.strata):
        rows = sample.stratum == number
        draws, wrong, left = (int(part.sum()) for part in (rows, rows & is_wrong, rows & is_open))
        if stratum.is_complete and draws == stratum.draws:
            low, high = wrong / draws, (wrong + left) / draws
        else:
            low, high = lower_bound(wrong, draws, tail=tail), upper_bound(wrong + left, draws, tail=tail)
        share = wrong / (draws - left) if draws > left else None
        of_strata.append(WrongCalls(draws, wrong, left, BoundedShare(share, low, high)))
    low, high = _bounds_of_marked(sample, is_wrong, is_open, tail=tail)
    estimate = _weighted(sample, is_wrong)
    total = WrongCalls(len(sample), int(is_wrong.sum()), int(is_open.sum()), _including(estimate, low, high))
    return total, of_strata


def corrected_shares(sample: AuditSample, *, level: float) -> list[BoundedShare]:
    """Return the share of each of `sample.names` in the population, with its interval.

    level: confidence level of each interval, both ends together.
    """
    is_open = sample.truth < 0
    tail = (1 - level) / 4
    own_stratum = {
        stratum.taxa[0]: number for number, stratum in enumerate(sample.strata) if len(stratum.taxa) == 1
    }
    shares = []
    for number, name in enumerate(sample.names):
        is_of_it = sample.truth == number
        at = own_stratum.get(name)
        is_own = np.zeros(len(sample), bool) if at is None else sample.stratum == at
        low, high = _bounds_of_marked(sample, is_of_it & ~is_own, is_open & ~is_own, tail=tail)
        if at is not None:
            draws, hits, left = (int(part.sum()) for part in (is_own, is_own & is_of_it, is_own & is_open))
            if sample.strata[at].is_complete and draws == sample.strata[at].draws:
                ends = hits / draws, (hits + left) / draws
            else:
                ends = lower_bound(hits, draws, tail=tail), upper_bound(hits + left, draws, tail=tail)
            low, high = (
                min(end + sample.weights[at] * part, 1.0) for end, part in zip((low, high), ends, strict=True)
            )
        shares.append(_including(_weighted(sample, is_of_it), low, high))
    return shares


def unseen_bound(sample: AuditSample, *, level: float) -> float:
    """Return the share of the population that a taxon has at most, if no draw shows it."""
    nothing = np.zeros(len(sample), bool)
    return _bounds_of_marked(sample, nothing, sample.truth < 0, tail=1 - level)[1]


def _bounds_of_marked(
    sample: AuditSample, has_it: NDArray[np.bool_], is_open: NDArray[np.bool_], *, tail: float
) -> tuple[float, float]:
    """Return bounds on the share of the population that has a property, from the marked draws."""
    hits, left = (int((part & sample.is_marked).sum()) for part in (has_it, is_open))
    draws, scale = len(sample), sample.scale
    if sample.is_complete:
        return hits / draws, (hits + left) / draws
    return (
        min(scale * lower_bound(hits, draws, tail=tail), 1.0),
        min(scale * upper_bound(hits + left, draws, tail=tail), 1.0),
    )


def _weighted(sample: AuditSample, has_it: NDArray[np.bool_]) -> float | None:
    """Return the stratified mean of a property over the draws that decide; None if there are none.

    Strata without such a draw are left out, and the others stand for them.
    """
    decided = sample.decided
    hits = np.bincount(sample.stratum, has_it, len(sample.strata))
    weights = sample.weights * (decided > 0)
    if not weights.any():
        return None
    return float((weights * hits / np.maximum(decided, 1)).sum() / weights.sum())


def _including(estimate: float | None, low: float, high: float) -> BoundedShare:
    """Return bounds that include the estimate: it uses all draws, and bounds of all strata only marked ones."""
    if estimate is None:
        return BoundedShare(None, low, high)
    return BoundedShare(estimate, min(low, estimate), max(high, estimate))


def sample_of(
    strata: Sequence[Stratum],
    draws: Sequence[tuple[int, bool, str, str | None]],
) -> AuditSample:
    """Return the sample of draws: position of the stratum, whether it is marked, what was called, what it is."""
    called = dict.fromkeys(taxon for stratum in strata for taxon in stratum.taxa)
    others = dict.fromkeys(sorted({name for *_, name in draws if name is not None}))
    names = tuple(called | others)
    position = {name: number for number, name in enumerate(names)}
    return AuditSample(
        tuple(strata),
        np.array([stratum for stratum, *_ in draws], np.int64),
        np.array([is_marked for _, is_marked, *_ in draws], bool),
        np.array([position[call] for _, _, call, _ in draws], np.int64),
        np.array([-1 if name is None else position[name] for *_, name in draws], np.int64),
        names,
    )
