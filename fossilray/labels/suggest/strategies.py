"""Strategies that choose what to label next, and the reasons that they give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config.choices import SuggestionStrategy
from fossilray.core.errors import UsageError
from fossilray.labels.suggest.selection import (
    Quotas,
    centred_directions,
    select_badge,
    select_k_center,
    select_margin,
    select_random,
    select_typical,
)

FAR_SHARE = 0.1
"""Share of `mixed` that is far from every label: rare genera, and much debris."""

REASONS: dict[SuggestionStrategy, str] = {
    "badge": "the prediction is uncertain, and the object differs from other uncertain ones",
    "uncertain": "the two most probable genera are close",
    "far": "far from every label",
    "typical": "typical of similar crops without a label",
    "random": "at random",
}


@dataclass(frozen=True)
class Selection:
    """An object to label, and the strategy that selected it."""

    row: int
    strategy: SuggestionStrategy


def choose(
    strategy: SuggestionStrategy,
    *,
    vectors: NDArray[np.floating],
    known: NDArray[np.floating],
    probability: NDArray[np.float32] | None,
    count: int,
    quotas: Quotas,
    seed: int,
) -> list[Selection]:
    """Choose rows of `vectors` to label next: `count` of them, or all if there are fewer.

    vectors: (n, d) of objects without a label. known: (m, d) of labelled objects. probability: (n, classes) predicted
    by a head; None without a head, and then `mixed` selects typical objects only.

    Raises:
        UsageError: the strategy needs a head.
    """
    if probability is None and strategy in ("badge", "uncertain"):
        raise UsageError(
            f"--strategy {strategy} chooses by the uncertainty of a head; give --head, or --labels of at least two "
            "genera"
        )
    directions, centre = centred_directions(vectors)
    labelled, _ = centred_directions(known.reshape(-1, vectors.shape[1]), centre=centre)
    rng = np.random.default_rng([seed, 7])
    shares = {strategy: 1.0}
    if strategy == "mixed":
        classes = 0 if probability is None else probability.shape[1]
        shares = mixed_shares(len(known) / classes) if classes else {"typical": 1.0}
    picks: list[Selection] = []
    for name, number in zip(shares, quotas.split(list(shares.values())), strict=True):
        selected = np.array([pick.row for pick in picks], np.int64)
        covered = np.concatenate([labelled, directions[selected]])
        match name:
            case "badge":
                assert probability is not None
                rows = select_badge(probability, directions, number, quotas, rng)
            case "uncertain":
                assert probability is not None
                rows = select_margin(probability, number, quotas)
            case "far":
                rows = select_k_center(directions, covered, number, quotas)
            case "typical":
                rows = select_typical(directions, covered, number, quotas, seed=seed)
            case _:
                rows = select_random(number, quotas, rng)
        picks += [Selection(row, name) for row in rows]
    return picks[:count]


def mixed_shares(labels_per_class: float) -> dict[SuggestionStrategy, float]:
    """Return the shares of `mixed`: typical objects while labels are few, uncertain ones later.

    With two or three labels per class the uncertainty of a head carries little information; from about five on it is
    useful (Hacohen et al. 2022 show this transition; benchmarks/suggest.py measures where it lies).
    """
    typical = min(max(1 - labels_per_class / 10, 0.3), 0.8)
    return {"typical": typical, "badge": 1 - FAR_SHARE - typical, "far": FAR_SHARE}
