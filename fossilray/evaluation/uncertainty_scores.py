"""Scores of a head's uncertainty on labelled crops that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config.choices import HeadKind, HoldOutUnit, NoveltyKind
from fossilray.core.errors import UsageError
from fossilray.core.types import OnProgress, ignore_progress
from fossilray.labels.embed import EmbeddedCrops
from fossilray.labels.load import LabelledSet
from fossilray.models.heads import Head, train_head
from fossilray.models.heads.calibration import Bin, expected_calibration_error, reliability
from fossilray.models.heads.conformal import benjamini_hochberg_threshold
from fossilray.models.heads.head import apply_temperature
from fossilray.models.heads.novelty import LeftOutGenus, leave_one_genus_out
from fossilray.models.heads.splits import TrainTestSplit, stratified_split
from fossilray.models.heads.uncertainty import fit_uncertainty, predict_uncertainty

UNCERTAINTY_SPLITS = 5
ALL_NOVELTY: tuple[NoveltyKind, ...] = get_args(NoveltyKind)
_MAX_WELL_GROUPS = 10
"""Wells are left out one by one; more than this many are left out in groups."""


@dataclass(frozen=True)
class SetCoverage:
    """Prediction sets of the crops of one class, or of one group of wells."""

    name: str
    tested: int
    covered: float
    """Share of the sets that contain the true genus."""
    mean_size: float


@dataclass(frozen=True)
class OutOfSamplePredictions:
    """Predictions of n crops by heads that were not trained on them, pooled over splits."""

    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]
    """(n,) probability of the predicted genus."""
    uncalibrated_confidence: NDArray[np.float32]
    """(n,) the same before temperature scaling."""
    label_probability: NDArray[np.float32]
    """(n, 2) probability of the true genus, after and before temperature scaling."""
    covered: NDArray[np.bool_]
    """(n,) whether the prediction set contains the true genus."""
    set_size: NDArray[np.int64]
    """(n,) genera in the prediction set."""
    kept: NDArray[np.bool_]
    """(n,) whether the entropy threshold keeps the prediction."""
    temperature: NDArray[np.float64]
    """(n,) temperature of the head that made the prediction."""

    @property
    def correct(self) -> NDArray[np.bool_]:
        """(n,) whether the predicted genus is the true one."""
        return np.asarray(self.truth == self.predicted)


@dataclass(frozen=True)
class UncertaintyScores:
    """Uncertainty scores of heads of one kind on labelled crops."""

    kind: HeadKind
    coverage: float
    wrong_share: float
    predictions: OutOfSamplePredictions
    wrong_kept: float
    """Share of wrong predictions among those kept, mean over splits; 0 for a split that keeps none."""
    bins: tuple[Bin, ...]
    bins_uncalibrated: tuple[Bin, ...]
    classes: tuple[SetCoverage, ...]
    wells: tuple[SetCoverage, ...]
    """Wells that were left out whole; empty where the labels name fewer than two."""
    wells_by_wells: tuple[SetCoverage, ...]
    """The same, for heads whose uncertainty was fitted on held-out wells instead of held-out crops."""
    left_out_genera: tuple[LeftOutGenus, ...]

    @property
    def figures(self) -> dict[str, float]:
        """The main figures by name."""
        pooled = self.predictions
        log_loss = -np.log(np.maximum(pooled.label_probability, 1e-12)).mean(axis=0)
        figures: dict[str, float] = {
            "accuracy": float(pooled.correct.mean()),
            "ECE": expected_calibration_error(list(self.bins)),
            "ECE before the temperature": expected_calibration_error(list(self.bins_uncalibrated)),
            "log loss": float(log_loss[0]),
            "log loss before the temperature": float(log_loss[1]),
            "temperature": float(pooled.temperature.mean()),
            "coverage": float(pooled.covered.mean()),
            "coverage, mean over classes": float(np.mean([row.covered for row in self.classes])),
            "coverage, least of a class": min(row.covered for row in self.classes),
            "genera in a set": float(pooled.set_size.mean()),
            "sets of one genus": float((pooled.set_size == 1).mean()),
            "empty sets": float((pooled.set_size == 0).mean()),
            "predictions kept": float(pooled.kept.mean()),
            "wrong among those kept": self.wrong_kept,
        }
        for name, wells in (("", self.wells), (", wells held out", self.wells_by_wells)):
            if wells:
                figures[f"coverage on new wells{name}"] = float(np.mean([row.covered for row in wells]))
        for kind in ALL_NOVELTY:
            if self.left_out_genera:
                auroc = [genus.auroc[kind] for genus in self.left_out_genera]
                figures[f"novelty AUROC, {kind}"] = float(np.mean(auroc))
        return figures


def score_uncertainty(
    labelled: LabelledSet,
    embedded: EmbeddedCrops,
    *,
    kind: HeadKind,
    splits: int = UNCERTAINTY_SPLITS,
    coverage: float = 0.9,
    wrong_share: float = 0.05,
    on_progress: OnProgress = ignore_progress,
) -> UncertaintyScores:
    """Train heads on part of the labels and score their uncertainty on the rest.

    Left out in turn are a fifth of the crops of each class, whole wells where the labels name several, and whole
    genera.

    Args:
        labelled: The labelled crops.
        embedded: Their vectors.
        kind: The head's kind.
        splits: Stratified splits 80:20.
        coverage: Target coverage of prediction sets.
        wrong_share: Share of wrong predictions allowed among those kept.
        on_progress: Called after each split, each group of wells, and the genera.

    Raises:
        UsageError: There are too few labels to leave any out.
    """
    has_wells = labelled.wells is not None and len(set(labelled.wells)) > 1
    units: tuple[HoldOutUnit, ...] = ("crops", "wells") if has_wells else ()
    wells = _leave_wells_out(labelled) if has_wells else []
    steps = splits + len(units) * len(wells) + 1
    heads = _Heads(labelled, embedded, kind, coverage, wrong_share)

    by_split = []
    for seed in range(splits):
        split = stratified_split(labelled.crops.label, labelled.group, seed=seed)
        predictions = heads.predict(split, over="crops", seed=seed)
        if predictions is None:
            raise UsageError(
                "four fifths of the labels are too few to hold any of them out; give more labels of each class"
            )
        by_split.append(predictions)
        on_progress(seed + 1, steps)
    on_wells: dict[HoldOutUnit, list[SetCoverage]] = {"crops": [], "wells": []}
    for number, (over, (name, split)) in enumerate(product(units, wells)):
        predictions = heads.predict(split, over=over, seed=0)
        if predictions is not None and len(predictions.truth):
            on_wells[over].append(_set_coverage(name, predictions, np.ones(len(predictions.truth), bool)))
        on_progress(splits + number + 1, steps)
    left_out_genera = _leave_genera_out(labelled, embedded)
    on_progress(steps, steps)
    pooled = _pool(by_split)
    return UncertaintyScores(
        kind=kind,
        coverage=coverage,
        wrong_share=wrong_share,
        predictions=pooled,
        wrong_kept=float(np.mean([_wrong_among_kept(predictions) for predictions in by_split])),
        bins=tuple(reliability(pooled.confidence, pooled.correct)),
        bins_uncalibrated=tuple(reliability(pooled.uncalibrated_confidence, pooled.correct)),
        classes=tuple(
            _set_coverage(name, pooled, pooled.truth == c)
            for c, name in enumerate(labelled.crops.classes)
            if (pooled.truth == c).any()
        ),
        wells=tuple(on_wells["crops"]),
        wells_by_wells=tuple(on_wells["wells"]),
        left_out_genera=tuple(left_out_genera),
    )


@dataclass(frozen=True)
class _Heads:
    """Trains heads on some labels and predicts others."""

    labelled: LabelledSet
    embedded: EmbeddedCrops
    kind: HeadKind
    coverage: float
    wrong_share: float

    def predict(
        self, split: TrainTestSplit, *, over: HoldOutUnit, seed: int
    ) -> OutOfSamplePredictions | None:
        """Predict the test crops of classes that have training crops.

        Returns:
            The predictions, or None where too few training crops are left to fit the head's uncertainty.
        """
        label, classes = self.labelled.crops.label, self.labelled.crops.classes
        rows = split.train

        def train(subset: NDArray[np.int64]) -> Head:
            return train_head(
                self.embedded.vectors[rows[subset]],
                label[rows[subset]],
                classes,
                kind=self.kind,
                backbone=self.embedded.backbone,
                seed=seed,
            )

        if len(np.unique(label[rows])) < 2:
            return None
        head = fit_uncertainty(
            train(np.arange(len(rows))),
            self.embedded.vectors[rows],
            label[rows],
            classes,
            train,
            groups=self.labelled.groups_for(over)[rows],
            hold_out=over,
            seed=seed,
        )
        if head.meta.uncertainty is None:
            return None
        class_numbers = np.array([classes.index(name) for name in head.classes])
        test = split.test[np.isin(label[split.test], class_numbers)]
        return self._predict(head, class_numbers, test, temperature=head.meta.uncertainty.temperature)

    def _predict(
        self, head: Head, class_numbers: NDArray[np.int64], rows: NDArray[np.int64], *, temperature: float
    ) -> OutOfSamplePredictions:
        vectors, truth = self.embedded.vectors[rows], self.labelled.crops.label[rows]
        probability = head.predict(vectors)
        uncalibrated = apply_temperature(probability, 1 / temperature)
        uncertainty = predict_uncertainty(head, vectors, probability, coverage=self.coverage)
        row, column = np.arange(len(rows)), np.searchsorted(class_numbers, truth)
        threshold = benjamini_hochberg_threshold(
            uncertainty.wrong_p.astype(np.float64), np.ones(len(rows), np.int64), wrong_share=self.wrong_share
        )
        return OutOfSamplePredictions(
            truth=truth,
            predicted=class_numbers[probability.argmax(axis=1)],
            confidence=probability.max(axis=1),
            uncalibrated_confidence=uncalibrated.max(axis=1),
            label_probability=np.stack([probability[row, column], uncalibrated[row, column]], axis=1),
            covered=uncertainty.sets[row, column],
            set_size=uncertainty.sets.sum(axis=1),
            kept=uncertainty.wrong_p <= (-1.0 if threshold is None else threshold),
            temperature=np.full(len(rows), temperature),
        )


def _leave_genera_out(labelled: LabelledSet, embedded: EmbeddedCrops) -> list[LeftOutGenus]:
    try:
        return leave_one_genus_out(
            embedded.vectors, labelled.crops.label, labelled.crops.classes, group=labelled.group
        )
    except UsageError:
        return []  # of two genera, one would be left


def _pool(parts: Sequence[OutOfSamplePredictions]) -> OutOfSamplePredictions:
    return OutOfSamplePredictions(
        *(
            np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(OutOfSamplePredictions)
        )
    )


def _wrong_among_kept(predictions: OutOfSamplePredictions) -> float:
    kept = predictions.kept
    return float((~predictions.correct)[kept].mean()) if kept.any() else 0.0


def _set_coverage(name: str, predictions: OutOfSamplePredictions, selected: NDArray[np.bool_]) -> SetCoverage:
    return SetCoverage(
        name,
        int(selected.sum()),
        float(predictions.covered[selected].mean()),
        float(predictions.set_size[selected].mean()),
    )


def _leave_wells_out(labelled: LabelledSet) -> list[tuple[str, TrainTestSplit]]:
    """Split by wells: each well's crops are tested once, by a head trained on the others; many wells in groups."""
    assert labelled.wells is not None, "the caller checks that the labels name wells"
    well = np.array(labelled.wells)
    names, sizes = np.unique(well, return_counts=True)
    groups: list[list[str]] = [[] for _ in range(min(len(names), _MAX_WELL_GROUPS))]
    for rank, number in enumerate(np.argsort(-sizes, kind="stable").tolist()):
        groups[rank % len(groups)].append(str(names[number]))
    splits = []
    for group in groups:
        test = np.isin(well, group)
        # An image that occurs in two wells must not be trained on in one and tested in the other.
        copies = np.isin(labelled.group, labelled.group[test])
        more = "" if len(group) == 1 else f" and {len(group) - 1} more"
        splits.append((group[0] + more, TrainTestSplit(np.flatnonzero(~copies), np.flatnonzero(test))))
    return splits
