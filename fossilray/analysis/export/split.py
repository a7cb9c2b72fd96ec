"""Division of slides into training and validation, by whole wells where possible, else by whole slides."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fossilray.core.config.choices import SplitBy
from fossilray.core.errors import UsageError

MAX_DEVIATION = 0.05
"""Deviation from the requested share up to which whole wells are kept together."""

_ALL_SUBSETS = 16
"""Number of groups up to which all subsets are compared."""


@dataclass(frozen=True)
class Split:
    """The slides for validation."""

    validation: frozenset[str]
    """slide_ids"""
    by: Literal["well", "slide", "nothing"]
    """The unit that is kept whole; `nothing`: there is a single slide."""
    explanation: str
    """A sentence for readers of the dataset."""


def split_slides(
    images: Mapping[str, int], wells: Mapping[str, str], *, share: float, by: SplitBy = "auto"
) -> Split:
    """Select slides with about `share` of all images for validation. Equal input gives an equal selection.

    Args:
        images: number of images by slide_id.
        wells: well by slide_id.
        by: `well` keeps wells whole, `slide` slides; `auto` keeps wells whole if their share deviates by at most
            MAX_DEVIATION, or by no more than the share of whole slides.

    Raises:
        UsageError: the share is not between 0 and 1, or there are too few wells or slides for `by`.
    """
    if not 0 < share < 1:
        raise UsageError(f"the share for validation is {share}; give a number between 0 and 1, such as 0.2")
    used = {slide: count for slide, count in images.items() if count}
    total = max(sum(used.values()), 1)
    by_well: dict[str, list[str]] = {}
    for slide in used:
        by_well.setdefault(wells[slide], []).append(slide)
    if by == "well" and len(by_well) < 2:
        raise UsageError(
            f"--split-by well needs objects in two wells at least, and these slides are of {len(by_well)}; leave it "
            "out to divide by slides"
        )
    if len(used) < 2:
        if by == "slide":
            raise UsageError(
                f"--split-by slide needs two slides with objects, and there are {len(used)}; leave it out"
            )
        return Split(
            frozenset(),
            "nothing",
            "A single slide: validation is on the training images, so it is not independent.",
        )

    def share_of(slides: frozenset[str]) -> float:
        return sum(used[slide] for slide in slides) / total

    slides = frozenset(_nearest_choice(used, share))
    if by == "slide" or len(by_well) < 2:
        explanation = "Split by slide" + ("." if by == "slide" else ", because all slides are of one well.")
        deviation = _describe_deviation(share, share_of(slides), f"{len(used)} slides")
        return Split(slides, "slide", explanation + deviation)
    images_of_well = {well: sum(used[slide] for slide in of_well) for well, of_well in by_well.items()}
    chosen = _nearest_choice(images_of_well, share)
    whole = frozenset(slide for well in chosen for slide in by_well[well])
    deviation_of_wells = abs(share_of(whole) - share)
    if (
        by == "well"
        or deviation_of_wells <= MAX_DEVIATION
        or deviation_of_wells <= abs(share_of(slides) - share)
    ):
        deviation = _describe_deviation(share, share_of(whole), f"{len(by_well)} wells")
        return Split(whole, "well", "Split by well." + deviation)
    return Split(
        slides,
        "slide",
        "Split by slide, so that a well may be in both subsets: the nearest split by well has "
        f"{share_of(whole):.0%} for validation instead of {share:.0%}; --split-by well uses it.",
    )


def _describe_deviation(requested: float, reached: float, groups: str) -> str:
    """Return a sentence on a share that deviates by more than MAX_DEVIATION, else an empty string."""
    if abs(reached - requested) <= MAX_DEVIATION:
        return ""
    return (
        f" Requested {requested:.0%}, reached {reached:.0%}: there are only {groups}, which are kept whole."
    )


def _nearest_choice(weights: Mapping[str, int], share: float) -> list[str]:
    """Return groups, at least one and not all, whose weights sum to about `share` of the total."""
    # The digest of a name gives a random order that is equal in every export.
    names = sorted(weights, key=lambda name: hashlib.sha256(name.encode()).digest())
    sizes = np.array([weights[name] for name in names], np.int64)
    target = share * float(sizes.sum())
    chosen = _best_subset(sizes, target) if len(names) <= _ALL_SUBSETS else _fill_up(sizes, target)
    return [names[index] for index in chosen]


def _best_subset(sizes: np.ndarray[tuple[int], np.dtype[np.int64]], target: float) -> Sequence[int]:
    members = np.arange(1, 2 ** len(sizes) - 1)[:, None] >> np.arange(len(sizes)) & 1
    best = int(np.abs(members @ sizes - target).argmin())
    return np.flatnonzero(members[best]).tolist()


def _fill_up(sizes: np.ndarray[tuple[int], np.dtype[np.int64]], target: float) -> Sequence[int]:
    """Select sizes in order while they fit, then one more if that brings the sum nearer to the target."""
    chosen: list[int] = []
    taken = 0.0
    for index, size in enumerate(sizes.tolist()):
        if taken + size <= target:
            chosen.append(index)
            taken += size
    left = np.setdiff1d(np.arange(len(sizes)), chosen)
    nearest = int(left[np.abs(taken + sizes[left] - target).argmin()])
    if not chosen or (len(left) > 1 and abs(taken + sizes[nearest] - target) < abs(taken - target)):
        chosen.append(nearest)
    return chosen
