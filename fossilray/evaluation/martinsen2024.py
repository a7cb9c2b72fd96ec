"""Classification as Martinsen et al. (2024, "The 3-billion fossil question", table 2) and their code judge it.

Ten stratified divisions 80 to 20 (seeds 0 to 9); nearest neighbours by Euclidean distance, every vote alike, for
k = 1, 3, 5, 7, 9; multinomial logistic regression with balanced class weights on the vectors as they are. Average
recall and precision are means over classes, each of equal weight.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import UsageError
from fossilray.models.heads.splits import Split, stratified_split

NEIGHBOURS = (1, 3, 5, 7, 9)
SPLITS = 10
LOGISTIC = "logistic regression"
NEAREST = "kNN, k = 1"
METRICS = ("recall", "precision", "f1", "accuracy", "log_loss")
_MOST_STEPS = 10_000

Told = Callable[[int, int], None]
"""Told how many splits are done, of how many."""


@dataclass(frozen=True)
class Spread:
    """A figure over splits; the deviation is that of a sample (n - 1), 0 for one split."""

    mean: float
    deviation: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class MethodScores:
    """One classifier over all splits."""

    method: str
    values: dict[str, tuple[float, ...]]
    """Of METRICS, one value a split; log_loss is empty where votes are no probabilities."""

    def spread(self, metric: str) -> Spread | None:
        """Mean and spread of a figure; None where it is not measured."""
        values = np.array(self.values[metric])
        if not len(values):
            return None
        deviation = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        return Spread(float(values.mean()), deviation, float(values.min()), float(values.max()))


@dataclass(frozen=True)
class ClassScores:
    """One class under one classifier: means over the splits that asked about it; NaN if none did."""

    method: str
    name: str
    crops: int
    asked: int
    """Crops of it on test sides, all splits together."""
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Martinsen2024:
    """All figures of the protocol."""

    methods: tuple[MethodScores, ...]
    per_class: tuple[ClassScores, ...]
    confusion: NDArray[np.int64]
    """(classes, classes): truth down, answer of logistic regression across, all splits together."""
    unfinished: int
    """Regressions that reached their last step before they settled."""


def judge_classification(
    vectors: NDArray[np.floating],
    label: NDArray[np.int64],
    classes: Sequence[str],
    *,
    group: NDArray[np.int64],
    splits: int = SPLITS,
    told: Told = lambda _done, _of: None,
) -> Martinsen2024:
    """The protocol over vectors (n, d) with labels (n,) in 0..len(classes)-1.

    Raises:
        UsageError: there are too few crops to divide, or for nine neighbours.
    """
    seen = vectors.astype(np.float32)
    divided = []
    for seed in range(splits):
        divided.append(stratified_split(label, group, seed=seed))
        if len(divided[-1].train) < max(NEIGHBOURS):
            raise UsageError(
                f"{len(divided[-1].train)} crops to learn from are fewer than {max(NEIGHBOURS)} neighbours"
            )
    answers: dict[str, list[NDArray[np.int64]]] = {}
    losses: list[float] = []
    unfinished = 0
    for seed, split in enumerate(divided):
        for k, said in zip(NEIGHBOURS, _ask_neighbours(seen, label, split), strict=True):
            answers.setdefault(f"kNN, k = {k}", []).append(said)
        said, loss, settled = _ask_regression(seen, label, split, seed=seed)
        answers.setdefault(LOGISTIC, []).append(said)
        losses.append(loss)
        unfinished += not settled
        told(seed + 1, splits)
    truth = [label[split.test] for split in divided]
    return Martinsen2024(
        methods=tuple(
            _score(method, truth, said, losses if method == LOGISTIC else [])
            for method, said in answers.items()
        ),
        per_class=tuple(
            row
            for method in (NEAREST, LOGISTIC)
            for row in _by_class(method, truth, answers[method], label, classes)
        ),
        confusion=_confusion(truth, answers[LOGISTIC], len(classes)),
        unfinished=unfinished,
    )


def nearest_f1(
    vectors: NDArray[np.floating], label: NDArray[np.int64], *, group: NDArray[np.int64], splits: int = SPLITS
) -> tuple[float, ...]:
    """F1 of the nearest neighbour's class, averaged over classes, for each of the same splits."""
    from sklearn.metrics import f1_score

    seen = vectors.astype(np.float32)
    scores = []
    for seed in range(splits):
        split = stratified_split(label, group, seed=seed)
        said = _ask_neighbours(seen, label, split, NEIGHBOURS[:1])[0]
        scores.append(float(f1_score(label[split.test], said, average="macro", zero_division=0)))
    return tuple(scores)


