"""Counts of predictions corrected for the confusion matrix as far as the validation crops support it.

The full correction is that of maximum likelihood (`fossilray.analysis.stratigraphy.intervals`). With few validation
crops it adds more noise than it removes bias, and the raw counts are nearer to the truth. The estimate is therefore
raw + (1 - f) (corrected - raw), with one f for all samples of a well: the shrinkage of James and Stein (1961, Proc. 4th
Berkeley Symp. 1, 361-379, positive part) towards the raw counts. f is CAUTION times the variance of the correction over
the draws of a Bayesian bootstrap, divided by its squared size, and at most 1. Labels that were chosen, and not drawn at
random, misrepresent the confusion: where the validation crops have another composition than the samples, the caution
rises to MOST_CAUTION.

The constants, and the factor by which draws are spread, were chosen on drawn wells (`benchmarks/estimators.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.stratigraphy.confusion import Confusion, correct_confusion

CAUTION, MOST_CAUTION = 2.0, 12.0
_ALIKE, _UNLIKE = 5.0, 50.0
"""Mean squared differences of composition, in variances, between which the caution rises."""
_COMPOSITION_ERROR = 0.05
"""Share of a class's validation crops by which its estimated number may be wrong without being noticed."""
_SPREAD_CROPS = 35.0
"""Validation crops per class at which the variance of the draws is doubled, because the classes' prior is common."""
_DRAWS_AT_ONCE = 50


@dataclass(frozen=True)
class CorrectedCounts:
    """Corrected objects of each class; 0 in a sample without predictions."""

    point: NDArray[np.float64]
    """(samples, classes) the estimate."""
    drawn: NDArray[np.float64]
    """(draws, samples, classes) the full correction in each draw of the bootstrap, spread for intervals."""
    least: NDArray[np.float64]
    """(samples, classes) least objects over all draws, not spread."""
    weight: float
    """Weight of the correction, 1 - f: 0 leaves the counts as they are, 1 corrects them in full."""


def correct_counts(
    counts: NDArray[np.float64], confusion: Confusion, *, draws: int, rng: np.random.Generator
) -> CorrectedCounts:
    """Return corrected counts (samples, classes) of a well's predictions."""
    resampled, corrected = _draw(counts, confusion, draws, rng)
    totals = counts.sum(axis=1, keepdims=True)
    has_objects = totals[:, 0] > 0
    with np.errstate(invalid="ignore"):
        raw = np.where(totals > 0, counts / totals, 0.0)
    mean = corrected.mean(axis=0)
    full = _full_correction(counts, confusion)
    change = corrected - resampled
    variance = float(((change - change.mean(axis=0)) ** 2).sum()) / draws
    size = float(((full - raw)[has_objects] ** 2).sum())
    caution = _caution(confusion, full[has_objects])
    weight = max(0.0, 1 - caution * variance / size) if size > 0 else 0.0
    crops_per_class = confusion.crops / len(confusion.classes)
    of_sampling = ((resampled - resampled.mean(axis=0)) ** 2).mean(axis=0).sum(axis=-1, keepdims=True)
    of_confusion = ((change - change.mean(axis=0)) ** 2).mean(axis=0).sum(axis=-1, keepdims=True)
    # Only the part of the variance that the confusion matrix adds is spread.
    share = of_confusion / np.maximum(of_confusion + of_sampling, 1e-300)
    spread = np.sqrt(1 + share * _SPREAD_CROPS / max(crops_per_class, 1e-9))
    widened = np.maximum(mean + spread * (corrected - mean), 0)
    widened /= np.maximum(widened.sum(axis=-1, keepdims=True), 1e-300)
    return CorrectedCounts(
        (raw + weight * (full - raw)) * totals,
        np.where(has_objects[:, None], widened, 0.0) * totals,
        corrected.min(axis=0) * totals,
        weight,
    )


def _full_correction(counts: NDArray[np.float64], confusion: Confusion) -> NDArray[np.float64]:
    """Return the maximum-likelihood shares (samples, classes); 0 in a sample without predictions."""
    parameters = confusion.dirichlet_parameters
    return np.nan_to_num(correct_confusion(counts, parameters / parameters.sum(axis=1, keepdims=True)))


def resample(counts: NDArray[np.float64], draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return weights (draws, samples, classes) of the predictions; 0 in a sample without objects."""
    # A prior of one object, divided among all classes, lets a class occur that was never predicted.
    resampled = rng.standard_gamma(
        np.broadcast_to(counts + 1 / max(counts.shape[1], 1), (draws, *counts.shape))
    )
    resampled[:, counts.sum(axis=1) == 0] = 0
    return resampled


def _draw(
    counts: NDArray[np.float64], confusion: Confusion, draws: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return shares (draws, samples, classes) of predictions and of true classes; 0 in a sample without predictions."""
    parameters = confusion.dirichlet_parameters
    predicted, corrected = [], []
    for first in range(0, draws, _DRAWS_AT_ONCE):
        size = min(_DRAWS_AT_ONCE, draws - first)
        matrices = rng.standard_gamma(np.broadcast_to(parameters, (size, *parameters.shape)))
        matrices /= np.maximum(matrices.sum(axis=-1, keepdims=True), 1e-300)
        weights = resample(counts, size, rng)
        predicted.append(weights / np.maximum(weights.sum(axis=-1, keepdims=True), 1e-300))
        corrected.append(np.nan_to_num(correct_confusion(weights, matrices)))
    return np.concatenate(predicted), np.concatenate(corrected)


def _caution(confusion: Confusion, shares: NDArray[np.float64]) -> float:
    """Return how many times its variance the correction must be worth: more where validation crops were chosen.

    shares: (samples, classes) estimated.
    """
    if not len(shares) or not confusion.crops:
        return MOST_CAUTION
    crops = confusion.counts.sum(axis=1)
    expected = shares.mean(axis=0) * confusion.crops
    variances = expected + 1 + _COMPOSITION_ERROR * expected
    difference = float(((crops - expected) ** 2 / variances).mean())
    rise = (difference - _ALIKE) / (_UNLIKE - _ALIKE)
    return float(CAUTION + (MOST_CAUTION - CAUTION) * np.clip(rise, 0, 1))
