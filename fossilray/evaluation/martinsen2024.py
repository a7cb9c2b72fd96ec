"""The classification protocol of Martinsen et al. (2024, "The 3-billion fossil question", table 2, and their code).

Ten stratified splits 80:20 (seeds 0 to 9). Classifiers: k nearest neighbours by Euclidean distance with uniform
weights, k = 1, 3, 5, 7, 9; multinomial logistic regression with balanced class weights, on unscaled vectors. Recall and
precision are macro averages: means over classes of equal weight.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import UsageError
from fossilray.core.types import OnProgress, ignore_progress
from fossilray.models.heads.splits import TrainTestSplit, stratified_split

CLASSIFICATION_SPLITS = 10
CLASSIFICATION_METRICS = ("recall", "precision", "f1", "accuracy", "log_loss")
LOGISTIC = "logistic regression"
NEAREST = "kNN, k = 1"
_NEIGHBOURS = (1, 3, 5, 7, 9)
_MAX_ITERATIONS = 10_000


@dataclass(frozen=True)
class MetricSummary:
    """A metric over splits; the deviation is that of a sample (n - 1), and 0 for one split."""

    mean: float
    deviation: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class MethodScores:
    """Scores of one classifier on every split."""

    method: str
    values: dict[str, tuple[float, ...]]
    """One value a split for each of CLASSIFICATION_METRICS; log_loss is empty for nearest neighbours."""

    def summary(self, metric: str) -> MetricSummary | None:
        """Return mean, deviation and range of a metric; None where it has no values."""
        values = np.array(self.values[metric])
        if not len(values):
            return None
        deviation = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        return MetricSummary(float(values.mean()), deviation, float(values.min()), float(values.max()))


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class under one classifier: means over the splits that test it; NaN where none does."""

    method: str
    name: str
    crops: int
    tested: int
    """Its test crops, summed over splits."""
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Martinsen2024:
    """Results of the protocol."""

    methods: tuple[MethodScores, ...]
    per_class: tuple[ClassScores, ...]
    confusion: NDArray[np.int64]
    """(classes, classes) confusion of logistic regression, true classes in rows, summed over splits."""
    not_converged: int
    """Regressions that stopped at the limit of iterations."""


def score_classification(
    vectors: NDArray[np.floating],
    label: NDArray[np.int64],
    classes: Sequence[str],
    *,
    group: NDArray[np.int64],
    splits: int = CLASSIFICATION_SPLITS,
    on_progress: OnProgress = ignore_progress,
) -> Martinsen2024:
    """Run the protocol on vectors.

    Args:
        vectors: (n, d).
        label: (n,) class numbers, 0 to len(classes) - 1.
        classes: Names of the classes.
        group: (n,) equal numbers for copies of one image, which stay on one side of every split.
        splits: Number of splits.
        on_progress: Called after each split.

    Raises:
        UsageError: There are too few crops to split, or fewer training crops than nine neighbours.
    """
    vectors = vectors.astype(np.float32)
    divisions = []
    for seed in range(splits):
        divisions.append(stratified_split(label, group, seed=seed))
        if len(divisions[-1].train) < max(_NEIGHBOURS):
            raise UsageError(
                f"{len(divisions[-1].train)} training crops are fewer than {max(_NEIGHBOURS)} neighbours; "
                "give more labels"
            )
    predictions: dict[str, list[NDArray[np.int64]]] = {}
    losses: list[float] = []
    not_converged = 0
    for seed, split in enumerate(divisions):
        for k, predicted in zip(_NEIGHBOURS, _predict_neighbours(vectors, label, split), strict=True):
            predictions.setdefault(f"kNN, k = {k}", []).append(predicted)
        predicted, loss, converged = _predict_logistic(vectors, label, split, seed=seed)
        predictions.setdefault(LOGISTIC, []).append(predicted)
        losses.append(loss)
        not_converged += not converged
        on_progress(seed + 1, splits)
    truth = [label[split.test] for split in divisions]
    return Martinsen2024(
        methods=tuple(
            _score(method, truth, predicted, losses if method == LOGISTIC else [])
            for method, predicted in predictions.items()
        ),
        per_class=tuple(
            row
            for method in (NEAREST, LOGISTIC)
            for row in _score_classes(method, truth, predictions[method], label, classes)
        ),
        confusion=_confusion(truth, predictions[LOGISTIC], len(classes)),
        not_converged=not_converged,
    )


