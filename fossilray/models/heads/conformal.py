"""Sets of genera that hold the right one as often as was asked for, and calls of which few are wrong.

Both compare an object with labelled crops that were held out, and hold for objects that are drawn as those were.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def class_p_values(
    score: NDArray[np.floating], held_out_score: NDArray[np.floating], held_out_label: NDArray[np.integer]
) -> NDArray[np.float32]:
    """(n, classes): how odd an object would be as one of each class, from its scores (n, classes).

    Conformal, each class by itself (Vovk et al. 2005, "Algorithmic learning in a random world", chapter 4): the
    share of the class's held-out crops, and of the object itself, that fit no better. Of objects of the class, at
    most a share t has a value of t or less. A class that no crop was held out of gives 1: it cannot be excluded.
    """
    classes = score.shape[1]
    values = np.ones(score.shape, np.float32)
    for c in range(classes):
        own = np.sort(held_out_score[held_out_label == c])
        as_odd = len(own) - np.searchsorted(own, score[:, c], side="left")
        values[:, c] = (1 + as_odd) / (len(own) + 1)
    return values


def prediction_sets(p_values: NDArray[np.floating], *, coverage: float) -> NDArray[np.bool_]:
    """(n, classes): the classes that cannot be excluded at this coverage; none where an object is unlike all."""
    # Rounding must not exclude a class whose value is the threshold's fraction itself plus nothing.
    return np.asarray(p_values > 1 - coverage + 1e-7)


def crops_needed_for_coverage(coverage: float) -> int:
    """Held-out crops of a class below which it can never be excluded."""
    return int(np.ceil(1 / (1 - coverage) - 1e-9)) - 1


def wrong_call_p_values(
    entropy: NDArray[np.floating], held_out_entropy: NDArray[np.floating], wrong: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """(n,) how often a held-out crop was called as surely as this object, and wrongly.

    Conformal p-values of the hypothesis that a call is wrong (Jin and Candès 2023, "Selection by prediction with
    conformal p-values", JMLR 24, with their clipped score): wrong calls of no greater entropy, and the object itself,
    among all held-out crops. They grow with the entropy, so a threshold on them is one on the entropy.
    """
    mistakes = np.sort(held_out_entropy[wrong])
    as_sure = np.searchsorted(mistakes, entropy, side="right")
    return ((1 + as_sure) / (len(held_out_entropy) + 1)).astype(np.float32)


def benjamini_hochberg_threshold(
    p_values: NDArray[np.floating], count: NDArray[np.integer], *, wrong_share: float
) -> float | None:
    """The p-value up to which calls are kept so that the expected share of wrong ones among them is `wrong_share`.

    Benjamini and Hochberg (1995) over all objects; that it controls the share here is shown by Jin and Candès (2023).
    p_values: (v,) distinct or not, with how many objects have each. None: no call can be kept.
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
    """(n,) share of held-out crops, and of the object itself, that are as far from the labels or farther.

    Conformal p-values of the hypothesis that an object is of a known genus (Bates et al. 2023, "Testing for outliers
    with conformal p-values", Annals of Statistics 51).
    """
    far = np.sort(held_out_distance)
    as_far = len(far) - np.searchsorted(far, distance, side="left")
    return ((1 + as_far) / (len(far) + 1)).astype(np.float32)
