"""Classification as Liu et al. judge it (2022, "Automatic taxonomic identification based on the Fossil Image Dataset").

Paleobiology, doi:10.1017/pab.2022.14. Images divided 80 to 15 to 5 into those learned from, those watched while
learning, and those asked about in the end; top-1 and top-3 accuracy; precision, recall and F1 of each class with what
it is most often taken for; ROC curves of each class against the rest with their micro and macro average; recall
against how many images a class has; and what less data does.

Ours, as the paper trains once on 415,000 images and we on hundreds: the division is stratified, with at least one
crop of each class asked about, and repetitions with other seeds put their answers together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import UsageError
from fossilray.evaluation.martinsen2024 import Told

SHARES = (0.8, 0.15, 0.05)
TOLD_CONFUSIONS = 3
METRICS = ("top1", "top3", "precision", "recall", "f1")

Taught = Callable[[NDArray[np.int64], str], NDArray[np.floating]]
"""Given rows and a name: probabilities (n, classes) of all crops, by a classifier that learned from these rows."""


@dataclass(frozen=True)
class ThreeParts:
    """Row numbers of one division."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


@dataclass(frozen=True)
class Scores:
    """Of METRICS, one value a repetition; all but the first two are means over classes asked about."""

    values: Mapping[str, tuple[float, ...]]

    def mean(self, metric: str) -> float:
        return float(np.mean(self.values[metric]))

    def deviation(self, metric: str) -> float | None:
        """That of a sample; None for one repetition."""
        found = self.values[metric]
        return float(np.std(found, ddof=1)) if len(found) > 1 else None


@dataclass(frozen=True)
class Confusion:
    """What crops of a class were taken for."""

    name: str
    count: int
    share: float
    """Of the crops of the class that were asked about."""


@dataclass(frozen=True)
class ClassRow:
    """One class over all repetitions; figures are NaN where none of it was asked about."""

    name: str
    trained: float
    """Crops of it that were learned from, mean of the repetitions."""
    asked: int
    precision: float
    recall: float
    f1: float
    auc: float
    confusions: tuple[Confusion, ...]


@dataclass(frozen=True)
class Roc:
    """A curve from (0, 0) to (1, 1) and the area below."""

    false_positive: NDArray[np.float64]
    true_positive: NDArray[np.float64]
    auc: float


@dataclass(frozen=True)
class Condition:
    """One way of training, or one size of the data."""

    name: str
    most_of_a_class: int | None
    crops: float
    """Learned from, mean of the repetitions."""
    scores: Scores


@dataclass(frozen=True)
class Liu2022:
    """All figures of the protocol."""

    test: Scores
    validation: Scores
    per_class: tuple[ClassRow, ...]
    confusion: NDArray[np.int64]
    """Truth down, answer across, test crops of all repetitions."""
    micro: Roc
    macro: Roc
    size_correlation: float | None
    """Spearman's rank correlation of recall with crops learned from; None where one of them does not vary."""
    conditions: tuple[Condition, ...]
    """The whole data first; then less of it, and other ways of training."""


