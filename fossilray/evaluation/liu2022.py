"""The protocol of Liu et al. (2022, "Automatic taxonomic identification based on the Fossil Image Dataset").

Paleobiology, doi:10.1017/pab.2022.14. Images are split 80:15:5 into training, validation and test. Scored are top-1 and
top-3 accuracy; precision, recall and F1 of each class with its most frequent confusions; ROC curves of each class
against the rest with their micro and macro average; recall against the number of training images; and training on less
data.

The paper trains once on 415,000 images; label sets here have hundreds. The split is therefore stratified, with at least
one test crop of each class, and the predictions of repetitions with other seeds are pooled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import UsageError
from fossilray.core.types import OnProgress, ignore_progress

TRANSFER_METRICS = ("top1", "top3", "precision", "recall", "f1")
_SHARES = (0.8, 0.15, 0.05)
_CONFUSIONS_LISTED = 3

TrainAndPredict = Callable[[NDArray[np.int64], str], NDArray[np.floating]]
"""Given training rows and a name: probabilities (n, classes) of all crops."""


@dataclass(frozen=True)
class ThreeWaySplit:
    """Row numbers of one split."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


@dataclass(frozen=True)
class TransferScores:
    """One value a repetition for each of TRANSFER_METRICS.

    Precision, recall and F1 are means over classes with test crops.
    """

    values: Mapping[str, tuple[float, ...]]

    def mean(self, metric: str) -> float:
        return float(np.mean(self.values[metric]))

    def deviation(self, metric: str) -> float | None:
        """Return the standard deviation of a sample; None for one repetition."""
        values = self.values[metric]
        return float(np.std(values, ddof=1)) if len(values) > 1 else None


@dataclass(frozen=True)
class FrequentConfusion:
    """Another class that test crops of a class were predicted as."""

    name: str
    count: int
    share: float
    """Share of the test crops of the class."""


@dataclass(frozen=True)
class ClassResult:
    """Scores of one class over all repetitions; NaN for a class without test crops."""

    name: str
    train_crops: float
    """Its training crops, mean over repetitions."""
    tested: int
    """Its test crops, summed over repetitions."""
    precision: float
    recall: float
    f1: float
    auc: float
    confusions: tuple[FrequentConfusion, ...]
    """At most three, most frequent first."""


@dataclass(frozen=True)
class RocCurve:
    """An ROC curve from (0, 0) to (1, 1) and the area under it."""

    false_positive: NDArray[np.float64]
    true_positive: NDArray[np.float64]
    auc: float


@dataclass(frozen=True)
class Condition:
    """Scores under one way of training or one limit on training crops."""

    name: str
    max_per_class: int | None
    train_crops: float
    """Training crops, mean over repetitions."""
    scores: TransferScores


@dataclass(frozen=True)
class Liu2022:
    """Results of the protocol."""

    test: TransferScores
    validation: TransferScores
    per_class: tuple[ClassResult, ...]
    confusion: NDArray[np.int64]
    """(classes, classes), true classes in rows, test crops of all repetitions."""
    micro: RocCurve
    macro: RocCurve
    size_correlation: float | None
    """Spearman's rank correlation of recall and training crops; None where one of them is constant."""
    conditions: tuple[Condition, ...]
    """All data first, then limits on training crops, then other ways of training."""