def nearest_f1(
    vectors: NDArray[np.floating],
    label: NDArray[np.int64],
    *,
    group: NDArray[np.int64],
    splits: int = CLASSIFICATION_SPLITS,
    on_progress: OnProgress = ignore_progress,
) -> tuple[float, ...]:
    """Return the macro F1 of the nearest neighbour's class on each split of the protocol."""
    from sklearn.metrics import f1_score

    vectors = vectors.astype(np.float32)
    scores = []
    for seed in range(splits):
        split = stratified_split(label, group, seed=seed)
        predicted = _predict_neighbours(vectors, label, split, _NEIGHBOURS[:1])[0]
        scores.append(float(f1_score(label[split.test], predicted, average="macro", zero_division=0)))
        on_progress(seed + 1, splits)
    return tuple(scores)


def _predict_neighbours(
    vectors: NDArray[np.float32],
    label: NDArray[np.int64],
    split: TrainTestSplit,
    neighbours: Sequence[int] = _NEIGHBOURS,
) -> list[NDArray[np.int64]]:
    from sklearn.neighbors import KNeighborsClassifier

    predictions = []
    for k in neighbours:
        model = KNeighborsClassifier(n_neighbors=k, p=2).fit(vectors[split.train], label[split.train])
        predictions.append(np.asarray(model.predict(vectors[split.test]), np.int64))
    return predictions


def _predict_logistic(
    vectors: NDArray[np.float32], label: NDArray[np.int64], split: TrainTestSplit, *, seed: int
) -> tuple[NDArray[np.int64], float, bool]:
    """Return predicted classes, log loss, and whether the regression converged."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from threadpoolctl import threadpool_limits

    model = LogisticRegression(max_iter=_MAX_ITERATIONS, class_weight="balanced", random_state=seed)
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")  # regressions that do not converge are counted
        model.fit(vectors[split.train], label[split.train])
    test = vectors[split.test]
    probability = np.asarray(model.predict_proba(test), np.float64)
    probability /= probability.sum(axis=1, keepdims=True)
    loss = log_loss(label[split.test], probability, labels=model.classes_)
    converged = int(np.max(model.n_iter_)) < _MAX_ITERATIONS
    return np.asarray(model.predict(test), np.int64), float(loss), converged


def _score(
    method: str,
    truth: Sequence[NDArray[np.int64]],
    predictions: Sequence[NDArray[np.int64]],
    losses: Sequence[float],
) -> MethodScores:
    from sklearn.metrics import f1_score, precision_score, recall_score

    values: dict[str, list[float]] = {metric: [] for metric in CLASSIFICATION_METRICS}
    for true, predicted in zip(truth, predictions, strict=True):
        # Recall is the mean over classes with test crops (balanced accuracy); precision also over classes that
        # are only predicted.
        values["recall"].append(float(recall_score(true, predicted, labels=np.unique(true), average="macro")))
        values["precision"].append(float(precision_score(true, predicted, average="macro", zero_division=0)))
        values["f1"].append(float(f1_score(true, predicted, average="macro", zero_division=0)))
        values["accuracy"].append(float((true == predicted).mean()))
    values["log_loss"] = list(losses)
    return MethodScores(method, {metric: tuple(scores) for metric, scores in values.items()})


def _score_classes(
    method: str,
    truth: Sequence[NDArray[np.int64]],
    predictions: Sequence[NDArray[np.int64]],
    label: NDArray[np.int64],
    classes: Sequence[str],
) -> list[ClassScores]:
    from sklearn.metrics import precision_recall_fscore_support

    numbers = np.arange(len(classes))
    scores = np.full((len(truth), 3, len(classes)), np.nan)
    tested = np.zeros(len(classes), np.int64)
    for row, (true, predicted) in enumerate(zip(truth, predictions, strict=True)):
        *three, support = precision_recall_fscore_support(true, predicted, labels=numbers, zero_division=0)
        scores[row] = np.where(support > 0, np.stack(three), np.nan)
        tested += support
    counts = np.bincount(label, minlength=len(classes))
    splits = np.maximum((~np.isnan(scores[:, 0])).sum(axis=0), 1)
    mean = np.where(tested > 0, np.nansum(scores, axis=0) / splits, np.nan)
    return [
        ClassScores(method, name, int(counts[c]), int(tested[c]), *(float(value) for value in mean[:, c]))
        for c, name in enumerate(classes)
    ]


def _confusion(
    truth: Sequence[NDArray[np.int64]], predictions: Sequence[NDArray[np.int64]], classes: int
) -> NDArray[np.int64]:
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (np.concatenate(truth), np.concatenate(predictions)), 1)
    return confusion
