"""What is said of labelled crops while they are held out: each is asked about once, by who never saw it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config.choices import HoldOutUnit, NoveltyKind
from fossilray.models.heads import Head
from fossilray.models.heads.novelty import fit_novelty

FOLDS = 5


@dataclass(frozen=True)
class OutOfFold:
    """Answers about n of the labelled crops."""

    rows: NDArray[np.int64]
    """(n,) which ones."""
    share: NDArray[np.float32]
    """(n, classes) probabilities, of the classes of the labels."""
    distance: NDArray[np.float32]
    """(n,) from the crops that were not held out with them."""


def predict_out_of_fold(
    vectors: NDArray[np.floating],
    label: NDArray[np.int64],
    classes: Sequence[str],
    train: Callable[[NDArray[np.int64]], Head],
    *,
    side: NDArray[np.int64],
    over: HoldOutUnit,
    novelty: NoveltyKind,
    k: int,
    seed: int = 0,
) -> OutOfFold:
    """Labelled vectors (n, d) in five folds in turn; crops of one side (`sides_of`) are in one.

    train: a head taught on these rows. A crop is not asked about where no other fold has any of its class: nobody
    could name it.
    """
    fold = _divide(label, side, by_class=over == "crops", seed=seed)
    rows, shares, distances = [], [], []
    for number in np.unique(fold):
        taught = np.flatnonzero(fold != number)
        asked = np.flatnonzero((fold == number) & np.isin(label, label[taught]))
        if not len(asked) or len(np.unique(label[taught])) < 2:
            continue
        head = train(taught)
        share = np.zeros((len(asked), len(classes)), np.float32)
        share[:, [classes.index(name) for name in head.classes]] = head.predict(vectors[asked])
        dense = np.unique(label[taught], return_inverse=True)[1]
        known = fit_novelty(vectors[taught], dense, kind=novelty, k=k, seed=seed)
        rows.append(asked)
        shares.append(share)
        distances.append(known.distance(vectors[asked]))
    return OutOfFold(
        np.concatenate([np.zeros(0, np.int64), *rows]),
        np.concatenate([np.zeros((0, len(classes)), np.float32), *shares]),
        np.concatenate([np.zeros(0, np.float32), *distances]),
    )


def _divide(
    label: NDArray[np.int64], side: NDArray[np.int64], *, by_class: bool, seed: int
) -> NDArray[np.int64]:
    """(n,) the fold of each crop: sides go round the folds, those of a class after each other."""
    _, first, of = np.unique(side, return_index=True, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(first))
    if by_class:
        order = order[np.argsort(label[first][order], kind="stable")]
    fold = np.empty(len(first), np.int64)
    fold[order] = np.arange(len(first)) % FOLDS
    return fold[of]
