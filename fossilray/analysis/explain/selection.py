"""Which crops a sheet shows, and of each the genera whose reasons are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import UsageError
from fossilray.models.heads.calibration import entropy_of


@dataclass(frozen=True)
class ExplanationTarget:
    """One crop, and the classes that it is asked to be explained for."""

    row: int
    targets: tuple[int, ...]
    said: int
    """The head's first choice."""


@dataclass(frozen=True)
class TargetSelection:
    """The crops of a sheet and why these."""

    title: str
    says: str
    cases: tuple[ExplanationTarget, ...]


def choose_given(
    shares: NDArray[np.float32], classes: Sequence[str], *, count: int, genus: str | None = None
) -> TargetSelection:
    """The first crops in their order, each for what the head calls it, or for one genus.

    shares: (n, classes) probabilities.

    Raises:
        UsageError: the head does not know the genus.
    """
    target = None if genus is None else class_number(classes, genus)
    said = shares.argmax(axis=1)
    cases = tuple(
        ExplanationTarget(row, (int(said[row]) if target is None else target,), int(said[row]))
        for row in range(min(count, len(shares)))
    )
    why = "each explained for the genus that the head gives it" if genus is None else f"explained for {genus}"
    return TargetSelection("Chosen crops", f"{len(cases)} of {len(shares)} crops, {why}.", cases)


def choose_uncertain(shares: NDArray[np.float32], *, count: int) -> TargetSelection:
    """The crops of the highest entropy, the least certain first, each for the head's first and second choice."""
    rows = np.argsort(-entropy_of(shares), kind="stable")[:count]
    order = np.argsort(-shares, axis=1, kind="stable")
    cases = tuple(
        ExplanationTarget(row, tuple(order[row, :2].tolist()), int(order[row, 0]))
        for row in map(int, rows.tolist())
    )
    says = (
        f"The {len(cases)} of {len(shares)} crops with the highest entropy of the head's probabilities, explained for "
        "its first and second choice. Maps of one kind share a scale within a crop."
    )
    return TargetSelection("Least certain", says, cases)


def choose_confused(
    shares: NDArray[np.float32],
    classes: Sequence[str],
    labels: Sequence[str],
    pair: tuple[str, str],
    *,
    count: int,
) -> TargetSelection:
    """Crops of two genera that are taken for each other, the surest mistakes first, each for both genera.

    Where fewer than `count` are mistaken, those follow that come nearest to it.

    Raises:
        UsageError: the head does not know a genus, or no crop bears the label of either.
    """
    one, other = (class_number(classes, genus) for genus in pair)
    if one == other:
        raise UsageError(f"--confused wants two genera, and both are {pair[0]}")
    rival = {pair[0]: other, pair[1]: one}
    of_pair = [row for row, label in enumerate(labels) if label in rival]
    if not of_pair:
        raise UsageError(f"no labelled crop is of {pair[0]} or {pair[1]}; name two genera of the labels")
    said = shares.argmax(axis=1)
    mistaken = {row for row in of_pair if said[row] == rival[labels[row]]}
    ranked = sorted(of_pair, key=lambda row: (row not in mistaken, -shares[row, rival[labels[row]]], row))
    cases = tuple(ExplanationTarget(row, (one, other), int(said[row])) for row in ranked[:count])
    each = []
    for genus, against in (pair, pair[::-1]):
        own = [row for row in of_pair if labels[row] == genus]
        wrong = sum(row in mistaken for row in own)
        each.append(f"{wrong} of {len(own)} labelled {genus} are called {against}")
    rest = max(0, len(cases) - len(mistaken))
    first = "the others shown" if mistaken else f"the {rest} shown"
    more = f"; {first} are right, or called a third, and come nearest to the other" if rest else ""
    says = f"{'; '.join(each)}{more}. Explained for both. Maps of one kind share a scale within a crop."
    return TargetSelection(f"{pair[0]} and {pair[1]}", says, cases)


def class_number(classes: Sequence[str], genus: str) -> int:
    """The number of a class by its name.

    Raises:
        UsageError: the head does not know it.
    """
    if genus not in classes:
        raise UsageError(f"the head knows no {genus!r:.80}; it knows {', '.join(classes)}")
    return list(classes).index(genus)
