"""Uncertainty of a head's predictions: fitted on out-of-fold predictions, applied to new objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config.choices import HoldOutUnit, NoveltyKind
from fossilray.core.errors import WeightsError
from fossilray.core.text import list_some
from fossilray.core.vectors import entropy
from fossilray.models.heads import Head, UncertaintyMeta
from fossilray.models.heads.calibration import fit_temperature
from fossilray.models.heads.conformal import (
    class_p_values,
    crops_needed_for_coverage,
    novelty_p_values,
    prediction_sets,
    wrong_prediction_p_values,
)
from fossilray.models.heads.cross_validation import predict_out_of_fold
from fossilray.models.heads.defended_rank import fit_thresholds
from fossilray.models.heads.head import TaxaMeta, apply_temperature
from fossilray.models.heads.novelty import NOVELTY_RANK, NoveltyReference, fit_novelty

COVERAGE = 0.9


@dataclass(frozen=True)
class Uncertainty:
    """Uncertainty of predictions on n objects."""

    sets: NDArray[np.bool_]
    """(n, classes) prediction sets: the genera that cannot be excluded at the coverage."""
    wrong_p: NDArray[np.float32]
    """(n,) p-value of the hypothesis that the predicted genus is wrong."""
    novelty: NDArray[np.float32]
    """(n,) distance from all labels."""
    novelty_p: NDArray[np.float32]
    """(n,) p-value of the hypothesis that the object is of a labelled genus."""


def fit_uncertainty(
    head: Head,
    vectors: NDArray[np.floating],
    label: NDArray[np.int64],
    classes: Sequence[str],
    train: Callable[[NDArray[np.int64]], Head],
    *,
    groups: NDArray[np.int64],
    hold_out: HoldOutUnit = "crops",
    novelty: NoveltyKind = "knn",
    k: int = NOVELTY_RANK,
    taxa: TaxaMeta | None = None,
    seed: int = 0,
) -> Head:
    """Return the head with a temperature and the arrays from which it predicts its uncertainty.

    The head is returned unchanged if no crop can be held out. Out-of-fold predictions represent those on new objects.
    The heads of the folds are trained on four fifths of the labels and are usually a little less confident than the
    head itself, so the results are conservative.

    vectors: (n, d) with labels (n,) in 0..len(classes)-1. train: trains a head of the same kind on some of the rows.
    groups: (n,) crops of one group are held out together; `LabelledSet.groups_for(hold_out)` gives them. taxa: of the
    head's classes; the thresholds of its ranks are fitted, too.
    """
    class_of_label = np.full(len(classes), -1)
    columns = [classes.index(name) for name in head.classes]
    class_of_label[columns] = np.arange(len(columns))
    truth = class_of_label[label]
    predictions = predict_out_of_fold(
        vectors, label, classes, train, groups=groups, hold_out=hold_out, novelty=novelty, k=k, seed=seed
    )
    rows = predictions.rows
    if not len(rows):
        return head
    uncalibrated = predictions.probability[:, columns]
    temperature = fit_temperature(uncalibrated, truth[rows])
    probability = apply_temperature(uncalibrated, temperature)
    arrays: dict[str, NDArray[Any]] = {
        "label": truth[rows].astype(np.int32),
        "call": probability.argmax(axis=1).astype(np.int32),
        "score": 1 - probability[np.arange(len(rows)), truth[rows]],
        "entropy": entropy(probability),
        "distance": predictions.distance,
        **fit_novelty(vectors, truth, kind=novelty, k=k, seed=seed).arrays,
    }
    meta = UncertaintyMeta(temperature=temperature, hold_out=hold_out, novelty=novelty, k=k)
    if taxa is not None:
        taxa = fit_thresholds(probability, truth[rows], taxa)
    return head.with_uncertainty(meta, arrays, taxa=taxa)


def predict_uncertainty(
    head: Head, vectors: NDArray[np.floating], probability: NDArray[np.float32], *, coverage: float = COVERAGE
) -> Uncertainty:
    """Return the uncertainty of a head's probabilities (n, classes) for vectors (n, d).

    coverage: share of the objects of each genus whose prediction set contains the genus.

    Raises:
        WeightsError: the head was trained without uncertainty.
    """
    reference, held_out = novelty_reference(head), head.uncertainty_arrays
    label = held_out["label"]
    p_values = class_p_values(1 - probability, held_out["score"], label)
    distance = reference.distance(vectors)
    return Uncertainty(
        prediction_sets(p_values, coverage=coverage),
        wrong_prediction_p_values(entropy(probability), held_out["entropy"], held_out["call"] != label),
        distance,
        novelty_p_values(distance, held_out["distance"]),
    )


def describe_uncertainty(head: Head, *, coverage: float = COVERAGE) -> str:
    """Describe the uncertainty of a head that has one: its temperature, and the classes that are in every set."""
    meta = head.meta.uncertainty
    assert meta is not None, "the caller checks that the head has it"
    held_out = np.bincount(head.uncertainty_arrays["label"], minlength=len(head.classes))
    needed, too_few = crops_needed_for_coverage(coverage), classes_in_every_set(head, coverage=coverage)
    text = (
        f"uncertainty from {held_out.sum()} crops, held out by {meta.hold_out}: temperature {meta.temperature:.2f}, "
        f"novelty by {meta.novelty}"
    )
    if too_few:
        text += (
            f"; {len(too_few)} classes have fewer than {needed} of them and are in every set of {coverage:.0%}: "
            f"{list_some(too_few)}"
        )
    if (taxa := head.meta.taxa) is not None:
        thresholds = ", ".join(f"{rank} {value:.2f}" for rank, value in taxa.thresholds.items()) or "none"
        text += f"; probability from which {taxa.accuracy:.0%} are right, by rank: {thresholds}"
    return text


def classes_in_every_set(head: Head, *, coverage: float) -> tuple[str, ...]:
    """Return the classes with so few held-out crops that no prediction set leaves them out."""
    if head.meta.uncertainty is None:
        return ()
    held_out = np.bincount(head.uncertainty_arrays["label"], minlength=len(head.classes))
    needed = crops_needed_for_coverage(coverage)
    return tuple(name for name, count in zip(head.classes, held_out, strict=True) if count < needed)


def novelty_reference(head: Head) -> NoveltyReference:
    """Return the labelled vectors of a head, from which distances are measured.

    Raises:
        WeightsError: the head was trained without uncertainty.
    """
    if head.meta.uncertainty is None:
        raise WeightsError(
            "the head has no uncertainty: it was made by an earlier fossilray, or from too few labels to hold any "
            "out; train it again with `fossilray classify train`"
        )
    arrays = {
        name: array
        for name, array in head.uncertainty_arrays.items()
        if name in ("known", "known_label", "centres", "whitening")
    }
    return NoveltyReference(head.meta.uncertainty.novelty, head.meta.uncertainty.k, arrays)