def score_transfer(
    predict: TrainAndPredict,
    label: NDArray[np.int64],
    classes: Sequence[str],
    *,
    group: NDArray[np.int64],
    repetitions: int = 1,
    reduced: Sequence[int] = (),
    compared: Mapping[str, TrainAndPredict] | None = None,
    seed: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> Liu2022:
    """Run the protocol.

    Args:
        predict: Trains on given rows and returns the probabilities of all crops.
        label: (n,) class numbers, 0 to len(classes) - 1.
        classes: Names of the classes.
        group: (n,) equal numbers for copies of one image, which stay on one side of every split.
        repetitions: Number of splits.
        reduced: Limits on the training crops of each class; each is a further training.
        compared: Other ways of training by name, compared under the smallest limit, or on all data without one.
        seed: Seed of the first split.
        on_progress: Called after each training.

    Raises:
        UsageError: There are too few crops to split.
    """
    splits = [split_three_ways(label, group, seed=seed + number) for number in range(repetitions)]
    trainings = [
        ("whole", None, predict),
        *((f"at most {limit} a class", limit, predict) for limit in sorted(reduced, reverse=True)),
    ]
    smallest = min(reduced) if reduced else None
    trainings += [(name, smallest, other) for name, other in (compared or {}).items()]
    conditions, on_all_data, step = [], [], 0
    for number, (name, limit, train_and_predict) in enumerate(trainings):
        scores, sizes = [], []
        for repetition, split in enumerate(splits):
            rows = split.train
            if limit is not None:
                rows = limit_per_class(rows, label, limit, seed=seed + repetition)
            probability = np.asarray(train_and_predict(rows, f"{number}-{repetition}"), np.float64)
            scores.append(_score(probability[split.test], label[split.test]))
            sizes.append(len(rows))
            if number == 0:
                on_all_data.append(probability)
            on_progress(step := step + 1, len(trainings) * repetitions)
        conditions.append(Condition(name, limit, float(np.mean(sizes)), _join(scores)))
    return _result(conditions, on_all_data, splits, label, classes)


def split_three_ways(label: NDArray[np.int64], group: NDArray[np.int64], *, seed: int) -> ThreeWaySplit:
    """Split every class 80:15:5, with at least one image for each of test, validation and training.

    Copies of one image (equal group) stay together, with the class of the first. A class of two images has no
    validation crops, and one of a single image has only training crops.

    Raises:
        UsageError: Fewer than two classes have two images.
    """
    _, first, image_of_row = np.unique(group, return_index=True, return_inverse=True)
    rng = np.random.default_rng(seed)
    part = np.zeros(len(first), np.int64)
    split_classes = 0
    for c in np.unique(label[first]).tolist():
        images = rng.permutation(np.flatnonzero(label[first] == c))
        if len(images) < 2:
            continue
        split_classes += 1
        tested = max(1, round(_SHARES[2] * len(images)))
        validated = max(1, round(_SHARES[1] * len(images))) if len(images) > 2 else 0
        part[images[:tested]] = 2
        part[images[tested : tested + validated]] = 1
    if split_classes < 2:
        raise UsageError("fewer than two classes have two images, so nothing can be tested; give more labels")
    part_of_row = part[image_of_row]
    return ThreeWaySplit(*(np.flatnonzero(part_of_row == number) for number in range(3)))


def limit_per_class(
    rows: NDArray[np.int64], label: NDArray[np.int64], limit: int, *, seed: int
) -> NDArray[np.int64]:
    """Return at most `limit` of these rows of each class, chosen at random, in ascending order.

    With one seed, the rows under a smaller limit are among those under a larger one.
    """
    order = np.random.default_rng(seed).permutation(len(rows))
    chosen = [rows[order][label[rows[order]] == c][:limit] for c in np.unique(label[rows]).tolist()]
    return np.sort(np.concatenate(chosen))


def _result(
    conditions: Sequence[Condition],
    probabilities: Sequence[NDArray[np.float64]],
    splits: Sequence[ThreeWaySplit],
    label: NDArray[np.int64],
    classes: Sequence[str],
) -> Liu2022:
    """Pool the test crops of all repetitions. probabilities: (n, classes) of each split, trained on all data."""
    pairs = list(zip(probabilities, splits, strict=True))
    truth = np.concatenate([label[split.test] for split in splits])
    pooled = np.concatenate([probability[split.test] for probability, split in pairs])
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (truth, pooled.argmax(axis=1)), 1)
    train_crops = np.mean(
        [np.bincount(label[split.train], minlength=len(classes)) for split in splits], axis=0
    )
    curves = [_roc_curve(truth == c, pooled[:, c]) for c in range(len(classes))]
    per_class = _score_classes(confusion, train_crops, curves, classes)
    one_hot = truth[:, None] == np.arange(len(classes))
    return Liu2022(
        test=conditions[0].scores,
        validation=_join(
            [_score(probability[split.validation], label[split.validation]) for probability, split in pairs]
        ),
        per_class=per_class,
        confusion=confusion,
        micro=_roc_curve(one_hot.ravel(), pooled.ravel()) or _diagonal(),
        macro=_average_curve([curve for curve in curves if curve is not None]),
        size_correlation=_correlate(per_class),
        conditions=tuple(conditions),
    )


