"""Rules about single objects, and what they say of a cluster: black, empty, blurry, several objects, wrong size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config import CurationConfig
from fossilray.store.query.slide_objects import SlideObjects
from fossilray.training.curation.sample import Sample

RULES = ("black", "empty", "blurry", "several objects", "small", "large")

_SIZE_CLASSES = 16
_LEAST_OF_A_SIZE = 20
"""Sampled objects per size class; a median of fewer is chance."""


@dataclass(frozen=True)
class TypicalSharpness:
    """The median sharpness of objects by their size.

    A crop is scaled to one side, so small objects are enlarged and have little sharpness at best: in synthetic slides
    it grows nearly with the square of the size. One threshold for all would leave out what is small.
    """

    log_um: NDArray[np.float64]
    log_sharpness: NDArray[np.float64]

    @staticmethod
    def of(sample: Sample) -> TypicalSharpness:
        order = np.argsort(sample.longest_um, kind="stable")
        classes = np.array_split(order, max(1, min(_SIZE_CLASSES, len(order) // _LEAST_OF_A_SIZE)))
        return TypicalSharpness(
            np.array([np.median(np.log(sample.longest_um[rows])) for rows in classes]),
            np.array([np.median(_log(sample.sharpness[rows])) for rows in classes]),
        )

    def share(self, longest_um: NDArray[np.float32], sharpness: NDArray[np.float32]) -> NDArray[np.float64]:
        """(n,) each object's sharpness over what objects of its size typically have."""
        typical = np.interp(np.log(longest_um), self.log_um, self.log_sharpness)
        share: NDArray[np.float64] = np.exp(_log(sharpness) - typical)
        return share


def meets_rules(slide: SlideObjects, typical: TypicalSharpness, config: CurationConfig) -> NDArray[np.bool_]:
    """(n, rules) which objects meet which of RULES; none for objects without pixels but those about boxes."""
    largest = np.inf if config.largest_um is None else config.largest_um
    return np.stack(
        [
            slide.opacity > config.black_opacity,
            slide.opacity < config.empty_opacity,
            typical.share(slide.longest_um, slide.sharpness) < config.blurry_share,
            (slide.objects_inside >= config.crowded_objects) | (slide.overlap > config.crowded_overlap),
            slide.longest_um < config.smallest_um,
            slide.longest_um > largest,
        ],
        axis=1,
    )


def apply_rules(
    met: NDArray[np.int64], objects: NDArray[np.int64], config: CurationConfig
) -> list[str | None]:
    """Why each cluster is left out, by the rule that most of its objects meet; None for those kept.

    met: (k, rules) objects of each cluster that meet each rule; objects: (k,).
    """
    share = met / np.maximum(objects, 1)[:, None]
    worst = share.argmax(axis=1)
    return [
        RULES[rule] if share[cluster, rule] >= config.share else None
        for cluster, rule in enumerate(worst.tolist())
    ]


def _log(sharpness: NDArray[np.float32]) -> NDArray[np.float64]:
    # An evenly grey crop has none at all.
    return np.log(np.maximum(sharpness.astype(np.float64), 1e-6))


def balance_weights(size: NDArray[np.int64], *, power: float, most: float) -> NDArray[np.float64]:
    """(k,) what a crop of each cluster weighs: size ** -power, at most `most`, scaled so that crops weigh 1 on average.

    size: (k,) crops kept of each cluster; those of empty ones weigh 0. most: at least 1.
    """
    present = size > 0
    weight = np.zeros(len(size))
    if not present.any():
        return weight
    rough = size[present].astype(np.float64) ** -power
    share = size[present] / size.sum()
    # The mean grows with the scale until all weigh `most`, so halving finds the scale at which it is 1.
    low, high = 0.0, most / rough.min()
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if (share * np.minimum(rough * middle, most)).sum() < 1 else (low, middle)
    weight[present] = np.minimum(rough * high, most)
    return weight
