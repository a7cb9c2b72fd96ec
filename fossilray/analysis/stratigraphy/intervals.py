"""Shares of taxa in assemblages, estimated from counts of predictions, with intervals.

In a sample whose assemblage has the shares p, a classifier predicts class j for a share sum_k p_k A_kj of the objects,
where A is its confusion matrix. Counts of predictions are multinomial. p is estimated by maximum likelihood (Solow,
Davis and Hu 2001, "Estimating the taxonomic composition of a sample when individuals are classified with error", Mar.
Ecol. Prog. Ser. 216, 309-311), which stays inside the simplex, as the inverted matrix does not. The maximum is found by
EM (Dempster, Laird and Rubin 1977), with the steps of Saerens, Latinne and Decaestecker (2002, Neural Comput. 14,
section 2.2) over predictions instead of probabilities, for each draw of a Bayesian bootstrap (Rubin 1981) over the
objects and the validation crops: the shares of predictions and the rows of A are drawn from the Dirichlet distributions
of their counts. `fossilray.analysis.stratigraphy.correction` decides how much of the mean correction is applied.
Intervals are percentiles of the draws, and include the estimate and the raw count with their sampling errors.

Objects that an expert determined are counted as what they are: they have a sampling error and no classification error,
and only the rest of a sample is estimated from predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.stratigraphy.confusion import Confusion
from fossilray.analysis.stratigraphy.correction import correct_counts, resample

DRAWS = 400
LEVEL = 0.95


@dataclass(frozen=True)
class ShareEstimate:
    """Estimated shares (samples, taxa) with their intervals; nan in a sample without objects."""

    shares: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    present_low: NDArray[np.float64]
    """The least share over all draws of the bootstrap; a taxon is present in a sample where it exceeds 0.

    Stricter than `low`, because the end of a range is the extreme of many samples.
    """
    objects: NDArray[np.float64]
    """(samples,) objects of all taxa together, without those of classes that are left out."""
    correction_weight: float | None = None
    """Weight of the correction for the confusion matrix, 0 to 1; None without a matrix."""

    def of_taxa(self, order: Sequence[int]) -> ShareEstimate:
        """Return the shares of these taxa in this order."""
        columns = list(order)
        return ShareEstimate(
            self.shares[:, columns],
            self.low[:, columns],
            self.high[:, columns],
            self.present_low[:, columns],
            self.objects,
            self.correction_weight,
        )


def estimate_shares(
    counts: NDArray[np.int64],
    taxon_of_label: NDArray[np.int64],
    taxa: int,
    *,
    confusion: Confusion | None,
    determined: NDArray[np.int64] | None = None,
    level: float = LEVEL,
    draws: int = DRAWS,
    rng: np.random.Generator,
) -> ShareEstimate:
    """Estimate the shares of taxa in the assemblages that samples were drawn from.

    Args:
        counts: (samples, labels) objects predicted as each label; labels are the first classes of `confusion`.
        taxon_of_label: (labels,) or, with a confusion matrix, (classes,) the taxon of each; -1: left out, not counted.
        taxa: number of taxa.
        confusion: None: no correction, and Wilson's (1927) intervals for sampling error only.
        determined: (samples, taxa) objects that an expert determined, which are not in `counts`; None: none. Their taxa
            are present for sure.
        level: confidence level of the intervals.
        draws: draws of the bootstrap.
    """
    of_experts = _or_none(determined, len(counts), taxa)
    if confusion is None:
        return _sampling_intervals_only(
            _sum_taxa(counts.astype(np.float64), taxon_of_label, taxa) + of_experts, level=level
        )
    membership = _membership(taxon_of_label, taxa)
    padded = _pad(counts, confusion)
    corrected = correct_counts(padded, confusion, draws=draws, rng=rng)
    estimated = corrected.point @ membership + of_experts
    objects = estimated.sum(axis=1)
    shares = _normalise(estimated)
    seen = _resample_determined(of_experts, padded, draws, rng)
    tail = (1 - level) / 2
    low, high = np.quantile(_normalise(corrected.drawn @ membership + seen), [tail, 1 - tail], axis=0)
    with np.errstate(invalid="ignore"):
        least = (corrected.least @ membership + seen.min(axis=0)) / objects[:, None]
    # EM approaches 0 without reaching it; less than half an object counts as 0, unless an expert saw it.
    low, least = (
        np.where((bound * objects[:, None] < 0.5) & (of_experts == 0), 0 * bound, bound)
        for bound in (low, least)
    )
    # The estimate lies between the raw and the corrected counts; each has a sampling error.
    totals = np.broadcast_to(objects[:, None], shares.shape)
    bounds = [
        wilson(np.nan_to_num(share) * totals, totals, level=level)
        for share in (shares, _normalise(padded @ membership + of_experts))
    ]
    return ShareEstimate(
        shares,
        np.minimum.reduce([low, *(lower for lower, _ in bounds), shares]),
        np.maximum.reduce([high, *(upper for _, upper in bounds), shares]),
        least,
        objects,
        corrected.weight,
    )


def draw_shares(
    counts: NDArray[np.int64],
    taxon_of_label: NDArray[np.int64],
    taxa: int,
    *,
    confusion: Confusion | None,
    determined: NDArray[np.int64] | None = None,
    draws: int = DRAWS,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return shares (draws, samples, taxa) of the Bayesian bootstrap; nan in a sample without objects.

    Args: as of `estimate_shares`. Without a confusion matrix only the sampling error is drawn.
    """
    membership = _membership(taxon_of_label, taxa)
    of_experts = _or_none(determined, len(counts), taxa)
    if confusion is None:
        padded = counts.astype(np.float64)
        weights = resample(padded, draws, rng)
    else:
        padded = _pad(counts, confusion)
        weights = correct_counts(padded, confusion, draws=draws, rng=rng).drawn
    return _normalise(weights @ membership + _resample_determined(of_experts, padded, draws, rng))


