"""Novelty of vectors: their distance from all labelled vectors, compared by direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config.choices import NoveltyKind
from fossilray.core.errors import UsageError
from fossilray.core.vectors import unit_vectors
from fossilray.models.heads.splits import stratified_split

NOVELTY_RANK = 3
"""Rank of the neighbour whose distance is taken: a single outlier among ten labelled crops has no influence."""

_MAX_LABELLED = 20_000
"""Labelled crops that are kept for comparison; of more, a sample stratified by class."""

_SPLITS = 3

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class NoveltyReference:
    """Labelled vectors, from which the distance of other vectors is measured."""

    kind: NoveltyKind
    k: int
    arrays: Mapping[str, NDArray[Any]]
    """`known` (m, d) and `known_label` (m,); for mahalanobis also `centres` (classes, d) and `whitening` (d, d)."""

    def distance(self, vectors: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the distance (n,) of vectors (n, d) of any length from the labelled vectors.

        knn: 1 - cosine to the k-th nearest labelled vector (Sun et al. 2022, arXiv 2204.06507). mahalanobis: distance
        to the nearest class centre, with one covariance for all classes (Lee et al. 2018, section 2.1, arXiv
        1807.03888).
        """
        blocks = [
            self._distance(_directions(vectors[first : first + _ROWS_AT_ONCE]))
            for first in range(0, len(vectors), _ROWS_AT_ONCE)
        ]
        return np.concatenate([np.zeros(0, np.float32), *blocks])

    def nearest(self, vectors: NDArray[np.floating]) -> NDArray[np.int32]:
        """Return the class (n,) of the nearest labelled vector by cosine."""
        known = self.arrays["known"].astype(np.float32)
        label: NDArray[np.int32] = self.arrays["known_label"]
        nearest: NDArray[np.int32] = label[(_directions(vectors) @ known.T).argmax(axis=1)]
        return nearest

    def _distance(self, directions: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.kind == "knn":
            cosine = directions @ self.arrays["known"].astype(np.float32).T
            k = min(self.k, cosine.shape[1])
            kth: NDArray[np.float32] = -np.partition(-cosine, k - 1, axis=1)[:, k - 1]
            far: NDArray[np.float32] = np.maximum(1 - kth, 0)
            return far
        white = directions @ self.arrays["whitening"]
        centres = self.arrays["centres"]
        squared = (white**2).sum(1)[:, None] - 2 * white @ centres.T + (centres**2).sum(1)
        distance: NDArray[np.float32] = np.sqrt(np.maximum(squared.min(axis=1), 0))
        return distance


@dataclass(frozen=True)
class LeftOutGenus:
    """How well the crops of one genus, left out of the labels, are separated from new crops of the other genera."""

    name: str
    crops: int
    auroc: dict[NoveltyKind, float]
    """Area under the ROC curve."""


def fit_novelty(
    vectors: NDArray[np.floating],
    label: NDArray[np.int64],
    *,
    kind: NoveltyKind,
    k: int = NOVELTY_RANK,
    seed: int = 0,
) -> NoveltyReference:
    """Make a reference of labelled vectors (n, d) with labels (n,) in 0..classes-1; every class has a vector."""
    rows = _sample(label, seed=seed)
    directions = _directions(vectors)
    arrays: dict[str, NDArray[Any]] = {
        "known": directions[rows].astype(np.float16),
        "known_label": label[rows].astype(np.int32),
    }
    if kind == "mahalanobis":
        arrays |= _whiten(directions.astype(np.float64), label)
    return NoveltyReference(kind, k, arrays)


def leave_one_genus_out(
    vectors: NDArray[np.floating],
    label: NDArray[np.int64],
    classes: Sequence[str],
    *,
    group: NDArray[np.int64],
    k: int = NOVELTY_RANK,
    splits: int = _SPLITS,
) -> list[LeftOutGenus]:
    """Leave each genus out of the labels in turn, and compare its distances with those of new crops of known genera.

    Four fifths of the crops of the other genera are labelled; the last fifth are the new crops of known genera. The
    scores are means over the splits.

    Raises:
        UsageError: fewer than two genera would remain.
    """
    from sklearn.metrics import roc_auc_score

    counts = np.bincount(label, minlength=len(classes))
    results = []
    for genus in np.flatnonzero(counts).tolist():
        rest, novel = np.flatnonzero(label != genus), np.flatnonzero(label == genus)
        dense_label = np.unique(label[rest], return_inverse=True)[1]
        scores: dict[NoveltyKind, list[float]] = {"knn": [], "mahalanobis": []}
        for seed in range(splits):
            split = stratified_split(dense_label, group[rest], seed=seed)
            # A copy of a labelled picture under the name of the left-out genus is not novel.
            truly_novel = novel[~np.isin(group[novel], group[rest[split.train]])]
            if not len(truly_novel):
                continue
            rows = np.concatenate([rest[split.test], truly_novel])
            is_novel = np.repeat([False, True], [len(split.test), len(truly_novel)])
            for kind, values in scores.items():
                reference = fit_novelty(vectors[rest[split.train]], dense_label[split.train], kind=kind, k=k)
                values.append(float(roc_auc_score(is_novel, reference.distance(vectors[rows]))))
        if scores["knn"]:
            mean = {kind: float(np.mean(values)) for kind, values in scores.items()}
            results.append(LeftOutGenus(classes[genus], int(counts[genus]), mean))
    if not results:
        raise UsageError("no genus can be left out; give labels of at least three genera")
    return results


def _directions(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Scale vectors to length 1: the length reflects how much of a crop is fossil rather than its genus."""
    return unit_vectors(vectors.astype(np.float32))


def _sample(label: NDArray[np.int64], *, seed: int) -> NDArray[np.int64]:
    """Return the rows of at most _MAX_LABELLED crops, in proportion to the classes but at least ten of each."""
    if len(label) <= _MAX_LABELLED:
        return np.arange(len(label))
    rng, fraction = np.random.default_rng(seed), _MAX_LABELLED / len(label)
    chosen = []
    for c in np.unique(label):
        rows = rng.permutation(np.flatnonzero(label == c))
        chosen.append(rows[: max(10, int(fraction * len(rows)))])
    return np.sort(np.concatenate(chosen))


def _whiten(directions: NDArray[np.float64], label: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Whiten by the covariance within classes, shrunk after Ledoit and Wolf (2004); returns the class centres too."""
    from sklearn.covariance import ledoit_wolf

    classes = int(label.max()) + 1
    centres = np.stack([directions[label == c].mean(axis=0) for c in range(classes)])
    covariance, _ = ledoit_wolf(directions - centres[label], assume_centered=True)
    # Classes of one crop each have no covariance.
    covariance += max(1e-6 * float(np.trace(covariance)) / len(covariance), 1e-9) * np.eye(len(covariance))
    whitening = np.linalg.cholesky(np.linalg.inv(covariance))
    return {"centres": (centres @ whitening).astype(np.float32), "whitening": whitening.astype(np.float32)}
