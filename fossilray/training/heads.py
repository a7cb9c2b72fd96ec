"""Training of a head on all labels, with cross-validation and the head's uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config.choices import HeadKind, HoldOutUnit, NoveltyKind
from fossilray.core.errors import UsageError
from fossilray.labels.agreement import Naming
from fossilray.labels.embed import EmbeddedCrops
from fossilray.labels.load import LabelledSet
from fossilray.labels.occurrence import OBJECT_KINDS
from fossilray.labels.taxonomy import RANKS, lineage_of
from fossilray.models.heads import Head, train_head
from fossilray.models.heads.head import TaxaMeta
from fossilray.models.heads.splits import TrainTestSplit, stratified_split
from fossilray.models.heads.uncertainty import fit_uncertainty

CROSS_VALIDATION_SPLITS = 3
RANK_ACCURACY = 0.9


@dataclass(frozen=True)
class CrossValidationScores:
    """Means over stratified splits 80:20; recall and precision are macro averages over classes."""

    splits: int
    recall: float
    precision: float
    accuracy: float
    log_loss: float


def train_and_cross_validate(
    labelled: LabelledSet,
    embedded: EmbeddedCrops,
    *,
    kind: HeadKind,
    k: int,
    seed: int = 0,
    over: HoldOutUnit = "crops",
    novelty: NoveltyKind = "knn",
    naming: Naming | None = None,
    accuracy: float = RANK_ACCURACY,
) -> tuple[Head, CrossValidationScores | None]:
    """Train a head on all labelled crops and cross-validate heads of the same settings.

    The head's uncertainty is fitted on out-of-fold predictions.

    Args:
        labelled: The labelled crops.
        embedded: Their vectors.
        kind: The head's kind.
        k: Neighbours, for kind knn.
        seed: Seed of the splits and of the initial weights.
        over: Unit that is held out whole when the uncertainty is fitted.
        novelty: Measure of novelty.
        naming: How the labels were turned into classes; with a rank, predictions may fall back to a coarser one.
        accuracy: Share of correct predictions that a rank must have on held-out crops.

    Returns:
        The head, and its scores; None if there are too few crops of each class to leave any out.
    """

    def train(rows: NDArray[np.int64]) -> Head:
        return train_head(
            embedded.vectors[rows],
            labelled.crops.label[rows],
            labelled.crops.classes,
            kind=kind,
            backbone=embedded.backbone,
            k=k,
            seed=seed,
        )

    head = train(np.arange(len(labelled)))
    head = fit_uncertainty(
        head,
        embedded.vectors,
        labelled.crops.label,
        labelled.crops.classes,
        train,
        groups=labelled.groups_for(over),
        hold_out=over,
        novelty=novelty,
        taxa=None if naming is None else describe_taxa(head.classes, naming, accuracy=accuracy),
        seed=seed,
    )
    try:
        splits = [
            stratified_split(labelled.crops.label, labelled.group, seed=seed + n)
            for n in range(CROSS_VALIDATION_SPLITS)
        ]
    except UsageError:
        return head, None
    scores = np.array([_score(train(split.train), labelled, embedded, split) for split in splits])
    recall, precision, accuracy, log_loss = (float(score) for score in scores.mean(axis=0))
    return head, CrossValidationScores(CROSS_VALIDATION_SPLITS, recall, precision, accuracy, log_loss)


def describe_taxa(classes: Sequence[str], naming: Naming, *, accuracy: float) -> TaxaMeta | None:
    """Return the coarser taxa of the classes of a head; None without a rank."""
    rank = naming.rank
    if rank is None:
        return None
    lineages = [
        {} if name in OBJECT_KINDS else lineage_of(name, naming.taxonomy, rank=rank) for name in classes
    ]
    kept = RANKS[RANKS.index(rank) :]
    return TaxaMeta(
        rank=rank,
        lineages=tuple({level: names[level] for level in kept if level in names} for names in lineages),
        accuracy=accuracy,
    )


def _score(
    head: Head, labelled: LabelledSet, embedded: EmbeddedCrops, split: TrainTestSplit
) -> tuple[float, ...]:
    from sklearn.metrics import precision_score, recall_score

    probability = head.predict(embedded.vectors[split.test])
    column = {name: number for number, name in enumerate(head.classes)}
    names = [labelled.crops.classes[c] for c in labelled.crops.label[split.test].tolist()]
    truth = np.array([column[name] for name in names])
    predicted = probability.argmax(axis=1)
    of_truth = np.maximum(probability[np.arange(len(truth)), truth], np.finfo(np.float32).tiny)
    return (
        float(recall_score(truth, predicted, labels=np.unique(truth), average="macro")),
        float(precision_score(truth, predicted, average="macro", zero_division=0)),
        float((truth == predicted).mean()),
        float(-np.log(of_truth).mean()),
    )
