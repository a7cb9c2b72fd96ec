"""How well what a head says of its own certainty holds for crops that it was not taught on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import UsageError
from fossilray.labels.embed import EmbeddedCrops
from fossilray.labels.load import LabelledSet, sides_of
from fossilray.models.heads import Head, HeadKind, HoldOutUnit, NoveltyKind, train_head
from fossilray.models.heads.calibration import Bin, expected_calibration_error, reliability
from fossilray.models.heads.conformal import benjamini_hochberg_threshold
from fossilray.models.heads.head import apply_temperature
from fossilray.models.heads.novelty import LeftOutGenus, leave_one_genus_out
from fossilray.models.heads.splits import Split, stratified_split
from fossilray.models.heads.uncertainty import fit_uncertainty, predict_uncertainty

WELL_GROUPS = 10
"""Wells are left out one by one, or where there are more, in so many groups."""

ALL_NOVELTY: tuple[NoveltyKind, ...] = get_args(NoveltyKind)

Told = Callable[[int, int], None]


@dataclass(frozen=True)
class SetCoverage:
    """Sets of genera about the crops of one class, or of one group of wells."""

    name: str
    asked: int
    covered: float
    """Share of sets that hold the right genus."""
    mean_size: float


@dataclass(frozen=True)
class OutOfSamplePredictions:
    """Answers about n crops that a head was not taught on, several splits together."""

    truth: NDArray[np.int64]
    call: NDArray[np.int64]
    confidence: NDArray[np.float32]
    """(n,) probability of the call."""
    uncalibrated: NDArray[np.float32]
    """(n,) the same before the temperature."""
    told: NDArray[np.float32]
    """(n, 2) probability of the label, after and before."""
    covered: NDArray[np.bool_]
    size: NDArray[np.int64]
    """(n,) genera in the set."""
    kept: NDArray[np.bool_]
    """(n,) whether the entropy filter keeps the call."""
    temperature: NDArray[np.float64]
    """(n,) of the head that was asked."""

    @property
    def right(self) -> NDArray[np.bool_]:
        return np.asarray(self.truth == self.call)


@dataclass(frozen=True)
class UncertaintyScores:
    """All figures of one head over labelled crops."""

    kind: HeadKind
    coverage: float
    wrong_share: float
    asked: OutOfSamplePredictions
    wrong_kept: float
    """Mean over splits of the share of wrong calls among those kept, 0 where none was."""
    bins: tuple[Bin, ...]
    bins_uncalibrated: tuple[Bin, ...]
    classes: tuple[SetCoverage, ...]
    wells: tuple[SetCoverage, ...]
    """Wells that were left out whole; none where the labels name fewer than two."""
    wells_by_wells: tuple[SetCoverage, ...]
    """The same, of heads that held out whole wells while they learned how sure they may be."""
    withheld: tuple[LeftOutGenus, ...]

    @property
    def figures(self) -> dict[str, float]:
        """The chief ones, by name."""
        asked = self.asked
        log_loss = -np.log(np.maximum(asked.told, 1e-12)).mean(axis=0)
        found: dict[str, float] = {
            "accuracy": float(asked.right.mean()),
            "ECE": expected_calibration_error(list(self.bins)),
            "ECE before the temperature": expected_calibration_error(list(self.bins_uncalibrated)),
            "log loss": float(log_loss[0]),
            "log loss before the temperature": float(log_loss[1]),
            "temperature": float(asked.temperature.mean()),
            "coverage": float(asked.covered.mean()),
            "coverage, mean over classes": float(np.mean([one.covered for one in self.classes])),
            "coverage, least of a class": min(one.covered for one in self.classes),
            "genera in a set": float(asked.size.mean()),
            "sets of one genus": float((asked.size == 1).mean()),
            "empty sets": float((asked.size == 0).mean()),
            "calls kept": float(asked.kept.mean()),
            "wrong among those kept": self.wrong_kept,
        }
        for name, wells in (("", self.wells), (", wells held out", self.wells_by_wells)):
            if wells:
                found[f"coverage on new wells{name}"] = float(np.mean([one.covered for one in wells]))
        for kind in ALL_NOVELTY:
            if self.withheld:
                found[f"novelty AUROC, {kind}"] = float(np.mean([one.auroc[kind] for one in self.withheld]))
        return found


def evaluate_uncertainty(
    labelled: LabelledSet,
    described: EmbeddedCrops,
    *,
    kind: HeadKind,
    splits: int = 5,
    coverage: float = 0.9,
    wrong_share: float = 0.05,
    told: Told = lambda _done, _of: None,
) -> UncertaintyScores:
    """Heads taught on four fifths and asked about the last; on whole wells where several are named; on genera withheld.

    Raises:
        UsageError: there are too few labels to leave any out.
    """
    label, classes = labelled.crops.label, labelled.crops.classes
    several_wells = labelled.wells is not None and len(set(labelled.wells)) > 1
    held_out: tuple[HoldOutUnit, ...] = ("crops", "wells") if several_wells else ()
    wells = _leave_wells_out(labelled) if several_wells else []
    steps = splits + len(held_out) * len(wells) + 1
    asking = _Asking(labelled, described, kind, coverage, wrong_share)

    found = []
    for seed in range(splits):
        answer = asking.ask(stratified_split(label, labelled.group, seed=seed), over="crops", seed=seed)
        if answer is None:
            raise UsageError(
                "of four fifths of the labels none can be held out once more; give more labels of each class"
            )
        found.append(answer)
        told(seed + 1, steps)
    on_wells: dict[HoldOutUnit, list[SetCoverage]] = {"crops": [], "wells": []}
    for number, (over, (name, split)) in enumerate(product(held_out, wells)):
        answer = asking.ask(split, over=over, seed=0)
        if answer is not None and len(answer.truth):
            on_wells[over].append(_covered(name, answer, np.ones(len(answer.truth), bool)))
        told(splits + number + 1, steps)
    try:
        withheld = leave_one_genus_out(described.vectors, label, classes, group=labelled.group)
    except UsageError:
        withheld = []  # without one of two genera there is nothing to tell apart
    told(steps, steps)
    asked = _join(found)
    return UncertaintyScores(
        kind=kind,
        coverage=coverage,
        wrong_share=wrong_share,
        asked=asked,
        wrong_kept=float(
            np.mean([(~one.right)[one.kept].mean() if one.kept.any() else 0.0 for one in found])
        ),
        bins=tuple(reliability(asked.confidence, asked.right)),
        bins_uncalibrated=tuple(reliability(asked.uncalibrated, asked.right)),
        classes=tuple(
            _covered(name, asked, asked.truth == c)
            for c, name in enumerate(classes)
            if (asked.truth == c).any()
        ),
        wells=tuple(on_wells["crops"]),
        wells_by_wells=tuple(on_wells["wells"]),
        withheld=tuple(withheld),
    )


@dataclass(frozen=True)
class _Asking:
    """Teaches heads on some labels and asks them about others."""

    labelled: LabelledSet
    described: EmbeddedCrops
    kind: HeadKind
    coverage: float
    wrong_share: float

    def ask(self, split: Split, *, over: HoldOutUnit, seed: int) -> OutOfSamplePredictions | None:
        """Answers about crops whose class was taught; None where none of those taught could be held out."""
        label, classes = self.labelled.crops.label, self.labelled.crops.classes
        rows = split.train

        def train(some: NDArray[np.int64]) -> Head:
            return train_head(
                self.described.vectors[rows[some]],
                label[rows[some]],
                classes,
                kind=self.kind,
                backbone=self.described.backbone,
                seed=seed,
            )

        if len(np.unique(label[rows])) < 2:
            return None
        head = fit_uncertainty(
            train(np.arange(len(rows))),
            self.described.vectors[rows],
            label[rows],
            classes,
            train,
            side=sides_of(self.labelled, over)[rows],
            over=over,
            seed=seed,
        )
        if head.meta.certainty is None:
            return None
        own = np.array([classes.index(name) for name in head.classes])
        asked = split.test[np.isin(label[split.test], own)]
        return self._answers(head, own, asked, head.meta.certainty.temperature)

    def _answers(
        self, head: Head, own: NDArray[np.int64], asked: NDArray[np.int64], temperature: float
    ) -> OutOfSamplePredictions:
        vectors, truth = self.described.vectors[asked], self.labelled.crops.label[asked]
        share = head.predict(vectors)
        before = apply_temperature(share, 1 / temperature)
        said = predict_uncertainty(head, vectors, share, coverage=self.coverage)
        line, column = np.arange(len(asked)), np.searchsorted(own, truth)
        limit = benjamini_hochberg_threshold(
            said.wrong_p.astype(np.float64), np.ones(len(asked), np.int64), wrong_share=self.wrong_share
        )
        return OutOfSamplePredictions(
            truth=truth,
            call=own[share.argmax(axis=1)],
            confidence=share.max(axis=1),
            uncalibrated=before.max(axis=1),
            told=np.stack([share[line, column], before[line, column]], axis=1),
            covered=said.sets[line, column],
            size=said.sets.sum(axis=1),
            kept=said.wrong_p <= (-1.0 if limit is None else limit),
            temperature=np.full(len(asked), temperature),
        )


def _join(parts: Sequence[OutOfSamplePredictions]) -> OutOfSamplePredictions:
    return OutOfSamplePredictions(
        *(
            np.concatenate([getattr(one, each.name) for one in parts])
            for each in fields(OutOfSamplePredictions)
        )
    )


def _covered(name: str, asked: OutOfSamplePredictions, chosen: NDArray[np.bool_]) -> SetCoverage:
    return SetCoverage(
        name, int(chosen.sum()), float(asked.covered[chosen].mean()), float(asked.size[chosen].mean())
    )


def _leave_wells_out(labelled: LabelledSet) -> list[tuple[str, Split]]:
    """Each well's crops to be asked about and all others to learn from; many wells in WELL_GROUPS groups."""
    assert labelled.wells is not None, "asked only of labels that name wells"
    well = np.array(labelled.wells)
    names, sizes = np.unique(well, return_counts=True)
    groups: list[list[str]] = [[] for _ in range(min(len(names), WELL_GROUPS))]
    for place, number in enumerate(np.argsort(-sizes, kind="stable").tolist()):
        groups[place % len(groups)].append(str(names[number]))
    found = []
    for group in groups:
        held = np.isin(well, group)
        # A picture that is in two wells must not be learned from one to be known in the other.
        copies = np.isin(labelled.group, labelled.group[held])
        more = "" if len(group) == 1 else f" and {len(group) - 1} more"
        found.append((group[0] + more, Split(np.flatnonzero(~copies), np.flatnonzero(held))))
    return found
