"""Calibration of probabilities: temperature scaling and reliability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.models.heads.svm import fit_logit_scale

_BINS = 15
"""Number of bins of the reliability diagram (Guo et al. 2017, section 2)."""


@dataclass(frozen=True)
class Bin:
    """Predictions whose probability lies in one interval."""

    low: float
    high: float
    count: int
    confidence: float
    """Mean probability; NaN if the bin is empty."""
    accuracy: float
    """Share of correct predictions; NaN if the bin is empty."""


def fit_temperature(probability: NDArray[np.float32], label: NDArray[np.int64]) -> float:
    """Fit the divisor of the logits that maximises the likelihood of the labels of held-out crops.

    Guo et al. 2017, section 4.2, with one wrong prediction of mean confidence added: without it, a few crops that are
    all predicted correctly would give every prediction a probability of 1 (the rule of succession; Platt 1999 does the
    same).
    Below 1 the head is underconfident, above 1 overconfident. probability: (n, classes).
    """
    values = np.log(np.maximum(probability.astype(np.float64), np.finfo(np.float32).tiny))
    return 1 / fit_logit_scale(values, label, wrong_predictions=1)


def reliability(
    confidence: NDArray[np.floating], correct: NDArray[np.bool_], *, bins: int = _BINS
) -> list[Bin]:
    """Count predictions in bins of equal width over 0 to 1, upper ends included."""
    edges = np.linspace(0, 1, bins + 1)
    bin_of_prediction = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    result = []
    for number in range(bins):
        inside = bin_of_prediction == number
        count = int(inside.sum())
        mean, accuracy = (np.nan, np.nan)
        if count:
            mean, accuracy = float(confidence[inside].mean()), float(correct[inside].mean())
        result.append(Bin(float(edges[number]), float(edges[number + 1]), count, mean, accuracy))
    return result


def expected_calibration_error(bins: list[Bin]) -> float:
    """Return the mean gap between confidence and accuracy, weighted by predictions (Guo et al. 2017, eq. 3)."""
    total = sum(item.count for item in bins)
    gaps = sum(item.count * abs(item.accuracy - item.confidence) for item in bins if item.count)
    return gaps / max(total, 1)