def judge_transfer(
    taught: Taught,
    label: NDArray[np.int64],
    classes: Sequence[str],
    *,
    group: NDArray[np.int64],
    repetitions: int = 1,
    reduced: Sequence[int] = (),
    others: Mapping[str, Taught] | None = None,
    seed: int = 0,
    told: Told = lambda _done, _of: None,
) -> Liu2022:
    """The protocol with labels (n,) in 0..len(classes)-1.

    reduced: most crops of a class to learn from, each a further training. others: other ways of training, compared
    on the smallest of these sizes, or on all crops.

    Raises:
        UsageError: there are too few crops for three parts.
    """
    divided = [split_three_ways(label, group, seed=seed + number) for number in range(repetitions)]
    asked = [
        ("whole", None, taught),
        *((f"at most {n} a class", n, taught) for n in sorted(reduced, reverse=True)),
    ]
    smallest = min(reduced) if reduced else None
    asked += [(name, smallest, other) for name, other in (others or {}).items()]
    conditions, whole, step = [], [], 0
    for place, (name, most, teach) in enumerate(asked):
        scores, sizes = [], []
        for number, parts in enumerate(divided):
            rows = (
                parts.train if most is None else limit_per_class(parts.train, label, most, seed=seed + number)
            )
            share = np.asarray(teach(rows, f"{place}-{number}"), np.float64)
            scores.append(_score(share[parts.test], label[parts.test]))
            sizes.append(len(rows))
            if place == 0:
                whole.append(share)
            told(step := step + 1, len(asked) * repetitions)
        conditions.append(Condition(name, most, float(np.mean(sizes)), _together(scores)))
    truth = np.concatenate([label[parts.test] for parts in divided])
    share = np.concatenate([found[parts.test] for found, parts in zip(whole, divided, strict=True)])
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (truth, share.argmax(axis=1)), 1)
    trained = np.mean([np.bincount(label[p.train], minlength=len(classes)) for p in divided], axis=0)
    curves = [_curve(truth == c, share[:, c]) for c in range(len(classes))]
    per_class = _by_class(confusion, trained, curves, classes)
    hot = truth[:, None] == np.arange(len(classes))
    return Liu2022(
        test=conditions[0].scores,
        validation=_together(
            [_score(f[p.validation], label[p.validation]) for f, p in zip(whole, divided, strict=True)]
        ),
        per_class=per_class,
        confusion=confusion,
        micro=_curve(hot.ravel(), share.ravel()) or _flat(),
        macro=_average([curve for curve in curves if curve is not None]),
        size_correlation=_correlate(per_class),
        conditions=tuple(conditions),
    )


def split_three_ways(label: NDArray[np.int64], group: NDArray[np.int64], *, seed: int) -> ThreeParts:
    """Every class divided 80 to 15 to 5, at least one picture of it asked about, one watched and one learned from.

    Crops that are one picture (of equal group) stay together, with the class of the first. A class of two pictures
    is not watched, and one of a single picture is learned from alone.

    Raises:
        UsageError: fewer than two classes have two pictures.
    """
    _, first, picture_of = np.unique(group, return_index=True, return_inverse=True)
    rng = np.random.default_rng(seed)
    part = np.zeros(len(first), np.int64)
    divided = 0
    for c in np.unique(label[first]).tolist():
        own = rng.permutation(np.flatnonzero(label[first] == c))
        if len(own) < 2:
            continue
        divided += 1
        tested = max(1, round(SHARES[2] * len(own)))
        watched = max(1, round(SHARES[1] * len(own))) if len(own) > 2 else 0
        part[own[:tested]] = 2
        part[own[tested : tested + watched]] = 1
    if divided < 2:
        raise UsageError(
            "fewer than two classes have two pictures, so none can be asked about; give more labels"
        )
    of_row = part[picture_of]
    return ThreeParts(*(np.flatnonzero(of_row == number) for number in range(3)))


def limit_per_class(
    rows: NDArray[np.int64], label: NDArray[np.int64], most: int, *, seed: int
) -> NDArray[np.int64]:
    """At most so many of these rows of each class, drawn at random, in their order.

    What a smaller number takes is part of what a larger one takes.
    """
    order = np.random.default_rng(seed).permutation(len(rows))
    taken = [rows[order][label[rows[order]] == c][:most] for c in np.unique(label[rows]).tolist()]
    return np.sort(np.concatenate(taken))


def _score(share: NDArray[np.float64], truth: NDArray[np.int64]) -> dict[str, float]:
    from sklearn.metrics import precision_recall_fscore_support

    if not len(truth):
        return dict.fromkeys(METRICS, float("nan"))
    order = np.argsort(-share, axis=1, kind="stable")
    said = order[:, 0]
    precision, recall, f1, _ = precision_recall_fscore_support(
        truth, said, labels=np.unique(truth), average="macro", zero_division=0
    )
    return {
        "top1": float((said == truth).mean()),
        "top3": float((order[:, :3] == truth[:, None]).any(axis=1).mean()),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
    }


