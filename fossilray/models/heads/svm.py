"""Support vector machines, one class against the rest, with values that mean probabilities."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FOLDS = 5


def fit_svm(
    seen: NDArray[np.float32], label: NDArray[np.int64], *, strength: float, seed: int
) -> dict[str, NDArray[Any]]:
    """Linear machines on all crops, their values scaled so that softmax gives calibrated probabilities.

    The one scale, an inverse temperature (Guo et al. 2017, section 4.2), comes from the values of crops that were
    left out in turn.
    """
    exact, classes = seen.astype(np.float64), int(label.max()) + 1
    left_out = _left_out_values(exact, label, strength=strength, seed=seed)
    scale = fit_logit_scale(left_out, label)
    weight, bias = _fit_machines(exact, label, classes, strength=strength, seed=seed)
    return {"weight": (scale * weight).astype(np.float32), "bias": (scale * bias).astype(np.float32)}


def fit_logit_scale(
    values: NDArray[np.float64], label: NDArray[np.int64], *, wrong_calls: float = 0.0
) -> float:
    """The factor on values (n, classes) whose softmax makes the labels likeliest.

    wrong_calls: so many more calls, as sure as the mean of these, are taken to have been wrong.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    rows = np.arange(len(label))

    def loss(log_scale: float) -> float:
        log_share = log_softmax(np.exp(log_scale) * values, axis=1)
        found = -float(log_share[rows, label].mean())
        if wrong_calls:
            unsure = max(1 - float(np.exp(log_share.max(axis=1)).mean()), float(np.finfo(np.float32).tiny))
            found -= wrong_calls / len(label) * math.log(unsure)
        return found

    # From nearly even probabilities to nearly certain ones; few labels that separate would go on for ever.
    return float(np.exp(minimize_scalar(loss, bounds=(-4.0, 4.0), method="bounded").x))


def _left_out_values(
    seen: NDArray[np.float64], label: NDArray[np.int64], *, strength: float, seed: int
) -> NDArray[np.float64]:
    """Each crop's value under machines that were fitted without its fold; a class goes round all folds."""
    classes = int(label.max()) + 1
    fold = np.zeros(len(label), np.int64)
    rng = np.random.default_rng(seed)
    for c in range(classes):
        rows = np.flatnonzero(label == c)
        fold[rng.permutation(rows)] = (np.arange(len(rows)) + rng.integers(_FOLDS)) % _FOLDS
    values = np.zeros((len(label), classes))
    for held in np.unique(fold):
        taught, asked = fold != held, fold == held
        weight, bias = _fit_machines(seen[taught], label[taught], classes, strength=strength, seed=seed)
        values[asked] = seen[asked] @ weight.T + bias
    return values


def _fit_machines(
    seen: NDArray[np.float64], label: NDArray[np.int64], classes: int, *, strength: float, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from sklearn.svm import LinearSVC

    # A class that is absent from these crops is refused everything.
    weight, bias = np.zeros((classes, seen.shape[1])), np.full(classes, -1.0)
    for c in np.unique(label):
        if (label == c).all():
            bias[c] = 1.0
            continue
        machine = LinearSVC(C=strength, class_weight="balanced", random_state=seed, max_iter=5000)
        machine.fit(seen, label == c)
        weight[c], bias[c] = machine.coef_[0], machine.intercept_[0]
    return weight, bias
