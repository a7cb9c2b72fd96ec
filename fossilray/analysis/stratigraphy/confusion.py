"""How often a classifier takes one class for another, as counts of validation crops."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fossilray.core.csv_table import CsvRow, read_csv_table
from fossilray.core.errors import UsageError
from fossilray.core.text import list_some
from fossilray.models.heads import Head, load_head

PRIOR_CROPS = 4.0
"""What is presumed of a class before its first validation crop weighs as much as four crops."""


@dataclass(frozen=True)
class Confusion:
    """Validation crops that a classifier was not taught on, by what they are and what they were called."""

    classes: tuple[str, ...]
    counts: NDArray[np.int64]
    """(classes, classes): of each class (rows), how many were called each class (columns)."""

    @property
    def crops(self) -> int:
        return int(self.counts.sum())

    @property
    def right_share(self) -> float:
        """Share of crops that were called what they are."""
        return float(np.trace(self.counts)) / max(self.crops, 1)

    @property
    def weights(self) -> NDArray[np.float64]:
        """Dirichlet parameters (classes, classes) of each class's calls: the counts, and a presumption beside them.

        The presumption weighs PRIOR_CROPS: right as often as all classes together, otherwise called what others
        are wrongly called. So a class of few validation crops, or none, has wide intervals and no wild ones.
        """
        number = len(self.classes)
        wrong = self.counts - np.diag(np.diag(self.counts))
        # One right and one wrong call more, so that a faultless validation is not presumed to be faultless for ever.
        right = (np.trace(self.counts) + 1) / (self.crops + 2)
        taken_for = np.tile(wrong.sum(axis=0) + 1 / number, (number, 1))
        np.fill_diagonal(taken_for, 0)
        presumed = (1 - right) * taken_for / np.maximum(taken_for.sum(axis=1, keepdims=True), 1e-12)
        np.fill_diagonal(presumed, right if number > 1 else 1.0)
        weights: NDArray[np.float64] = self.counts + PRIOR_CROPS * presumed
        return weights


def confusion_of_head(head: Head) -> Confusion | None:
    """What a head said of its labelled crops while they were held out; None where its file does not tell."""
    counts = head.confusion
    return None if counts is None else Confusion(head.classes, counts)


def recorded_confusion(head: Mapping[str, Any] | None) -> Confusion | None:
    """The confusion that the record of predictions states of its head."""
    if not head or "confusion" not in head:
        return None
    return Confusion(tuple(head["classes"]), np.array(head["confusion"], np.int64))


def read_confusion(path: Path) -> Confusion:
    """The confusion in a head's file, or in a CSV: true class, then how many crops were called each class.

    A CSV has one row and one column for each class, under its name, as `fossilray evaluate` writes confusion.csv.

    Raises:
        UsageError: it is no such table, or a head that does not tell.
        WeightsError: it is no head.
    """
    if path.suffix == ".safetensors":
        found = confusion_of_head(load_head(path))
        if found is None:
            raise UsageError(
                f"{path} does not tell what it confuses; train it again with this fossilray, or give a CSV"
            )
        return found
    table = read_csv_table(
        path,
        use="a confusion matrix",
        columns=(),
        remedy="give a CSV with a row and a column for each class, or a head",
    )
    if not table.rows:
        raise table.role.damaged("it has no rows")
    columns = [_plain(name) for name in table.header[1:]]
    names = [_plain(row.cells[0]) for row in table.rows]
    if len(set(columns)) != len(columns) or sorted(names) != sorted(columns):
        differing = sorted(set(names) ^ set(columns)) or ["one of them twice"]
        raise table.role.damaged(f"the classes of its rows and columns differ in {list_some(differing)}")
    counts = np.array([[_count(row, cell) for cell in row.cells[1:]] for row in table.rows], np.int64)
    order = [names.index(name) for name in columns]
    return Confusion(tuple(columns), counts[order])


def match_confusion(confusion: Confusion, labels: Sequence[str]) -> Confusion:
    """The same, with the classes in the order of these labels first.

    Raises:
        UsageError: a label is none of its classes.
    """
    missing = [label for label in labels if label not in confusion.classes]
    if missing:
        raise UsageError(
            f"the confusion knows nothing of {', '.join(missing[:5])}; give one that was measured on the classes of "
            f"the head: {', '.join(confusion.classes[:8])}…"
        )
    order = [confusion.classes.index(label) for label in labels]
    order += [row for row in range(len(confusion.classes)) if row not in order]
    return Confusion(tuple(confusion.classes[row] for row in order), confusion.counts[np.ix_(order, order)])


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip()


def _count(row: CsvRow, cell: str) -> int:
    value = row.parse_number(cell, "a count")
    if not value.is_integer() or not 0 <= value < 2**53:
        raise row.error(f"{cell!r:.40} is not a count of crops")
    return int(value)
