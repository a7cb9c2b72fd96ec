"""Uncertainty that heads state, scored on synthetic genera in synthetic wells, whose truth is known.

    python benchmarks/uncertainty.py --rounds 10

Each genus is a cloud of vectors, and each well moves all of its clouds alike, as a stain does. A head is trained on
some wells and tested on new crops of the same wells (exchangeable with the labels) and on new wells.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config.choices import HeadKind, HoldOutUnit
from fossilray.models.heads import BackboneReference, Head, train_head
from fossilray.models.heads.conformal import benjamini_hochberg_threshold
from fossilray.models.heads.uncertainty import fit_uncertainty, predict_uncertainty

GENERA = tuple(f"genus {number}" for number in range(8))
WELLS, DIMENSION = 6, 24
EACH = (14, 10, 8, 7, 6, 5, 5, 4)
"""Labelled crops of each genus in each well."""
APART, SPREAD, STAIN = 5.0, 1.9, 1.2


@dataclass(frozen=True)
class World:
    """Where clouds lie, and how wells move them."""

    centres: NDArray[np.float64]

    def draw(
        self, wells: NDArray[np.float64], each: tuple[int, ...], rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """Vectors, genera and wells."""
        label = np.tile(np.repeat(np.arange(len(each)), each), len(wells))
        well = np.repeat(np.arange(len(wells)), sum(each))
        vectors = self.centres[label] + wells[well] + rng.normal(0, SPREAD, (len(label), DIMENSION))
        return vectors.astype(np.float32), label, well


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--head", default="logistic", choices=("knn", "logistic", "svm"))
    parser.add_argument("--coverage", type=float, default=0.9)
    parser.add_argument("--wrong", type=float, default=0.05)
    options = parser.parse_args()
    began = time.perf_counter()
    rows: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    for seed in range(options.rounds):
        rng = np.random.default_rng(seed)
        world = World(rng.normal(0, APART / np.sqrt(2 * DIMENSION) * 2, (len(GENERA), DIMENSION)))
        known, new = (rng.normal(0, STAIN, (count, DIMENSION)) for count in (WELLS, 20))
        vectors, label, well = world.draw(known, EACH, rng)
        for over in ("crops", "wells"):
            head = fit_head(vectors, label, well, over, options.head)
            for name, wells in (("the same wells", known), ("new wells", new)):
                vectors_of_test, truth, _ = world.draw(wells, tuple(20 * n for n in EACH), rng)
                scored = score(head, vectors_of_test, truth, options.coverage, options.wrong)
                rows.setdefault((over, name), []).append(scored)
    print(
        f"{options.head} head, {len(GENERA)} genera, {WELLS * sum(EACH)} labels of {WELLS} wells, "
        f"{options.rounds} rounds; target coverage {options.coverage:.0%}, "
        f"wrong predictions allowed {options.wrong:.0%}"
    )
    columns = ("coverage", "classes", "least", "in a set", "accuracy", "kept", "wrong")
    print(f"{'held out':<10}{'tested on':<16}" + "".join(f"{name:>10}" for name in columns))
    for (over, name), values in rows.items():
        means = np.mean(values, axis=0)
        print(f"{over:<10}{name:<16}" + "".join(f"{value:>10.3f}" for value in means))
    print(f"{time.perf_counter() - began:.0f} s")


def fit_head(
    vectors: NDArray[np.float32],
    label: NDArray[np.int64],
    well: NDArray[np.int64],
    over: HoldOutUnit,
    kind: HeadKind,
) -> Head:
    def train(rows: NDArray[np.int64]) -> Head:
        backbone = BackboneReference(name="made up", sha256="")
        return train_head(vectors[rows], label[rows], GENERA, kind=kind, backbone=backbone)

    side = well if over == "wells" else np.arange(len(label))
    head = train(np.arange(len(label)))
    return fit_uncertainty(head, vectors, label, GENERA, train, groups=side, hold_out=over)


def score(
    head: Head, vectors: NDArray[np.float32], truth: NDArray[np.int64], coverage: float, wrong: float
) -> tuple[float, ...]:
    """Return coverage, its mean over classes, its minimum; set size; accuracy; share kept, and share wrong of those."""
    share = head.predict(vectors)
    uncertainty = predict_uncertainty(head, vectors, share, coverage=coverage)
    covered = uncertainty.sets[np.arange(len(truth)), truth]
    by_class = [float(covered[truth == c].mean()) for c in range(len(GENERA))]
    right = share.argmax(axis=1) == truth
    count = np.ones(len(truth), np.int64)
    limit = benjamini_hochberg_threshold(uncertainty.wrong_p.astype(np.float64), count, wrong_share=wrong)
    kept = uncertainty.wrong_p <= (-1.0 if limit is None else limit)
    return (
        float(covered.mean()),
        float(np.mean(by_class)),
        min(by_class),
        float(uncertainty.sets.sum(axis=1).mean()),
        float(right.mean()),
        float(kept.mean()),
        float((~right)[kept].mean()) if kept.any() else 0.0,
    )


if __name__ == "__main__":
    main()