def _ask_neighbours(
    seen: NDArray[np.float32], label: NDArray[np.int64], split: Split, neighbours: Sequence[int] = NEIGHBOURS
) -> list[NDArray[np.int64]]:
    from sklearn.neighbors import KNeighborsClassifier

    answers = []
    for k in neighbours:
        model = KNeighborsClassifier(n_neighbors=k, p=2).fit(seen[split.train], label[split.train])
        answers.append(np.asarray(model.predict(seen[split.test]), np.int64))
    return answers


def _ask_regression(
    seen: NDArray[np.float32], label: NDArray[np.int64], split: Split, *, seed: int
) -> tuple[NDArray[np.int64], float, bool]:
    """Answers, log loss, and whether the regression settled."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from threadpoolctl import threadpool_limits

    model = LogisticRegression(max_iter=_MOST_STEPS, class_weight="balanced", random_state=seed)
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")  # what does not settle is counted
        model.fit(seen[split.train], label[split.train])
    asked = seen[split.test]
    share = np.asarray(model.predict_proba(asked), np.float64)
    share /= share.sum(axis=1, keepdims=True)
    loss = log_loss(label[split.test], share, labels=model.classes_)
    settled = int(np.max(model.n_iter_)) < _MOST_STEPS
    return np.asarray(model.predict(asked), np.int64), float(loss), settled


def _score(
    method: str,
    truth: Sequence[NDArray[np.int64]],
    said: Sequence[NDArray[np.int64]],
    losses: Sequence[float],
) -> MethodScores:
    from sklearn.metrics import f1_score, precision_score, recall_score

    values: dict[str, list[float]] = {metric: [] for metric in METRICS}
    for true, answer in zip(truth, said, strict=True):
        # Recall over classes that were asked about (balanced accuracy); precision also over those only answered.
        values["recall"].append(float(recall_score(true, answer, labels=np.unique(true), average="macro")))
        values["precision"].append(float(precision_score(true, answer, average="macro", zero_division=0)))
        values["f1"].append(float(f1_score(true, answer, average="macro", zero_division=0)))
        values["accuracy"].append(float((true == answer).mean()))
    values["log_loss"] = list(losses)
    return MethodScores(method, {metric: tuple(found) for metric, found in values.items()})


def _by_class(
    method: str,
    truth: Sequence[NDArray[np.int64]],
    said: Sequence[NDArray[np.int64]],
    label: NDArray[np.int64],
    classes: Sequence[str],
) -> list[ClassScores]:
    from sklearn.metrics import precision_recall_fscore_support

    numbers = np.arange(len(classes))
    figures = np.full((len(truth), 3, len(classes)), np.nan)
    asked = np.zeros(len(classes), np.int64)
    for row, (true, answer) in enumerate(zip(truth, said, strict=True)):
        *three, support = precision_recall_fscore_support(true, answer, labels=numbers, zero_division=0)
        figures[row] = np.where(support > 0, np.stack(three), np.nan)
        asked += support
    counts = np.bincount(label, minlength=len(classes))
    splits = np.maximum((~np.isnan(figures[:, 0])).sum(axis=0), 1)
    mean = np.where(asked > 0, np.nansum(figures, axis=0) / splits, np.nan)
    return [
        ClassScores(method, name, int(counts[c]), int(asked[c]), *(float(value) for value in mean[:, c]))
        for c, name in enumerate(classes)
    ]


def _confusion(
    truth: Sequence[NDArray[np.int64]], said: Sequence[NDArray[np.int64]], classes: int
) -> NDArray[np.int64]:
    found = np.zeros((classes, classes), np.int64)
    np.add.at(found, (np.concatenate(truth), np.concatenate(said)), 1)
    return found
