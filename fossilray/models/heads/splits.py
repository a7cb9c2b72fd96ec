"""Splits of labelled crops into training and test crops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import UsageError


@dataclass(frozen=True)
class TrainTestSplit:
    """Rows of the training and test crops."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]


def stratified_split(
    label: NDArray[np.int64], group: NDArray[np.int64], *, seed: int, test_share: float = 0.2
) -> TrainTestSplit:
    """Split every class in the same proportion, with scikit-learn's train_test_split as the published code does.

    Without duplicates and classes of one crop, the split is exactly the published one. Crops of one picture (equal
    group) stay with the first of them; classes of one picture are always in the training set.

    Raises:
        UsageError: there are too few crops for a test set.
    """
    from sklearn.model_selection import train_test_split

    _, pictures, picture_of = np.unique(group, return_index=True, return_inverse=True)
    # In the order of rows, as in the published code.
    order = np.argsort(pictures)
    pictures = pictures[order]
    counts = np.bincount(label[pictures], minlength=int(label.max(initial=0)) + 1)
    divided = pictures[counts[label[pictures]] > 1]
    if (counts > 1).sum() < 2:
        raise UsageError(
            "fewer than two classes have two pictures, so there is no test set; give more labels"
        )
    try:
        train, test = train_test_split(
            divided, test_size=test_share, stratify=label[divided], random_state=seed
        )
    except ValueError as error:
        raise UsageError(
            f"{len(divided)} labelled crops of {(counts > 1).sum()} classes cannot be divided {1 - test_share:.0%} to "
            f"{test_share:.0%} ({error}); give more labels of each class"
        ) from None
    first = np.empty_like(order)
    first[order] = pictures
    in_test = np.isin(first[picture_of], test)
    copies = np.setdiff1d(np.flatnonzero(in_test), test)
    others = np.setdiff1d(np.flatnonzero(~in_test), train)
    return TrainTestSplit(np.concatenate([train, others]), np.concatenate([test, copies]))
