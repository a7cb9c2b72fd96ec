"""How far a vector is from everything that was labelled, compared by direction alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config.choices import NoveltyKind
from fossilray.core.errors import UsageError
from fossilray.models.heads.splits import stratified_split

NEIGHBOUR = 3
"""With ten labelled crops of a genus, one that lies oddly must not make a whole corner known."""

MOST_KNOWN = 20_000
"""Labelled crops that are kept to compare with; of more, a share of each class."""

SPLITS = 3

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class NoveltyReference:
    """What was labelled, and the distance of other vectors from it."""

    kind: NoveltyKind
    k: int
    arrays: Mapping[str, NDArray[Any]]
    """`known` (m, d) and `known_label` (m,); of mahalanobis `centres` (classes, d) and `whitening` (d, d) too."""

    def distance(self, vectors: NDArray[np.floating]) -> NDArray[np.float32]:
        """(n,) how far vectors (n, d) of any length are from what is known; 0 is there already.

        knn: one less the cosine with the k-th nearest label (Sun et al. 2022, arXiv 2204.06507). mahalanobis: from
        the nearest class's centre, with one covariance for all (Lee et al. 2018, section 2.1, arXiv 1807.03888).
        """
        parts = [
            self._distance(unit(vectors[first : first + _ROWS_AT_ONCE]))
            for first in range(0, len(vectors), _ROWS_AT_ONCE)
        ]
        return np.concatenate([np.zeros(0, np.float32), *parts])

    def nearest(self, vectors: NDArray[np.floating]) -> NDArray[np.int32]:
        """(n,) the class of the nearest label by cosine."""
        known = self.arrays["known"].astype(np.float32)
        label: NDArray[np.int32] = self.arrays["known_label"]
        nearest: NDArray[np.int32] = label[(unit(vectors) @ known.T).argmax(axis=1)]
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
    """How well one genus that nobody labelled is told from new crops of the others: areas under the ROC curve."""

    name: str
    crops: int
    auroc: dict[NoveltyKind, float]


def fit_novelty(
    vectors: NDArray[np.floating],
    label: NDArray[np.int64],
    *,
    kind: NoveltyKind,
    k: int = NEIGHBOUR,
    seed: int = 0,
) -> NoveltyReference:
    """What labelled vectors (n, d) with labels (n,) of 0..classes-1 make known; every class has at least one."""
    rows = _some(label, seed=seed)
    directions = unit(vectors)
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
    k: int = NEIGHBOUR,
    splits: int = SPLITS,
) -> list[LeftOutGenus]:
    """Each genus in turn is labelled nowhere; are its crops farther from the labels than new crops of known genera?

    Four fifths of the other genera are known, and the last fifth is what is new and yet known; means over splits.

    Raises:
        UsageError: without one genus there are not two left to divide.
    """
    from sklearn.metrics import roc_auc_score

    counts = np.bincount(label, minlength=len(classes))
    found = []
    for genus in np.flatnonzero(counts).tolist():
        rest, novel = np.flatnonzero(label != genus), np.flatnonzero(label == genus)
        of = np.unique(label[rest], return_inverse=True)[1]
        scores: dict[NoveltyKind, list[float]] = {"knn": [], "mahalanobis": []}
        for seed in range(splits):
            split = stratified_split(of, group[rest], seed=seed)
            # A copy of a known picture under the name of the genus withheld would say nothing.
            asked = novel[~np.isin(group[novel], group[rest[split.train]])]
            if not len(asked):
                continue
            rows = np.concatenate([rest[split.test], asked])
            is_novel = np.repeat([False, True], [len(split.test), len(asked)])
            for kind, values in scores.items():
                known = fit_novelty(vectors[rest[split.train]], of[split.train], kind=kind, k=k)
                values.append(float(roc_auc_score(is_novel, known.distance(vectors[rows]))))
        if scores["knn"]:
            mean = {kind: float(np.mean(values)) for kind, values in scores.items()}
            found.append(LeftOutGenus(classes[genus], int(counts[genus]), mean))
    if not found:
        raise UsageError("there is no genus to withhold; give labels of at least three")
    return found


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Vectors of length 1; length says how much of a crop is fossil more than which."""
    wide: NDArray[np.float32] = vectors.astype(np.float32)
    wide /= np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), np.float32(1e-12))
    return wide


def _some(label: NDArray[np.int64], *, seed: int) -> NDArray[np.int64]:
    """Rows of at most MOST_KNOWN crops, of each class its share and at least ten."""
    if len(label) <= MOST_KNOWN:
        return np.arange(len(label))
    rng, share = np.random.default_rng(seed), MOST_KNOWN / len(label)
    chosen = []
    for c in np.unique(label):
        own = rng.permutation(np.flatnonzero(label == c))
        chosen.append(own[: max(10, int(share * len(own)))])
    return np.sort(np.concatenate(chosen))


def _whiten(directions: NDArray[np.float64], label: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Centres of classes where the covariance within classes, shrunk after Ledoit and Wolf (2004), is the identity."""
    from sklearn.covariance import ledoit_wolf

    classes = int(label.max()) + 1
    centres = np.stack([directions[label == c].mean(axis=0) for c in range(classes)])
    covariance, _ = ledoit_wolf(directions - centres[label], assume_centered=True)
    # Labels of one crop each leave nothing within classes to measure.
    covariance += max(1e-6 * float(np.trace(covariance)) / len(covariance), 1e-9) * np.eye(len(covariance))
    whitening = np.linalg.cholesky(np.linalg.inv(covariance))
    return {"centres": (centres @ whitening).astype(np.float32), "whitening": whitening.astype(np.float32)}
