"""Coverage of a range chart's intervals, corrected and with sampling error alone, on wells of known composition.

python benchmarks/wells.py --labels FOLDER

Half of the labelled crops train a head and give its confusion by five folds. Samples are drawn from the other half:
300 objects of eight of its classes in known shares, as the head calls them. Needs four crops of a class.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold, train_test_split

from fossilray.analysis.stratigraphy.confusion import Confusion
from fossilray.analysis.stratigraphy.intervals import estimate_shares
from fossilray.labels.embed import embed_labelled
from fossilray.labels.load import load_labels
from fossilray.models.heads import Head, train_head

WELLS, SAMPLES, OBJECTS, PRESENT, FOLDS = 5, 12, 300, 8, 5


def main() -> None:
    """Print what held, for taxa that are in a sample and for those that are not."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--backbone", default="bundled")
    options = parser.parse_args()
    labelled = load_labels(options.labels)
    described = embed_labelled(labelled, options.backbone)
    label, classes = labelled.crops.label, labelled.crops.classes
    kept = np.flatnonzero(np.bincount(label)[label] >= 4)

    def fit_head(rows: NDArray[np.int64]) -> Head:
        return train_head(
            described.vectors[rows], label[rows], classes, kind="logistic", backbone=described.backbone
        )

    def call(head: Head, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        class_of_head = np.array([classes.index(name) for name in head.classes])
        return class_of_head[head.predict(described.vectors[rows]).argmax(axis=1)]

    held: dict[str, list[NDArray[np.float64]]] = {"corrected": [], "sampling error alone": []}
    right = []
    for seed in range(WELLS):
        known, other = train_test_split(kept, test_size=0.5, stratify=label[kept], random_state=seed)
        validation = np.zeros((len(classes), len(classes)), np.int64)
        for train, left in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(known, label[known]):
            np.add.at(validation, (label[known[left]], call(fit_head(known[train]), known[left])), 1)
        called = call(fit_head(known), other)
        right.append(float((called == label[other]).mean()))
        rng = np.random.default_rng(seed)
        truth, calls = _draw_samples(label[other], called, len(classes), rng)
        for name, confusion in (
            ("corrected", Confusion(classes, validation)),
            ("sampling error alone", None),
        ):
            estimate = estimate_shares(
                calls, np.arange(len(classes)), len(classes), confusion=confusion, draws=200, rng=rng
            )
            is_held = (estimate.low <= truth + 1e-12) & (truth <= estimate.high)
            misplaced = np.abs(estimate.shares - truth).sum(axis=1).mean() / 2
            held[name].append(
                np.array([is_held.mean(), is_held[truth > 0].mean(), is_held[truth == 0].mean(), misplaced])
            )
    print(
        f"{len(labelled)} crops, {len(classes)} classes, {options.backbone} {described.backbone.sha256[:12]}"
    )
    print(f"called right: {np.mean(right):.3f}")
    for name, values in held.items():
        every, present, absent, misplaced = np.mean(values, axis=0)
        print(
            f"{name}: 95 % intervals held {every:.3f} (present {present:.3f}, absent {absent:.3f}); objects under a "
            f"wrong taxon {misplaced:.3f}"
        )


def _draw_samples(
    label: NDArray[np.int64], called: NDArray[np.int64], classes: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """True shares and calls (samples, classes)."""
    truth, calls = np.zeros((SAMPLES, classes)), np.zeros((SAMPLES, classes), np.int64)
    present = np.unique(label)
    rows_of = {genus: np.flatnonzero(label == genus) for genus in present.tolist()}
    for row in range(SAMPLES):
        some = rng.choice(present, min(PRESENT, len(present)), replace=False)
        truth[row, some] = rng.dirichlet(np.ones(len(some)))
        for genus in rng.choice(classes, OBJECTS, p=truth[row]).tolist():
            calls[row, called[rng.choice(rows_of[genus])]] += 1
    return truth, calls


if __name__ == "__main__":
    main()