def _score(probability: NDArray[np.float64], truth: NDArray[np.int64]) -> dict[str, float]:
    from sklearn.metrics import precision_recall_fscore_support

    if not len(truth):
        return dict.fromkeys(TRANSFER_METRICS, float("nan"))
    order = np.argsort(-probability, axis=1, kind="stable")
    predicted = order[:, 0]
    precision, recall, f1, _ = precision_recall_fscore_support(
        truth, predicted, labels=np.unique(truth), average="macro", zero_division=0
    )
    return {
        "top1": float((predicted == truth).mean()),
        "top3": float((order[:, :3] == truth[:, None]).any(axis=1).mean()),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
    }


def _join(scores: Sequence[Mapping[str, float]]) -> TransferScores:
    return TransferScores({metric: tuple(score[metric] for score in scores) for metric in TRANSFER_METRICS})


def _roc_curve(positive: NDArray[np.bool_], score: NDArray[np.float64]) -> RocCurve | None:
    """Return the ROC curve; None where all crops or no crops are positive."""
    from sklearn.metrics import auc, roc_curve

    if positive.all() or not positive.any():
        return None
    fpr, tpr, _ = roc_curve(positive, score, drop_intermediate=False)
    return RocCurve(fpr, tpr, float(auc(fpr, tpr)))


def _diagonal() -> RocCurve:
    return RocCurve(np.array([0.0, 1.0]), np.array([0.0, 1.0]), float("nan"))


def _average_curve(curves: Sequence[RocCurve]) -> RocCurve:
    """Return the mean of step curves: their mean height wherever one of them steps. Its area is their mean area."""
    if not curves:
        return _diagonal()
    # Each x twice: a step has two heights there.
    x = np.unique(np.concatenate([curve.false_positive for curve in curves]))
    low = np.zeros(len(x))
    high = np.zeros(len(x))
    for curve in curves:
        fpr, tpr = curve.false_positive, curve.true_positive
        low += _height(x, fpr, tpr, at_foot=True)
        high += _height(x, fpr, tpr, at_foot=False)
    heights = np.stack([low, high], axis=1).ravel() / len(curves)
    return RocCurve(np.repeat(x, 2), heights, float(np.mean([curve.auc for curve in curves])))


def _height(
    x: NDArray[np.float64], fpr: NDArray[np.float64], tpr: NDArray[np.float64], *, at_foot: bool
) -> NDArray[np.float64]:
    """Return the height of a step curve at each x, at the foot or at the head of a step."""
    knots, first = np.unique(fpr, return_index=True)
    last = np.append(first[1:], len(fpr)) - 1
    # Between two knots the curve is the line from the head of one step to the foot of the next.
    foot, head = tpr[first], tpr[last]
    right = np.clip(np.searchsorted(knots, x), 0, len(knots) - 1)
    left = np.maximum(right - 1, 0)
    span = np.maximum(knots[right] - knots[left], 1e-12)
    between = head[left] + (foot[right] - head[left]) * (x - knots[left]) / span
    return np.where(knots[right] == x, (foot if at_foot else head)[right], between)


def _score_classes(
    confusion: NDArray[np.int64],
    train_crops: NDArray[np.float64],
    curves: Sequence[RocCurve | None],
    classes: Sequence[str],
) -> tuple[ClassResult, ...]:
    results = []
    for c, name in enumerate(classes):
        tested, predicted = int(confusion[c].sum()), int(confusion[:, c].sum())
        correct = int(confusion[c, c])
        wrong = confusion[c].copy()
        wrong[c] = 0
        most_frequent = np.argsort(-wrong, kind="stable")[:_CONFUSIONS_LISTED].tolist()
        curve = curves[c]
        results.append(
            ClassResult(
                name=name,
                train_crops=float(train_crops[c]),
                tested=tested,
                precision=correct / predicted if predicted else (0.0 if tested else float("nan")),
                recall=correct / tested if tested else float("nan"),
                f1=2 * correct / (tested + predicted) if tested else float("nan"),
                auc=float("nan") if curve is None else curve.auc,
                confusions=tuple(
                    FrequentConfusion(classes[other], int(wrong[other]), float(wrong[other] / tested))
                    for other in most_frequent
                    if wrong[other]
                ),
            )
        )
    return tuple(results)


def _correlate(rows: Sequence[ClassResult]) -> float | None:
    from scipy.stats import spearmanr

    pairs = [(row.train_crops, row.recall) for row in rows if row.tested]
    train_crops, recall = np.array(pairs).T
    if len(pairs) < 3 or len(np.unique(train_crops)) < 2 or len(np.unique(recall)) < 2:
        return None
    return float(spearmanr(train_crops, recall).statistic)
