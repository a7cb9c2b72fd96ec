"""Ways to choose what to label next, by name, and why each object was chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

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

STRATEGIES: tuple[SuggestionStrategy, ...] = get_args(SuggestionStrategy)

FAR = 0.1
"""Share of `mixed` that is like nothing labelled: rare finds, and much rubbish."""

REASONS: dict[SuggestionStrategy, str] = {
    "badge": "the head doubts it, and it differs from others it doubts",
    "uncertain": "the head's two likeliest names are close",
    "far": "unlike anything labelled",
    "typical": "typical of look-alikes without a label",
    "random": "by lot",
}


@dataclass(frozen=True)
class Selection:
    """An object to label, and what chose it."""

    row: int
    by: SuggestionStrategy


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
    """Rows of `vectors` to label next, each once, as many as asked for or as there are.

    vectors: (n, d) of objects without a label. known: (m, d) of labelled ones. probability: (n, classes) by a head;
    None where there is no head, and then `mixed` is typical ones alone.

    Raises:
        UsageError: the strategy needs a head.
    """
    if probability is None and strategy in ("badge", "uncertain"):
        raise UsageError(
            f"--by {strategy} chooses by what a head doubts; give --head, or --labels of two genera at least"
        )
    seen, centre = centred_directions(vectors)
    labelled, _ = centred_directions(known.reshape(-1, vectors.shape[1]), centre=centre)
    rng = np.random.default_rng([seed, 7])
    parts = {strategy: 1.0}
    if strategy == "mixed":
        parts = {"typical": 1.0} if probability is None else mixed_shares(len(known) / probability.shape[1])
    picks: list[Selection] = []
    for by, part in zip(parts, quotas.cut(list(parts.values())), strict=True):
        chosen_before = np.array([pick.row for pick in picks], np.int64)
        near = np.concatenate([labelled, seen[chosen_before]])
        match by:
            case "badge":
                assert probability is not None
                rows = select_badge(probability, seen, part, quotas, rng)
            case "uncertain":
                assert probability is not None
                rows = select_margin(probability, part, quotas)
            case "far":
                rows = select_k_center(seen, near, part, quotas)
            case "typical":
                rows = select_typical(seen, near, part, quotas, seed=seed)
            case _:
                rows = select_random(part, quotas, rng)
        picks += [Selection(row, by) for row in rows]
    return picks[:count]


def mixed_shares(labels_a_class: float) -> dict[SuggestionStrategy, float]:
    """The shares of `mixed`: typical ones while labels are few, doubtful ones once there are some of each class.

    Where a head has seen two or three of a class, what it doubts says little; the turn comes at some five (Hacohen et
    al. 2022 show that there is one; where it lies was measured, see benchmarks/suggest.py).
    """
    typical = min(max(1 - labels_a_class / 10, 0.3), 0.8)
    return {"typical": typical, "badge": 1 - FAR - typical, "far": FAR}
