"""A head taught on all labels, and what it would have said of those left out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config.choices import HeadKind, HoldOutUnit, NoveltyKind
from fossilray.core.errors import UsageError
from fossilray.labels.embed import EmbeddedCrops
from fossilray.labels.load import LabelledSet
from fossilray.models.heads import Head, train_head
from fossilray.models.heads.splits import Split, stratified_split
from fossilray.models.heads.uncertainty import fit_uncertainty

SPLITS = 3


@dataclass(frozen=True)
class CrossValidationScores:
    """Means over splits; recall and precision are means over classes."""

    splits: int
    recall: float
    precision: float
    accuracy: float
    log_loss: float


def train_and_cross_validate(
    labelled: LabelledSet,
    described: EmbeddedCrops,
    *,
    kind: HeadKind,
    k: int,
    seed: int = 0,
    over: HoldOutUnit = "crops",
    novelty: NoveltyKind = "knn",
) -> tuple[Head, CrossValidationScores | None]:
    """A head taught on all labelled crops, and how heads taught alike did on the fifth they were not taught.

    None where there are too few crops of each class to leave any out. The head learns how sure it may be from what
    heads taught alike say of crops that they were not taught; over: what is held out whole for that.
    """

    def train(rows: NDArray[np.int64]) -> Head:
        return train_head(
            described.vectors[rows],
            labelled.crops.label[rows],
            labelled.crops.classes,
            kind=kind,
            backbone=described.backbone,
            k=k,
            seed=seed,
        )

    head = train(np.arange(len(labelled)))
    head = fit_uncertainty(
        head,
        described.vectors,
        labelled.crops.label,
        labelled.crops.classes,
        train,
        side=labelled.groups_for(over),
        over=over,
        novelty=novelty,
        seed=seed,
    )
    try:
        splits = [
            stratified_split(labelled.crops.label, labelled.group, seed=seed + n) for n in range(SPLITS)
        ]
    except UsageError:
        return head, None
    scores = np.array([_ask(train(split.train), labelled, described, split) for split in splits])
    recall, precision, accuracy, log_loss = (float(score) for score in scores.mean(axis=0))
    return head, CrossValidationScores(SPLITS, recall, precision, accuracy, log_loss)


def _ask(head: Head, labelled: LabelledSet, described: EmbeddedCrops, split: Split) -> tuple[float, ...]:
    from sklearn.metrics import precision_score, recall_score

    share = head.predict(described.vectors[split.test])
    place = {name: column for column, name in enumerate(head.classes)}
    names = [labelled.crops.classes[c] for c in labelled.crops.label[split.test].tolist()]
    truth = np.array([place[name] for name in names])
    said = share.argmax(axis=1)
    told = np.maximum(share[np.arange(len(truth)), truth], np.finfo(np.float32).tiny)
    return (
        float(recall_score(truth, said, labels=np.unique(truth), average="macro")),
        float(precision_score(truth, said, average="macro", zero_division=0)),
        float((truth == said).mean()),
        float(-np.log(told).mean()),
    )
