"""Which slides are validated on: whole wells where that comes near the asked share, else whole slides."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fossilray.core.config.choices import SplitBy
from fossilray.core.errors import UsageError

LARGEST_MISS = 0.05
"""How far the share of whole wells may be from the asked one before slides are divided instead."""

_ALL_SUBSETS = 16
"""Up to so many groups all 2^n choices are compared."""


@dataclass(frozen=True)
class Split:
    """The slides that are validated on."""

    validation: frozenset[str]
    by: Literal["well", "slide", "nothing"]
    """What is kept whole; `nothing`: there is a single slide."""
    why: str
    """A sentence for the reader of the dataset."""


def split_slides(
    images: Mapping[str, int], wells: Mapping[str, str], *, share: float, by: SplitBy = "auto"
) -> Split:
    """Choose slides with about `share` of all images.

    images: of each slide, how many. wells: of each slide. by: `well` keeps whole wells together, `slide` whole slides;
    `auto` takes wells if a choice of them comes within LARGEST_MISS of the share or slides come no nearer, else slides.
    Equal input gives an equal choice.

    Raises:
        UsageError: the share is none, or there are too few wells or slides for what `by` demands.
    """
    if not 0 < share < 1:
        raise UsageError(
            f"a share of {share} for validation leaves nothing on one side; give one such as 0.2"
        )
    used = {slide: count for slide, count in images.items() if count}
    total = max(sum(used.values()), 1)
    by_well: dict[str, list[str]] = {}
    for slide in used:
        by_well.setdefault(wells[slide], []).append(slide)
    if by == "well" and len(by_well) < 2:
        raise UsageError(
            f"--split-by well needs objects in two wells at least, and these slides are of {len(by_well)}; leave it "
            "out, and whole slides are kept apart"
        )
    if len(used) < 2:
        if by == "slide":
            raise UsageError(
                f"--split-by slide needs two slides with objects, and here are {len(used)}; leave it out"
            )
        return Split(frozenset(), "nothing", "A single slide: what is validated on was trained on.")

    def reached(slides: frozenset[str]) -> float:
        return sum(used[slide] for slide in slides) / total

    slides = frozenset(_nearest_choice(used, share))
    if by == "slide" or len(by_well) < 2:
        why = "Whole slides are kept apart" + ("." if by == "slide" else ": all are of one well.")
        return Split(slides, "slide", why + _tell_miss(share, reached(slides), f"{len(used)} slides"))
    chosen = _nearest_choice({well: sum(used[one] for one in of) for well, of in by_well.items()}, share)
    whole = frozenset(slide for well in chosen for slide in by_well[well])
    miss = abs(reached(whole) - share)
    if by == "well" or miss <= LARGEST_MISS or miss <= abs(reached(slides) - share):
        return Split(
            whole,
            "well",
            "Whole wells are kept apart." + _tell_miss(share, reached(whole), f"{len(by_well)} wells"),
        )
    return Split(
        slides,
        "slide",
        "Whole slides are kept apart, and slides of one well are on both sides: no choice of whole wells comes nearer "
        f"to {share:.0%} than {reached(whole):.0%}; --split-by well takes that.",
    )


def _tell_miss(asked: float, reached: float, of: str) -> str:
    """What is said of a share that is far from the asked one."""
    if abs(reached - asked) <= LARGEST_MISS:
        return ""
    return f" Asked {asked:.0%}, reached {reached:.0%}: there are only {of}, and each stays whole."


def _nearest_choice(weights: Mapping[str, int], share: float) -> list[str]:
    """Some groups, never all and never none, whose weights come near to a share of the sum."""
    # The digest of a name is a lottery that draws the same at every export.
    names = sorted(weights, key=lambda name: hashlib.sha256(name.encode()).digest())
    sizes = np.array([weights[name] for name in names], np.int64)
    wanted = share * float(sizes.sum())
    chosen = _best_subset(sizes, wanted) if len(names) <= _ALL_SUBSETS else _fill_up(sizes, wanted)
    return [names[index] for index in chosen]


def _best_subset(sizes: np.ndarray[tuple[int], np.dtype[np.int64]], wanted: float) -> Sequence[int]:
    members = np.arange(1, 2 ** len(sizes) - 1)[:, None] >> np.arange(len(sizes)) & 1
    best = int(np.abs(members @ sizes - wanted).argmin())
    return np.flatnonzero(members[best]).tolist()


def _fill_up(sizes: np.ndarray[tuple[int], np.dtype[np.int64]], wanted: float) -> Sequence[int]:
    """In order, each that still fits; then one more if that comes nearer."""
    chosen: list[int] = []
    taken = 0.0
    for index, size in enumerate(sizes.tolist()):
        if taken + size <= wanted:
            chosen.append(index)
            taken += size
    left = np.setdiff1d(np.arange(len(sizes)), chosen)
    nearest = int(left[np.abs(taken + sizes[left] - wanted).argmin()])
    if not chosen or (len(left) > 1 and abs(taken + sizes[nearest] - wanted) < abs(taken - wanted)):
        chosen.append(nearest)
    return chosen
