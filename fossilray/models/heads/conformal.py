"""Conformal prediction: prediction sets of a given coverage, and p-values of wrong predictions and of novelty.

An object is compared with held-out labelled crops; the guarantees hold for objects from the same distribution.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def class_p_values(
    score: NDArray[np.floating], held_out_score: NDArray[np.floating], held_out_label: NDArray[np.integer]
) -> NDArray[np.float32]:
    """Return p-values (n, classes) of the hypotheses that an object is of each class, from its scores (n, classes).

    Class-conditional conformal prediction (Vovk et al. 2005, "Algorithmic learning in a random world", chapter 4): the
    share of the class's held-out crops, the object included, whose score is at least as high. Of the objects of a
    class, at most a share t has a p-value of t or less. A class without held-out crops has 1 and cannot be excluded.
    """
    classes = score.shape[1]
    values = np.ones(score.shape, np.float32)
    for c in range(classes):
        of_class = np.sort(held_out_score[held_out_label == c])
        at_least = len(of_class) - np.searchsorted(of_class, score[:, c], side="left")
        values[:, c] = (1 + at_least) / (len(of_class) + 1)
    return values


def prediction_sets(p_values: NDArray[np.floating], *, coverage: float) -> NDArray[np.bool_]:
    """Return the classes (n, classes) that cannot be excluded at this coverage; a set may be empty."""
    # Rounding must not exclude a class whose p-value equals the threshold.
    return np.asarray(p_values > 1 - coverage + 1e-7)


def crops_needed_for_coverage(coverage: float) -> int:
    """Return the number of held-out crops below which a class can never be excluded."""
    return int(np.ceil(1 / (1 - coverage) - 1e-9)) - 1


def wrong_prediction_p_values(
    entropy: NDArray[np.floating], held_out_entropy: NDArray[np.floating], wrong: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return p-values (n,) of the hypothesis that a prediction is wrong.

    Jin and Candès 2023, "Selection by prediction with conformal p-values", JMLR 24, with their clipped score: the share
    of wrong predictions of at most this entropy, the object included, among all held-out crops. The p-values increase
    with the entropy, so that a threshold on them is a threshold on the entropy.
    """
    mistakes = np.sort(held_out_entropy[wrong])
    at_most = np.searchsorted(mistakes, entropy, side="right")
    return ((1 + at_most) / (len(held_out_entropy) + 1)).astype(np.float32)


def benjamini_hochberg_threshold(
    p_values: NDArray[np.floating], count: NDArray[np.integer], *, wrong_share: float
) -> float | None:
    """Return the p-value up to which predictions are kept so that the expected share of wrong ones is `wrong_share`.

    Benjamini and Hochberg (1995) over all objects; Jin and Candès (2023) show that it controls the share here.
    p_values: (v,), distinct or not. count: (v,) number of objects with each. None if no prediction can be kept.
    """
    order = np.argsort(p_values, kind="stable")
    sorted_values, rank = p_values[order], np.cumsum(count[order])
    if not len(rank) or not rank[-1]:
        return None
    fits = np.flatnonzero(sorted_values <= wrong_share * rank / rank[-1] * (1 + 1e-6))
    return float(sorted_values[fits[-1]]) if len(fits) else None


def novelty_p_values(
    distance: NDArray[np.floating], held_out_distance: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Return p-values (n,) of the hypothesis that an object is of a labelled genus.

    Bates et al. 2023, "Testing for outliers with conformal p-values", Annals of Statistics 51: the share of held-out
    crops, the object included, that are at least as far from the labels.
    """
    held_out = np.sort(held_out_distance)
    at_least = len(held_out) - np.searchsorted(held_out, distance, side="left")
    return ((1 + at_least) / (len(held_out) + 1)).astype(np.float32)