def _together(scores: Sequence[Mapping[str, float]]) -> Scores:
    return Scores({metric: tuple(one[metric] for one in scores) for metric in METRICS})


def _curve(positive: NDArray[np.bool_], score: NDArray[np.float64]) -> Roc | None:
    """None where all crops are of the class, or none is."""
    from sklearn.metrics import auc, roc_curve

    if positive.all() or not positive.any():
        return None
    fpr, tpr, _ = roc_curve(positive, score, drop_intermediate=False)
    return Roc(fpr, tpr, float(auc(fpr, tpr)))


def _flat() -> Roc:
    return Roc(np.array([0.0, 1.0]), np.array([0.0, 1.0]), float("nan"))


def _average(curves: Sequence[Roc]) -> Roc:
    """Mean height of the curves at every place where one of them steps; its area is the mean of their areas."""
    if not curves:
        return _flat()
    # Twice each place: a step up has two heights there.
    at = np.unique(np.concatenate([curve.false_positive for curve in curves]))
    low = np.zeros(len(at))
    high = np.zeros(len(at))
    for curve in curves:
        fpr, tpr = curve.false_positive, curve.true_positive
        low += _height(at, fpr, tpr, before=True)
        high += _height(at, fpr, tpr, before=False)
    n = len(curves)
    places = np.repeat(at, 2)
    heights = np.stack([low / n, high / n], axis=1).ravel()
    return Roc(places, heights, float(np.mean([curve.auc for curve in curves])))


def _height(
    at: NDArray[np.float64], fpr: NDArray[np.float64], tpr: NDArray[np.float64], *, before: bool
) -> NDArray[np.float64]:
    """Height at these places, at the foot or at the head of a step."""
    places, first = np.unique(fpr, return_index=True)
    last = np.append(first[1:], len(fpr)) - 1
    # Between two places the curve rises from the head of one to the foot of the next.
    foot, head = tpr[first], tpr[last]
    right = np.clip(np.searchsorted(places, at), 0, len(places) - 1)
    on = places[right] == at
    left = np.maximum(right - 1, 0)
    span = np.maximum(places[right] - places[left], 1e-12)
    between = head[left] + (foot[right] - head[left]) * (at - places[left]) / span
    return np.where(on, (foot if before else head)[right], between)


def _by_class(
    confusion: NDArray[np.int64],
    trained: NDArray[np.float64],
    curves: Sequence[Roc | None],
    classes: Sequence[str],
) -> tuple[ClassRow, ...]:
    rows = []
    for c, name in enumerate(classes):
        asked, called, right = int(confusion[c].sum()), int(confusion[:, c].sum()), int(confusion[c, c])
        wrong = confusion[c].copy()
        wrong[c] = 0
        order = [int(o) for o in np.argsort(-wrong, kind="stable")[:TOLD_CONFUSIONS] if wrong[o]]
        curve = curves[c]
        rows.append(
            ClassRow(
                name=name,
                trained=float(trained[c]),
                asked=asked,
                precision=right / called if called else (0.0 if asked else float("nan")),
                recall=right / asked if asked else float("nan"),
                f1=2 * right / (asked + called) if asked else float("nan"),
                auc=float("nan") if curve is None else curve.auc,
                confusions=tuple(
                    Confusion(classes[o], int(wrong[o]), float(wrong[o] / asked)) for o in order
                ),
            )
        )
    return tuple(rows)


def _correlate(rows: Sequence[ClassRow]) -> float | None:
    from scipy.stats import spearmanr

    told = [(row.trained, row.recall) for row in rows if row.asked]
    trained, recall = np.array(told).T
    if len(told) < 3 or len(np.unique(trained)) < 2 or len(np.unique(recall)) < 2:
        return None
    return float(spearmanr(trained, recall).statistic)
