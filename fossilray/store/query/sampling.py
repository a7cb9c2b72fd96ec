"""Random samples of a run's objects, spread evenly over wells and then over the slides of a well."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def even_quotas(available: ArrayLike, count: int) -> NDArray[np.int64]:
    """Divide `count` into equal quotas, none above what is available (n,).

    What one group cannot give is divided among the others; a remainder goes to the first of them. The quotas add up to
    `count`, or to all that is available.
    """
    limit = np.asarray(available, np.int64)
    quotas = np.zeros_like(limit)
    while (rest := count - int(quotas.sum())) > 0:
        unfilled = np.flatnonzero(quotas < limit)
        if not len(unfilled):
            break
        share = rest // len(unfilled)
        if share:
            quotas[unfilled] = np.minimum(quotas[unfilled] + share, limit[unfilled])
        else:
            quotas[unfilled[:rest]] += 1
    return quotas


def quotas_by_slide(
    wells: Sequence[str],
    objects: Sequence[int],
    *,
    count: int,
    max_slides: int,
    rng: np.random.Generator,
) -> dict[int, int]:
    """Return how many objects to sample from each slide: wells alike, then the slides of a well alike.

    wells, objects: the well and the number of objects of each slide. max_slides: at most that many slides are chosen,
    evenly over the wells and at random within a well.

    Returns:
        The quota of each chosen slide by its position in `wells`; slides with a quota of 0 are left out.
    """
    slides_of_well: dict[str, list[int]] = {}
    for slide, well in enumerate(wells):
        slides_of_well.setdefault(well, []).append(slide)
    groups = [slides_of_well[well] for well in sorted(slides_of_well)]
    chosen = []
    for slides, number in zip(
        groups, even_quotas([len(slides) for slides in groups], max_slides).tolist(), strict=True
    ):
        drawn = rng.permutation(len(slides))[:number]
        chosen.append([slides[position] for position in sorted(drawn.tolist())])
    of_well = even_quotas([sum(objects[slide] for slide in slides) for slides in chosen], count)
    quotas: dict[int, int] = {}
    for slides, quota in zip(chosen, of_well.tolist(), strict=True):
        of_slide = even_quotas([objects[slide] for slide in slides], quota)
        quotas.update((slide, part) for slide, part in zip(slides, of_slide.tolist(), strict=True) if part)
    return quotas


def sample_objects(rows: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw `count` of these rows at random without replacement, or all if there are fewer; sorted."""
    return np.sort(rng.choice(rows, size=min(count, len(rows)), replace=False))
