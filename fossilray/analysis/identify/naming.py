"""Names that a head gives to objects: its prediction set with shares, novelty, and a sentence about both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.discovery.novel_objects import NOVELTY_P
from fossilray.analysis.identify.result import IdentifiedObject, TaxonShare
from fossilray.core.config.choices import TaxonRank
from fossilray.models.heads import Head
from fossilray.models.heads.defended_rank import defended_taxa
from fossilray.models.heads.uncertainty import COVERAGE, predict_uncertainty

_MOST_SHOWN = 5
"""Classes that are given beside those of the prediction set, of which there may be more."""


_MOST_NAMED = 3
"""Classes of a set that a sentence names."""


@dataclass(frozen=True)
class ObjectNaming:
    """What a head predicts of one object."""

    taxa: tuple[TaxonShare, ...] = ()
    set_size: int | None = None
    novelty_p: float | None = None
    is_novel: bool = False
    taxon: str | None = None
    rank: TaxonRank | None = None
    sentence: str = "No head is given, so it has no name; see the nearest specimens."


def name_objects(
    head: Head, vectors: NDArray[np.floating], *, coverage: float = COVERAGE, novelty_p: float = NOVELTY_P
) -> list[ObjectNaming]:
    """Return what a head predicts of n objects with vectors (n, d).

    coverage: share of the objects of each class whose set contains it. novelty_p: at most this p-value, an object is
    like nothing labelled.

    Raises:
        WeightsError: the vectors have another length than those of the training.
    """
    probability = head.predict(vectors)
    order = np.argsort(-probability, axis=1, kind="stable")
    taxa, ranks = (
        ([None] * len(vectors), [None] * len(vectors))
        if head.meta.taxa is None
        else defended_taxa(probability, head.classes, head.meta.taxa)
    )
    if head.meta.uncertainty is None:
        return [
            ObjectNaming(
                taxa=_shares(head.classes, values, by_rank, None),
                sentence=f"{head.classes[by_rank[0]]} has the largest share, {_percent(values[by_rank[0]])}, by a head "
                "without calibrated uncertainty.",
            )
            for values, by_rank in zip(probability, order, strict=True)
        ]
    uncertainty = predict_uncertainty(head, vectors, probability, coverage=coverage)
    named = []
    for row, (values, by_rank) in enumerate(zip(probability, order, strict=True)):
        p = float(uncertainty.novelty_p[row])
        in_set = uncertainty.sets[row]
        is_novel = p <= novelty_p
        shares = _shares(head.classes, values, by_rank, in_set)
        named.append(
            ObjectNaming(
                taxa=shares,
                set_size=int(in_set.sum()),
                novelty_p=round(p, 5),
                is_novel=is_novel,
                taxon=taxa[row],
                rank=ranks[row],
                sentence=_sentence(shares, coverage, p, is_novel=is_novel, taxon=taxa[row], rank=ranks[row]),
            )
        )
    return named


def least_novelty_p(head: Head) -> float | None:
    """Return the smallest p-value of novelty that a head can give; None for a head without uncertainty."""
    if head.meta.uncertainty is None:
        return None
    return 1 / (len(head.uncertainty_arrays["distance"]) + 1)


def describe_naming(named: IdentifiedObject, *, has_head: bool) -> str | None:
    """Return the result for an object in few words: `Alnus 62 %, Betula 31 %`; None without a head."""
    if not has_head:
        return None
    if named.is_novel and named.novelty_p is not None:
        return f"like nothing labelled, p = {named.novelty_p:.2g}"
    listed = [share for share in named.taxa if share.in_set] if named.set_size else named.taxa[:2]
    text = ", ".join(f"{share.name} {_percent(share.share)}" for share in listed)
    return f"none fits; nearest {text}" if named.set_size == 0 else text


def _shares(
    classes: Sequence[str],
    probability: NDArray[np.float32],
    order: NDArray[np.int64],
    in_set: NDArray[np.bool_] | None,
) -> tuple[TaxonShare, ...]:
    return tuple(
        TaxonShare(
            name=classes[number],
            share=round(float(probability[number]), 4),
            in_set=in_set is not None and bool(in_set[number]),
        )
        for position, number in enumerate(order.tolist())
        if position < _MOST_SHOWN or (in_set is not None and in_set[number])
    )


def _sentence(
    shares: Sequence[TaxonShare],
    coverage: float,
    p: float,
    *,
    is_novel: bool,
    taxon: str | None,
    rank: TaxonRank | None,
) -> str:
    chosen = [f"{share.name} ({_percent(share.share)})" for share in shares if share.in_set]
    if is_novel:
        nearest = f"; of the labelled taxa, {shares[0].name} is nearest" if shares else ""
        return f"Like nothing labelled, p = {p:.2g}{nearest}."
    if not chosen:
        return f"No labelled taxon fits at a coverage of {_percent(coverage)}; p of novelty {p:.2g}."
    if len(chosen) > _MOST_NAMED + 1:
        chosen[_MOST_NAMED:] = [f"one of {len(chosen) - _MOST_NAMED} other taxa"]
    listed = chosen[0] if len(chosen) == 1 else f"{', '.join(chosen[:-1])} or {chosen[-1]}"
    defended = f" It can be named to the {rank} {taxon}." if taxon is not None and rank is not None else ""
    held = f"the set holds the true taxon of {_percent(coverage)} of objects like the labelled ones"
    return f"{listed}: {held}.{defended}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if 0.005 <= share < 0.995 else f"{100 * share:.1f} %"
