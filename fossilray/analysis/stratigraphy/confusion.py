"""Confusion matrices of classifiers, as counts of validation crops."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import UsageError
from fossilray.core.table_rows import TableRow
from fossilray.core.text import list_some
from fossilray.core.user_table import read_user_table
from fossilray.models.heads import Head, load_head

PRIOR_CROPS = 4.0
"""Weight of the prior of each class, in validation crops."""


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix over crops that the classifier was not trained on."""

    classes: tuple[str, ...]
    counts: NDArray[np.int64]
    """(classes, classes) crops by true class (rows) and predicted class (columns)."""

    @property
    def crops(self) -> int:
        return int(self.counts.sum())

    @property
    def accuracy(self) -> float:
        """Share of crops whose prediction is right; 0 without crops."""
        return float(np.trace(self.counts)) / max(self.crops, 1)

    @property
    def dirichlet_parameters(self) -> NDArray[np.float64]:
        """Dirichlet parameters (classes, classes) of each true class's predictions: the counts plus a prior.

        The prior weighs PRIOR_CROPS per class. It expects the accuracy over all classes, and errors that fall on other
        classes as often as errors of all classes do. A class with few or no validation crops so gets wide, but not
        arbitrary, intervals.
        """
        number = len(self.classes)
        wrong = self.counts - np.diag(np.diag(self.counts))
        # Laplace's rule: a validation without errors does not imply a classifier without errors.
        accuracy = (np.trace(self.counts) + 1) / (self.crops + 2)
        errors = np.tile(wrong.sum(axis=0) + 1 / number, (number, 1))
        np.fill_diagonal(errors, 0)
        prior = (1 - accuracy) * errors / np.maximum(errors.sum(axis=1, keepdims=True), 1e-12)
        np.fill_diagonal(prior, accuracy if number > 1 else 1.0)
        parameters: NDArray[np.float64] = self.counts + PRIOR_CROPS * prior
        return parameters


def read_head_confusion(head: Head) -> Confusion | None:
    """Return the confusion matrix of a head's out-of-fold predictions; None if its file has none."""
    counts = head.confusion
    return None if counts is None else Confusion(head.classes, counts)


def recorded_confusion(head: Mapping[str, Any] | None) -> Confusion | None:
    """Return the confusion matrix of the head in a record of predictions; None if it has none."""
    if not head or "confusion" not in head:
        return None
    return Confusion(tuple(head["classes"]), np.array(head["confusion"], np.int64))


def read_confusion(path: Path) -> Confusion:
    """Read a confusion matrix from a head's file or from a CSV.

    The CSV has one row per true class and one column per predicted class, each under the name of the class, with counts
    of crops; `fossilray evaluate` writes such a file as confusion.csv.

    Raises:
        UsageError: the CSV is not such a table, or the head holds no confusion matrix.
        WeightsError: the file is not a head.
    """
    if path.suffix == ".safetensors":
        confusion = read_head_confusion(load_head(path))
        if confusion is None:
            raise UsageError(
                f"{path} holds no confusion matrix; train it again with this fossilray, or give a CSV"
            )
        return confusion
    table = read_user_table(
        path,
        use="a confusion matrix",
        columns=(),
        remedy="give a CSV with a row and a column for each class, or a head",
    )
    if not table.rows:
        raise table.role.damaged("it has no rows")
    columns = [_plain(name) for name in table.header[1:]]
    names = [_plain(row.text_at(0)) for row in table.rows]
    if len(set(columns)) != len(columns) or sorted(names) != sorted(columns):
        differing = sorted(set(names) ^ set(columns)) or ["a class that is listed twice"]
        raise table.role.damaged(f"the classes of its rows and columns differ in {list_some(differing)}")
    counts = np.array([[_count(row, i) for i in range(1, len(table.header))] for row in table.rows], np.int64)
    order = [names.index(name) for name in columns]
    return Confusion(tuple(columns), counts[order])


def match_confusion(confusion: Confusion, labels: Sequence[str]) -> Confusion:
    """Return the matrix with its classes reordered: these labels first, in their order.

    Raises:
        UsageError: the matrix lacks a label.
    """
    missing = [label for label in labels if label not in confusion.classes]
    if missing:
        raise UsageError(
            f"the confusion matrix has no class {list_some(missing)}, only "
            f"{list_some(confusion.classes, most=8)}; give one that was measured on the classes of the head"
        )
    order = [confusion.classes.index(label) for label in labels]
    order += [row for row in range(len(confusion.classes)) if row not in order]
    return Confusion(tuple(confusion.classes[row] for row in order), confusion.counts[np.ix_(order, order)])


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip()


def _count(row: TableRow, position: int) -> int:
    value = row.number_at(position, whole=True)
    if value is None or value < 0:
        raise row.error(f"{row.text_at(position)!r:.40} is not a count of crops", position)
    return int(value)


_STEPS = 300


_STRIDE = 1.8
"""Over-relaxation of an EM step: below 2 it converges to the same maximum, faster (Salakhutdinov and Roweis 2003)."""


_TOLERANCE = 1e-6


def correct_confusion(counts: NDArray[np.float64], confusion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the maximum-likelihood shares of classes behind counts of predictions.

    Args:
        counts: (…, samples, classes) predictions.
        confusion: (…, classes, classes) probability of each prediction (columns) for each true class (rows).

    Returns:
        (…, samples, classes); nan in a sample without predictions.
    """
    total = counts.sum(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        predicted = counts / total
    shares = np.where(total > 0, np.full_like(predicted, 1 / predicted.shape[-1]), np.nan)
    transposed = np.swapaxes(confusion, -1, -2)
    for step in range(_STEPS):
        updated = shares * ((predicted / np.maximum(shares @ confusion, 1e-300)) @ transposed) ** _STRIDE
        updated /= np.maximum(updated.sum(axis=-1, keepdims=True), 1e-300)
        change = np.nanmax(np.abs(updated - shares), initial=0) if step % 10 == 9 else 1.0
        shares = updated
        if change < _TOLERANCE:
            break
    return shares
