"""Gain of a head by selected labels, compared with as many random labels.

python benchmarks/suggest.py                    # made-up vectors: 10 seeds, a minute or two
python benchmarks/suggest.py --crops FOLDER     # real crops in <class>/<image>, vectors of the shipped backbone

Made-up vectors: 24 genera of unequal frequency (the rarest 1 in 630), each a few clusters, in four wells that hold
different ones, among as much debris again. All strategies start with the same random labels, select as many more
from the same pool, and train a logistic head each, which is tested on other objects.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config.choices import SuggestionStrategy
from fossilray.labels.suggest.selection import Quotas
from fossilray.labels.suggest.strategies import choose
from fossilray.models.heads import BackboneReference, train_head

GENERA, DIMENSION, WELLS = 24, 48, 4
RANDOM: SuggestionStrategy = "random"


@dataclass(frozen=True)
class Made:
    """Vectors, what they are of, and their wells."""

    vectors: NDArray[np.float32]
    label: NDArray[np.int64]
    well: NDArray[np.int64]
    classes: tuple[str, ...]


def main() -> None:
    """Print a table of every strategy beside random choice."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--start", type=int, default=100, help="random labels before the round")
    parser.add_argument("--n", type=int, default=100, help="labels of the round")
    parser.add_argument("--pool", type=int, default=8000)
    parser.add_argument("--crops", type=Path, help="folder of <class>/<image>")
    parser.add_argument("--backbone", default="bundled", help="of --crops; the shipped one may know them")
    given = parser.parse_args()
    whole = None if given.crops is None else describe(given.crops, given.backbone)
    first, later = [], []
    for seed in range(given.seeds):
        pool, test = halves(whole, seed) if whole else (make(given.pool, seed), make(4000, seed, again=True))
        first.append(
            {
                strategy: score_strategy(pool, test, strategy, start=0, n=given.n, seed=seed)
                for strategy in FIRST
            }
        )
        later.append(
            {
                strategy: score_strategy(pool, test, strategy, start=given.start, n=given.n, seed=seed)
                for strategy in get_args(SuggestionStrategy)
            }
        )
    show(f"first round: {given.n} labels, none before", first)
    show(f"next round: {given.n} labels after {given.start} random ones", later)


FIRST: tuple[SuggestionStrategy, ...] = ("mixed", "typical", "far", "random")
"""What can choose before anything is known; mixed is typical then."""


def make(count: int, seed: int, *, again: bool = False) -> Made:
    """A pool, or with `again` other objects of the same genera."""
    world = np.random.default_rng([seed, 1])
    share = np.geomspace(1, 0.02, GENERA)
    share = np.append(share / share.sum() / 2, 0.5)  # the last is debris
    centre = world.normal(0, 1, (GENERA, 3, DIMENSION)) * 0.35 + world.normal(0, 1, (GENERA, 1, DIMENSION))
    lives = world.random((GENERA + 1, WELLS)) < 0.6
    lives[-1] = True
    lives[~lives.any(axis=1), 0] = True
    rng = np.random.default_rng([seed, 2 + again])
    label = rng.choice(GENERA + 1, count, p=share)
    well = np.array([rng.choice(np.flatnonzero(lives[genus])) for genus in label])
    vectors = rng.normal(0, 1, (count, DIMENSION)) * 1.4  # debris is anywhere
    living = label < GENERA
    vectors[living] = centre[label[living], rng.integers(0, 3, int(living.sum()))]
    vectors[living] += rng.normal(0, 0.75, (int(living.sum()), DIMENSION))
    names = (*(f"genus {number:02d}" for number in range(GENERA)), "debris")
    return Made(vectors.astype(np.float32), label.astype(np.int64), well.astype(np.int64), names)


def describe(folder: Path, backbone: str) -> Made:
    """Labelled crops by a backbone; one well."""
    from fossilray.labels.embed import embed_labelled
    from fossilray.labels.load import load_labels

    labelled = load_labels(folder)
    described = embed_labelled(labelled, backbone)
    print(
        f"{len(labelled)} crops of {len(labelled.crops.classes)} classes; backbone {described.backbone.sha256[:12]}"
    )
    well = np.zeros(len(labelled), np.int64)
    return Made(described.vectors.astype(np.float32), labelled.crops.label, well, labelled.crops.classes)


def halves(whole: Made, seed: int) -> tuple[Made, Made]:
    """A pool, and as many test objects."""
    order = np.random.default_rng(seed).permutation(len(whole.label))
    parts = order[: len(order) // 2], order[len(order) // 2 :]
    pool, test = (
        Made(whole.vectors[rows], whole.label[rows], whole.well[rows], whole.classes) for rows in parts
    )
    return pool, test


def score_strategy(
    pool: Made, test: Made, strategy: SuggestionStrategy, *, start: int, n: int, seed: int
) -> list[float]:
    """Recall (mean over classes), accuracy and classes found, after a round; and the seconds of choosing."""
    rng = np.random.default_rng([seed, 9])
    before = rng.permutation(len(pool.label))[:start]
    rest = np.setdiff1d(np.arange(len(pool.label)), before)
    head = fit_head(pool, before) if start else None
    began = time.process_time()
    picks = choose(
        strategy,
        vectors=pool.vectors[rest],
        known=pool.vectors[before],
        probability=None if head is None else head.predict(pool.vectors[rest]),
        count=n,
        quotas=Quotas(pool.well[rest], n),
        seed=seed,
    )
    seconds = time.process_time() - began
    rows = np.concatenate([before, rest[[pick.row for pick in picks]]])
    trained = fit_head(pool, rows)
    predicted = np.array(
        [pool.classes.index(trained.classes[c]) for c in trained.predict(test.vectors).argmax(axis=1)]
    )
    right = predicted == test.label
    recall = np.mean([right[test.label == genus].mean() for genus in np.unique(test.label)])
    return [float(recall), float(right.mean()), len(np.unique(pool.label[rows])), seconds]


def fit_head(pool: Made, rows: NDArray[np.int64]):
    """A logistic head of the classes that are among these rows."""
    present, label = np.unique(pool.label[rows], return_inverse=True)
    return train_head(
        pool.vectors[rows],
        label.astype(np.int64),
        tuple(pool.classes[index] for index in present),
        kind="logistic",
        backbone=BackboneReference(name="made up", sha256=""),
    )


def show(title: str, results: list[dict[SuggestionStrategy, list[float]]]) -> None:
    """A table: means over seeds, and in how many of them each was better than chance."""
    print(f"\n{title}; {len(results)} seeds")
    print(f"{'':12}{'recall':>8}{'±':>7}{'wins':>9}{'accuracy':>10}{'classes':>9}{'CPU s':>7}")
    for strategy in results[0]:
        values = np.array([recall[strategy] for recall in results])
        chance = np.array([recall[RANDOM] for recall in results])
        wins = int((values[:, 0] > chance[:, 0]).sum())
        share = "" if strategy == RANDOM else f"{wins}/{len(results)}"
        print(
            f"{strategy:12}{values[:, 0].mean():8.3f}{values[:, 0].std():7.3f}{share:>9}"
            f"{values[:, 1].mean():10.3f}{values[:, 2].mean():9.1f}{values[:, 3].mean():7.2f}"
        )


if __name__ == "__main__":
    main()
