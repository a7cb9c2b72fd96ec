"""Labelled crops divided into those a classifier learns from and those it is asked about."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import UsageError


@dataclass(frozen=True)
class Split:
    """Row numbers of one division."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]


def stratified_split(
    label: NDArray[np.int64], group: NDArray[np.int64], *, seed: int, test_share: float = 0.2
) -> Split:
    """Every class divided alike: scikit-learn's train_test_split of this seed, which the published code uses.

    Where nothing is a duplicate and no class has one crop alone, the split is exactly the published one. Crops that
    are one picture (of equal group) follow the first of them; classes of one picture are always learned from.

    Raises:
        UsageError: there are too few crops for every class to be asked about.
    """
    from sklearn.model_selection import train_test_split

    _, pictures, picture_of = np.unique(group, return_index=True, return_inverse=True)
    # In the order of rows, which is the order that the published code hands over.
    order = np.argsort(pictures)
    pictures = pictures[order]
    counts = np.bincount(label[pictures], minlength=int(label.max(initial=0)) + 1)
    divided = pictures[counts[label[pictures]] > 1]
    if (counts > 1).sum() < 2:
        raise UsageError(
            "fewer than two classes have two pictures, so none can be left out; give more labels"
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
    asked = np.isin(first[picture_of], test)
    copies = np.setdiff1d(np.flatnonzero(asked), test)
    learned = np.setdiff1d(np.flatnonzero(~asked), train)
    return Split(np.concatenate([train, learned]), np.concatenate([test, copies]))
