"""Support vector machines, one class against the rest, with calibrated values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FOLDS = 5


def fit_svm(
    vectors: NDArray[np.float32], label: NDArray[np.int64], *, strength: float, seed: int
) -> dict[str, NDArray[Any]]:
    """Fit linear machines on all crops, and scale their values so that softmax gives calibrated probabilities.

    The scale, an inverse temperature (Guo et al. 2017, section 4.2), is fitted on out-of-fold values.
    """
    exact, classes = vectors.astype(np.float64), int(label.max()) + 1
    out_of_fold = _out_of_fold_values(exact, label, strength=strength, seed=seed)
    scale = fit_logit_scale(out_of_fold, label)
    weight, bias = _fit_machines(exact, label, classes, strength=strength, seed=seed)
    return {"weight": (scale * weight).astype(np.float32), "bias": (scale * bias).astype(np.float32)}


def fit_logit_scale(
    values: NDArray[np.float64], label: NDArray[np.int64], *, wrong_predictions: float = 0.0
) -> float:
    """Fit the factor on values (n, classes) for which softmax maximises the likelihood of the labels.

    wrong_predictions: number of additional wrong predictions of mean confidence.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    rows = np.arange(len(label))

    def loss(log_scale: float) -> float:
        log_probability = log_softmax(np.exp(log_scale) * values, axis=1)
        negative_log_likelihood = -float(log_probability[rows, label].mean())
        if wrong_predictions:
            mean_error = max(
                1 - float(np.exp(log_probability.max(axis=1)).mean()), float(np.finfo(np.float32).tiny)
            )
            negative_log_likelihood -= wrong_predictions / len(label) * math.log(mean_error)
        return negative_log_likelihood

    # From nearly uniform probabilities to probabilities of nearly 1; for separable labels the optimum is infinite.
    return float(np.exp(minimize_scalar(loss, bounds=(-4.0, 4.0), method="bounded").x))


def _out_of_fold_values(
    vectors: NDArray[np.float64], label: NDArray[np.int64], *, strength: float, seed: int
) -> NDArray[np.float64]:
    """Return the values of each crop under machines fitted without its fold; folds are stratified by class."""
    classes = int(label.max()) + 1
    fold = np.zeros(len(label), np.int64)
    rng = np.random.default_rng(seed)
    for c in range(classes):
        rows = np.flatnonzero(label == c)
        fold[rng.permutation(rows)] = (np.arange(len(rows)) + rng.integers(_FOLDS)) % _FOLDS
    values = np.zeros((len(label), classes))
    for held in np.unique(fold):
        trained_on, left_out = fold != held, fold == held
        weight, bias = _fit_machines(
            vectors[trained_on], label[trained_on], classes, strength=strength, seed=seed
        )
        values[left_out] = vectors[left_out] @ weight.T + bias
    return values


def _fit_machines(
    vectors: NDArray[np.float64], label: NDArray[np.int64], classes: int, *, strength: float, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from sklearn.svm import LinearSVC

    # A class that these crops lack has a constant negative value.
    weight, bias = np.zeros((classes, vectors.shape[1])), np.full(classes, -1.0)
    for c in np.unique(label):
        if (label == c).all():
            bias[c] = 1.0
            continue
        machine = LinearSVC(C=strength, class_weight="balanced", random_state=seed, max_iter=5000)
        machine.fit(vectors, label == c)
        weight[c], bias[c] = machine.coef_[0], machine.intercept_[0]
    return weight, bias
