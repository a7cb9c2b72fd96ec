"""Labelled crops divided into those a classifier learns from and those it is asked about."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.errors import UsageError


@dataclass(frozen=True)
class Split:
    """Row numbers of one division."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]
    moved: int
    """Crops taken from the test to the training side, because the same picture lay there."""


def stratified_split(
    label: NDArray[np.int64], group: NDArray[np.int64], *, seed: int, test_share: float = 0.2
) -> Split:
    """Every class divided alike: scikit-learn's train_test_split of this seed, which the published code uses.

    Where nothing is a duplicate and no class has one crop alone, the split is exactly the published one. Classes
    of one crop are always learned from. What is on the test side with its picture on the other is moved there.

    Raises:
        UsageError: there are too few crops for every class to be asked about.
    """
    from sklearn.model_selection import train_test_split

    counts = np.bincount(label)
    alone = counts[label] < 2
    rows = np.flatnonzero(~alone)
    try:
        train, test = train_test_split(rows, test_size=test_share, stratify=label[rows], random_state=seed)
    except ValueError as error:
        raise UsageError(
            f"{len(rows)} labelled crops of {(counts > 1).sum()} classes cannot be divided {1 - test_share:.0%} to "
            f"{test_share:.0%} ({error}); give more labels of each class"
        ) from None
    train = np.concatenate([train, np.flatnonzero(alone)])
    known = np.isin(group[test], group[train])
    return Split(np.concatenate([train, test[known]]), test[~known], int(known.sum()))
