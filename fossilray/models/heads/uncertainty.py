"""What a head learns of its own certainty from crops that were held out, and what it then says of an object."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config.choices import HoldOutUnit, NoveltyKind
from fossilray.core.errors import WeightsError
from fossilray.models.heads import Head, UncertaintyMeta
from fossilray.models.heads.calibration import entropy_of, fit_temperature
from fossilray.models.heads.conformal import (
    class_p_values,
    crops_needed_for_coverage,
    novelty_p_values,
    prediction_sets,
    wrong_call_p_values,
)
from fossilray.models.heads.cross_validation import predict_out_of_fold
from fossilray.models.heads.head import HeadMeta, apply_temperature
from fossilray.models.heads.novelty import NEIGHBOUR, NoveltyReference, fit_novelty

COVERAGE = 0.9


@dataclass(frozen=True)
class Uncertainty:
    """What a head says of objects besides their probabilities."""

    sets: NDArray[np.bool_]
    """(n, classes): the genera that cannot be excluded at the coverage asked for."""
    wrong_p: NDArray[np.float32]
    """(n,) of the hypothesis that the call is wrong."""
    novelty: NDArray[np.float32]
    """(n,) distance from all labels."""
    novelty_p: NDArray[np.float32]
    """(n,) of the hypothesis that the object is of a known genus."""


def fit_uncertainty(
    head: Head,
    vectors: NDArray[np.floating],
    label: NDArray[np.int64],
    classes: Sequence[str],
    train: Callable[[NDArray[np.int64]], Head],
    *,
    side: NDArray[np.int64],
    over: HoldOutUnit = "crops",
    novelty: NoveltyKind = "knn",
    k: int = NEIGHBOUR,
    seed: int = 0,
) -> Head:
    """The head with its temperature and what it needs to say how sure it is; as it was if no crop can be held out.

    vectors: (n, d) with labels (n,) in 0..len(classes)-1. train: a head taught alike on some rows of them. side: (n,)
    crops of equal number are held out together (`sides_of`), which over names. What heads say of crops
    that they were not taught on stands for what this one will say of new ones. They know four fifths of the labels
    and are as a rule a little less sure than the one that knows all, so what follows errs to the safe side.
    """
    number = np.full(len(classes), -1)
    own = [classes.index(name) for name in head.classes]
    number[own] = np.arange(len(own))
    truth = number[label]
    held_out = predict_out_of_fold(
        vectors, label, classes, train, side=side, over=over, novelty=novelty, k=k, seed=seed
    )
    asked = held_out.rows
    if not len(asked):
        return head
    temperature = fit_temperature(held_out.share[:, own], truth[asked])
    share = apply_temperature(held_out.share[:, own], temperature)
    arrays: dict[str, NDArray[Any]] = {
        "label": truth[asked].astype(np.int32),
        "call": share.argmax(axis=1).astype(np.int32),
        "score": 1 - share[np.arange(len(asked)), truth[asked]],
        "entropy": entropy_of(share),
        "distance": held_out.distance,
        **fit_novelty(vectors, truth, kind=novelty, k=k, seed=seed).arrays,
    }
    certainty = UncertaintyMeta(temperature=temperature, over=over, novelty=novelty, k=k)
    return Head(
        head.meta.model_copy(update={"format": HeadMeta.formats[1], "certainty": certainty}),
        {**head.parameters, **{f"certainty.{name}": array for name, array in arrays.items()}},
    )


def predict_uncertainty(
    head: Head, vectors: NDArray[np.floating], share: NDArray[np.float32], *, coverage: float = COVERAGE
) -> Uncertainty:
    """What a head with certainty says of vectors (n, d) that it gave the probabilities (n, classes).

    Raises:
        WeightsError: the head was taught without certainty.
    """
    known, held = novelty_reference(head), head.parameters
    label = held["certainty.label"]
    p_values = class_p_values(1 - share, held["certainty.score"], label)
    distance = known.distance(vectors)
    return Uncertainty(
        prediction_sets(p_values, coverage=coverage),
        wrong_call_p_values(entropy_of(share), held["certainty.entropy"], held["certainty.call"] != label),
        distance,
        novelty_p_values(distance, held["certainty.distance"]),
    )


def describe_uncertainty(head: Head, *, coverage: float = COVERAGE) -> str:
    """A sentence about a head with certainty: its temperature, and the classes that no set can exclude."""
    certainty = head.meta.certainty
    assert certainty is not None, "asked only of heads that have one"
    held = np.bincount(head.parameters["certainty.label"], minlength=len(head.classes))
    least = crops_needed_for_coverage(coverage)
    few = [name for name, count in zip(head.classes, held, strict=True) if count < least]
    text = (
        f"certainty from {held.sum()} crops held out by {certainty.over}: temperature {certainty.temperature:.2f}, "
        f"novelty by {certainty.novelty}"
    )
    if few:
        text += (
            f"; {len(few)} classes have fewer than {least} of them and are in every set of {coverage:.0%}: "
            f"{', '.join(few[:5])}{', …' if len(few) > 5 else ''}"
        )
    return text


def novelty_reference(head: Head) -> NoveltyReference:
    """What the labels of a head make known.

    Raises:
        WeightsError: it was taught without certainty.
    """
    if head.meta.certainty is None:
        raise WeightsError(
            "the head does not say how sure it may be: it was made by an earlier fossilray, or of too few labels to "
            "hold any out; train it again with `fossilray classify train`"
        )
    arrays = {
        name.removeprefix("certainty."): array
        for name, array in head.parameters.items()
        if name.removeprefix("certainty.") in ("known", "known_label", "centres", "whitening")
    }
    return NoveltyReference(head.meta.certainty.novelty, head.meta.certainty.k, arrays)