@dataclass(frozen=True)
class RatioEstimate:
    """Objects of each taxon for one marker grain (samples, taxa + 1); the last column is all taxa together."""

    values: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    markers: NDArray[np.float64]
    """(samples,) estimated marker grains."""


def estimate_ratios(
    counts: NDArray[np.int64],
    taxon_of_label: NDArray[np.int64],
    taxa: int,
    *,
    confusion: Confusion | None,
    determined: NDArray[np.int64] | None = None,
    level: float = LEVEL,
    draws: int = DRAWS,
    rng: np.random.Generator,
) -> RatioEstimate:
    """Estimate the ratios of taxa to marker grains in the residues that samples were mounted from.

    Args: as of `estimate_shares`; the taxon `taxa` of a label is the marker, and `determined` is (samples, taxa + 1).
    """
    of_experts = _or_none(determined, len(counts), taxa + 1)
    if confusion is None:
        grains = _with_sum(_sum_taxa(counts.astype(np.float64), taxon_of_label, taxa + 1) + of_experts)
        low, high = ratio_interval(*grains, level=level)
        return RatioEstimate(_ratio(*grains), low, high, grains[1][:, 0])
    membership = _membership(taxon_of_label, taxa + 1)
    padded = _pad(counts, confusion)
    corrected = correct_counts(padded, confusion, draws=draws, rng=rng)
    grains = _with_sum(corrected.point @ membership + of_experts)
    seen = _resample_determined(of_experts, padded, draws, rng)
    drawn = _ratio(*_with_sum(corrected.drawn @ membership + seen))
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    bounds = [
        ratio_interval(*either, level=level)
        for either in (grains, _with_sum(padded @ membership + of_experts))
    ]
    values = _ratio(*grains)
    return RatioEstimate(
        values,
        np.fmin.reduce([low, *(lower for lower, _ in bounds), values]),
        np.fmax.reduce([high, *(upper for _, upper in bounds), values]),
        grains[1][:, 0],
    )


def ratio_interval(
    counts: NDArray[np.float64], markers: NDArray[np.float64], *, level: float = LEVEL
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the interval of counts / markers, which follows from Wilson's interval of the share counts / both."""
    low, high = wilson(counts, counts + markers, level=level)
    with np.errstate(divide="ignore", invalid="ignore"):
        return low / (1 - low), high / (1 - high)


def _with_sum(grains: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Split (…, taxa + marker) into taxa with their sum, and the marker."""
    taxa = grains[..., :-1]
    return np.concatenate([taxa, taxa.sum(axis=-1, keepdims=True)], axis=-1), grains[..., -1:]


def _ratio(counts: NDArray[np.float64], markers: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: NDArray[np.float64] = counts / markers
    return ratio


def wilson(
    counts: NDArray[np.float64], totals: NDArray[np.float64], *, level: float = LEVEL
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return Wilson's (1927) score interval of counts / totals; nan where the total is 0."""
    from scipy.stats import norm

    z2 = float(norm.ppf((1 + level) / 2)) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        share = counts / totals
        middle = (share + z2 / (2 * totals)) / (1 + z2 / totals)
        half = np.sqrt(z2 * (share * (1 - share) / totals + z2 / (4 * totals**2))) / (1 + z2 / totals)
    low, high = np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)
    return np.where(counts == 0, 0 * low, low), high


def _sampling_intervals_only(counts: NDArray[np.float64], *, level: float) -> ShareEstimate:
    total = counts.sum(axis=1, keepdims=True)
    low, high = wilson(counts, np.broadcast_to(total, counts.shape), level=level)
    shares = _normalise(counts)
    return ShareEstimate(shares, low, high, np.where(counts > 0, shares, 0 * shares), total[:, 0])


def _pad(counts: NDArray[np.int64], confusion: Confusion) -> NDArray[np.float64]:
    """Return counts (samples, classes) of all classes of the matrix."""
    padded = np.zeros((len(counts), len(confusion.classes)), np.float64)
    padded[:, : counts.shape[1]] = counts
    return padded


def _resample_determined(
    determined: NDArray[np.int64], predicted: NDArray[np.float64], draws: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return weights (draws, samples, taxa) of determined objects; 0 for taxa without one.

    A sample of determined objects only has the prior that `resample` adds to predictions.
    """
    if not determined.any():
        return np.zeros((1, 1, 1))
    is_alone = (predicted.sum(axis=1) == 0) & (determined.sum(axis=1) > 0)
    weights: NDArray[np.float64] = rng.standard_gamma(
        np.broadcast_to(determined + is_alone[:, None] / determined.shape[1], (draws, *determined.shape))
    )
    return weights


def _or_none(determined: NDArray[np.int64] | None, samples: int, taxa: int) -> NDArray[np.int64]:
    """Return determined objects (samples, taxa), zeros if there are none."""
    return np.zeros((samples, taxa), np.int64) if determined is None else determined


def _sum_taxa(
    values: NDArray[np.float64], taxon_of_label: NDArray[np.int64], taxa: int
) -> NDArray[np.float64]:
    """Sum columns of labels to columns of taxa."""
    summed: NDArray[np.float64] = values @ _membership(taxon_of_label, taxa)
    return summed


def _membership(taxon_of_label: NDArray[np.int64], taxa: int) -> NDArray[np.float64]:
    """Return the indicator matrix (labels, taxa)."""
    membership: NDArray[np.float64] = (taxon_of_label[:, None] == np.arange(taxa)).astype(np.float64)
    return membership


def _normalise(values: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        shares: NDArray[np.float64] = values / values.sum(axis=-1, keepdims=True)
    return shares
