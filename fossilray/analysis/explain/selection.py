"""Selection of the crops on a sheet and of the genera that each is explained for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import UsageError
from fossilray.core.vectors import entropy


@dataclass(frozen=True)
class ExplanationTarget:
    """One crop and the classes it is explained for."""

    row: int
    classes: tuple[int, ...]
    predicted: int
    """The class of highest probability."""


@dataclass(frozen=True)
class TargetSelection:
    """The crops of a sheet, with a title and a caption that states how they were selected."""

    title: str
    caption: str
    targets: tuple[ExplanationTarget, ...]


def select_first(
    probabilities: NDArray[np.float32], classes: Sequence[str], *, count: int, genus: str | None = None
) -> TargetSelection:
    """Select the first crops, each explained for its predicted genus or for one given genus.

    Args:
        probabilities: (n, classes).

    Raises:
        UsageError: the head lacks the genus.
    """
    given = None if genus is None else class_number(classes, genus)
    predicted = probabilities.argmax(axis=1)
    targets = tuple(
        ExplanationTarget(row, (int(predicted[row]) if given is None else given,), int(predicted[row]))
        for row in range(min(count, len(probabilities)))
    )
    explained = "each explained for its predicted genus" if genus is None else f"explained for {genus}"
    caption = f"{len(targets)} of {len(probabilities)} crops, {explained}."
    return TargetSelection("Selected crops", caption, targets)


def select_uncertain(probabilities: NDArray[np.float32], *, count: int) -> TargetSelection:
    """Select the crops of highest entropy, each explained for its two most probable genera."""
    rows = np.argsort(-entropy(probabilities), kind="stable")[:count]
    order = np.argsort(-probabilities, axis=1, kind="stable")
    targets = tuple(
        ExplanationTarget(row, tuple(order[row, :2].tolist()), int(order[row, 0]))
        for row in map(int, rows.tolist())
    )
    caption = (
        f"The {len(targets)} of {len(probabilities)} crops with the highest entropy, explained for the two most "
        "probable genera. Maps of one method share a colour scale within a crop."
    )
    return TargetSelection("Highest entropy", caption, targets)


def select_confused(
    probabilities: NDArray[np.float32],
    classes: Sequence[str],
    labels: Sequence[str],
    pair: tuple[str, str],
    *,
    count: int,
) -> TargetSelection:
    """Select crops of two genera that are confused with each other, each explained for both genera.

    Wrong predictions come first, those of highest probability before others; then right ones, those with the highest
    probability of the other genus before others.

    Raises:
        UsageError: the head lacks a genus, both are the same, or no crop is labelled with either.
    """
    first, second = (class_number(classes, genus) for genus in pair)
    if first == second:
        raise UsageError(f"--confused takes two different genera, and both are {pair[0]}")
    rival = {pair[0]: second, pair[1]: first}
    of_pair = [row for row, label in enumerate(labels) if label in rival]
    if not of_pair:
        raise UsageError(f"no labelled crop is of {pair[0]} or {pair[1]}; give two genera of the labels")
    predicted = probabilities.argmax(axis=1)
    wrong = {row for row in of_pair if predicted[row] == rival[labels[row]]}
    ranked = sorted(of_pair, key=lambda row: (row not in wrong, -probabilities[row, rival[labels[row]]], row))
    targets = tuple(ExplanationTarget(row, (first, second), int(predicted[row])) for row in ranked[:count])
    counts = []
    for genus, other in (pair, pair[::-1]):
        labelled = [row for row in of_pair if labels[row] == genus]
        errors = sum(row in wrong for row in labelled)
        counts.append(f"{errors} of {len(labelled)} crops labelled {genus} are predicted as {other}")
    rest = max(0, len(targets) - len(wrong))
    more = " Crops without this error follow, by the probability of the other genus." if rest else ""
    caption = (
        f"{'; '.join(counts)}.{more} Explained for both genera. Maps of one method share a colour scale within a "
        "crop."
    )
    return TargetSelection(f"{pair[0]} and {pair[1]}", caption, targets)


def class_number(classes: Sequence[str], genus: str) -> int:
    """Return the index of a class.

    Raises:
        UsageError: the head lacks the class.
    """
    if genus not in classes:
        raise UsageError(f"the head has no class {genus!r:.80}; its classes: {', '.join(classes)}")
    return list(classes).index(genus)
