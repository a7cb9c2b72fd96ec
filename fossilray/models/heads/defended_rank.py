"""The rank that a prediction can defend: a genus if it is probable enough, else its family, else its group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config.choices import TaxonRank
from fossilray.models.heads.head import TaxaMeta

_RANKS: tuple[TaxonRank, ...] = get_args(TaxonRank)


def fit_thresholds(probability: NDArray[np.float32], label: NDArray[np.int64], taxa: TaxaMeta) -> TaxaMeta:
    """Return the taxa with the probability from which a prediction counts at each rank.

    The threshold of a rank is the lowest at which, of the held-out crops that reach it and no threshold of a finer
    rank, the share of correct ones is at least `taxa.accuracy`, with one wrong prediction added (the rule of
    succession). A rank whose held-out crops never reach it has no threshold. It is selective classification by the
    largest probability (Geifman and El-Yaniv 2017), rank by rank.

    probability: (n, classes) of held-out crops, calibrated. label: (n,) class of each.
    """
    open_rows = np.ones(len(label), bool)
    thresholds: dict[TaxonRank, float] = {}
    for rank in _ranks_from(taxa.rank):
        unit, summed, is_reported = _sum_at(probability, taxa, rank)
        best, score = summed.argmax(axis=1), summed.max(axis=1)
        candidates = open_rows & is_reported[best]
        correct = best == unit[label]
        threshold = _lowest_threshold(score[candidates], correct[candidates], accuracy=taxa.accuracy)
        if threshold is not None:
            thresholds[rank] = threshold
            open_rows &= ~(candidates & (score >= threshold))
    return taxa.model_copy(update={"thresholds": thresholds})


def defended_taxa(
    probability: NDArray[np.float32], classes: Sequence[str], taxa: TaxaMeta
) -> tuple[list[str | None], list[TaxonRank | None]]:
    """Return the name that each prediction can defend, and its rank; both None if there is none.

    The probabilities of all classes of a taxon are summed. A class that is no taxon (wood, dirt) has no rank, and
    counts at the rank of the classes. A coarser taxon of only one class is no better known than that, and not reported.

    probability: (n, classes).
    """
    names: list[str | None] = [None] * len(probability)
    ranks: list[TaxonRank | None] = [None] * len(probability)
    is_open = np.ones(len(probability), bool)
    for rank in _ranks_from(taxa.rank):
        threshold = taxa.thresholds.get(rank)
        if threshold is None:
            continue
        unit, summed, is_reported = _sum_at(probability, taxa, rank)
        best = summed.argmax(axis=1)
        # Sums of float32 differ in their last digits from those of another batch.
        reached = is_open & is_reported[best] & (summed.max(axis=1) >= threshold - 1e-6)
        member = {number: row for row, number in reversed(list(enumerate(unit.tolist())))}
        for row in np.flatnonzero(reached).tolist():
            number = member[int(best[row])]
            name = taxa.lineages[number].get(rank)
            names[row], ranks[row] = (classes[number], None) if name is None else (name, rank)
        is_open &= ~reached
    return names, ranks


def _ranks_from(rank: TaxonRank) -> tuple[TaxonRank, ...]:
    return _RANKS[_RANKS.index(rank) :]


def _sum_at(
    probability: NDArray[np.float32], taxa: TaxaMeta, rank: TaxonRank
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return the taxon (classes,) of each class at a rank, summed probabilities (n, taxa), and which may be reported.

    At the rank of the classes each of them may.
    """
    keys = [lineage.get(rank) or number for number, lineage in enumerate(taxa.lineages)]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    unit = np.array([numbers[key] for key in keys], np.int64)
    summed = np.zeros((len(probability), len(numbers)))
    np.add.at(summed.T, unit, probability.T.astype(np.float64))
    return unit, summed, (np.bincount(unit) > 1) | (rank == taxa.rank)


def _lowest_threshold(
    score: NDArray[np.float64], correct: NDArray[np.bool_], *, accuracy: float
) -> float | None:
    order = np.argsort(-score, kind="stable")
    wrong = np.cumsum(~correct[order])
    kept = np.arange(1, len(order) + 1)
    # Crops of one score are kept together.
    is_last = np.append(np.diff(score[order]) != 0, True)[: len(order)]
    fits = np.flatnonzero(is_last & ((1 + wrong) / (1 + kept) <= 1 - accuracy + 1e-9))
    return float(score[order][fits[-1]]) if len(fits) else None
