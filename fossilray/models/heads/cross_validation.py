"""Out-of-fold predictions: each labelled crop is predicted once, by a head that was not trained on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config.choices import HoldOutUnit, NoveltyKind
from fossilray.models.heads import Head
from fossilray.models.heads.novelty import fit_novelty

_FOLDS = 5


@dataclass(frozen=True)
class OutOfFold:
    """Predictions on n of the labelled crops."""

    rows: NDArray[np.int64]
    """(n,) row of each crop."""
    probability: NDArray[np.float32]
    """(n, classes)."""
    distance: NDArray[np.float32]
    """(n,) distance from the training crops of the fold."""


def predict_out_of_fold(
    vectors: NDArray[np.floating],
    label: NDArray[np.int64],
    classes: Sequence[str],
    train: Callable[[NDArray[np.int64]], Head],
    *,
    groups: NDArray[np.int64],
    hold_out: HoldOutUnit,
    novelty: NoveltyKind,
    k: int,
    seed: int = 0,
) -> OutOfFold:
    """Predict labelled vectors (n, d) in five folds; crops of one group are in one fold.

    train: trains a head on these rows. A crop is left out if no other fold has a crop of its class, because its class
    could not be predicted.
    """
    fold = _assign_folds(label, groups, by_class=hold_out == "crops", seed=seed)
    rows, probabilities, distances = [], [], []
    for number in np.unique(fold):
        trained_on = np.flatnonzero(fold != number)
        held_out = np.flatnonzero((fold == number) & np.isin(label, label[trained_on]))
        if not len(held_out) or len(np.unique(label[trained_on])) < 2:
            continue
        head = train(trained_on)
        probability = np.zeros((len(held_out), len(classes)), np.float32)
        probability[:, [classes.index(name) for name in head.classes]] = head.predict(vectors[held_out])
        dense_label = np.unique(label[trained_on], return_inverse=True)[1]
        reference = fit_novelty(vectors[trained_on], dense_label, kind=novelty, k=k, seed=seed)
        rows.append(held_out)
        probabilities.append(probability)
        distances.append(reference.distance(vectors[held_out]))
    return OutOfFold(
        np.concatenate([np.zeros(0, np.int64), *rows]),
        np.concatenate([np.zeros((0, len(classes)), np.float32), *probabilities]),
        np.concatenate([np.zeros(0, np.float32), *distances]),
    )


def _assign_folds(
    label: NDArray[np.int64], groups: NDArray[np.int64], *, by_class: bool, seed: int
) -> NDArray[np.int64]:
    """Return the fold of each crop (n,): groups are dealt to the folds in random order, class by class if by_class."""
    _, first, group_of_row = np.unique(groups, return_index=True, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(first))
    if by_class:
        order = order[np.argsort(label[first][order], kind="stable")]
    fold = np.empty(len(first), np.int64)
    fold[order] = np.arange(len(first)) % _FOLDS
    return fold[group_of_row]
