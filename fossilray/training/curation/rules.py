"""Rules of a curation: black, empty, blurry, several objects, small, large; and the weights of clusters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config import CurationConfig
from fossilray.store.query.slide_objects import SlideObjects
from fossilray.training.curation.sample import ObjectSample

RULES = ("black", "empty", "blurry", "several objects", "small", "large")

_SIZE_CLASSES = 16
_MIN_PER_SIZE_CLASS = 20
"""Sampled objects in a size class; a median of fewer is unreliable."""


@dataclass(frozen=True)
class TypicalSharpness:
    """Median sharpness of objects by size, as interpolation points.

    Crops are scaled to one side, so small objects are enlarged and their sharpness is low: in synthetic slides it grows
    nearly with the square of the size. A single threshold would leave out small objects.
    """

    log_um: NDArray[np.float64]
    log_sharpness: NDArray[np.float64]

    @staticmethod
    def of(sample: ObjectSample) -> TypicalSharpness:
        """Fit to a sample."""
        order = np.argsort(sample.longest_um, kind="stable")
        classes = np.array_split(order, max(1, min(_SIZE_CLASSES, len(order) // _MIN_PER_SIZE_CLASS)))
        return TypicalSharpness(
            np.array([np.median(np.log(sample.longest_um[rows])) for rows in classes]),
            np.array([np.median(_log(sample.sharpness[rows])) for rows in classes]),
        )

    def share(self, longest_um: NDArray[np.float32], sharpness: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return each object's sharpness (n,) relative to the median for its size."""
        typical = np.interp(np.log(longest_um), self.log_um, self.log_sharpness)
        share: NDArray[np.float64] = np.exp(_log(sharpness) - typical)
        return share


def meets_rules(slide: SlideObjects, typical: TypicalSharpness, config: CurationConfig) -> NDArray[np.bool_]:
    """Return a mask (n, rules) of the RULES that each object meets; without pixels, only rules about boxes apply."""
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
    """Return for each cluster the rule by which it is left out, or None.

    A cluster is left out by the rule that most of its objects meet, if their share reaches config.share.

    Args:
        met: (k, rules) objects of each cluster that meet each rule.
        objects: (k,) objects of each cluster.
        config: The curation's configuration.
    """
    share = met / np.maximum(objects, 1)[:, None]
    worst = share.argmax(axis=1)
    return [
        RULES[rule] if share[cluster, rule] >= config.share else None
        for cluster, rule in enumerate(worst.tolist())
    ]


def _log(sharpness: NDArray[np.float32]) -> NDArray[np.float64]:
    # A uniform crop has sharpness 0.
    return np.log(np.maximum(sharpness.astype(np.float64), 1e-6))


def balance_weights(size: NDArray[np.int64], *, power: float, limit: float) -> NDArray[np.float64]:
    """Return the weight (k,) of a crop of each cluster: size ** -power, limited, with mean 1 over crops.

    Args:
        size: (k,) kept crops of each cluster; an empty cluster has weight 0.
        power: 0 weights crops equally, 1 weights clusters equally.
        limit: Largest weight, at least 1.
    """
    present = size > 0
    weight = np.zeros(len(size))
    if not present.any():
        return weight
    unscaled = size[present].astype(np.float64) ** -power
    share = size[present] / size.sum()
    # The mean grows with the scale until all weights reach the limit; bisection finds the scale at which it is 1.
    low, high = 0.0, limit / unscaled.min()
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if (share * np.minimum(unscaled * middle, limit)).sum() < 1 else (low, middle)
        )
    weight[present] = np.minimum(unscaled * high, limit)
    return weight
