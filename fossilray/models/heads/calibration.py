"""Whether probabilities come true."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.models.heads.svm import fit_logit_scale

BINS = 15
"""As Guo et al. (2017) count, section 2."""


@dataclass(frozen=True)
class Bin:
    """Calls whose probability lies in one interval."""

    low: float
    high: float
    count: int
    confidence: float
    """Their mean probability; NaN for none."""
    accuracy: float
    """The share that is right; NaN for none."""


def fit_temperature(share: NDArray[np.float32], label: NDArray[np.int64]) -> float:
    """What to divide logits by so that probabilities (n, classes) of held-out crops make their labels likeliest.

    Guo et al. 2017, section 4.2, and as if one more call, as sure as the mean of them, had been wrong: few crops that
    all were called rightly would else make every call certain (the rule of succession; Platt 1999 smooths so too).
    Below 1 the head was too modest, above 1 too sure.
    """
    values = np.log(np.maximum(share.astype(np.float64), np.finfo(np.float32).tiny))
    return 1 / fit_logit_scale(values, label, wrong_calls=1)


def reliability(confidence: NDArray[np.floating], right: NDArray[np.bool_], *, bins: int = BINS) -> list[Bin]:
    """Bins of equal width over 0 to 1, their upper ends included."""
    edges = np.linspace(0, 1, bins + 1)
    of = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    found = []
    for number in range(bins):
        own = of == number
        count = int(own.sum())
        sure, true = (float(confidence[own].mean()), float(right[own].mean())) if count else (np.nan, np.nan)
        found.append(Bin(float(edges[number]), float(edges[number + 1]), count, sure, true))
    return found


def expected_calibration_error(bins: list[Bin]) -> float:
    """Mean gap between probability and share that is right, weighted by calls (Guo et al. 2017, eq. 3)."""
    total = sum(one.count for one in bins)
    return sum(one.count * abs(one.accuracy - one.confidence) for one in bins if one.count) / max(total, 1)


def entropy_of(share: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n,) entropy of probabilities (n, classes) in nats."""
    entropy: NDArray[np.float32] = -(share * np.log(np.maximum(share, np.float32(1e-30)))).sum(axis=1)
    return np.maximum(entropy, 0)
