"""The protocol of Karaderi et al. ("Visual Microfossil Identification via Deep Metric Learning"): closed, open sets.

arXiv:2112.09490 (2021), ICPRAI 2022. Closed set: test images of known species; each gets the label of the nearest
crops in embedding space; scored by accuracy and macro F1. Open set: whole species are withheld from training (10 of 35
in a split of the published code), their images are clustered by their embeddings alone, and each cluster is matched
with one species so that most images agree.

The abstract and the published code are followed. Where they state nothing, this implementation uses stratified splits
80:20, the vote of five neighbours, k-means with as many clusters as withheld species, unit vectors, and groups of
species that are drawn so that each is withheld equally often.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import UsageError
from fossilray.core.types import OnProgress, ignore_progress
from fossilray.core.vectors import unit_vectors
from fossilray.models.heads.splits import stratified_split

_NEIGHBOURS = 5
_WITHHELD_SHARE = 10 / 35
_KMEANS_STARTS = 10
_CHANCE_PERMUTATIONS = 100

EmbeddingMatrix = NDArray[np.floating]
TrainAndEmbed = Callable[[NDArray[np.int64], str], EmbeddingMatrix]
"""Given training rows and a name: vectors of all crops. A fixed backbone ignores the rows."""


@dataclass(frozen=True)
class ClosedSet:
    """Scores of the closed set."""

    accuracy: tuple[float, ...]
    """One value a repetition."""
    f1: tuple[float, ...]
    """Macro F1, one value a repetition."""
    per_class: tuple[float, ...]
    """F1 of each species over all repetitions; NaN for a species without test crops."""
    confusion: NDArray[np.int64]
    """(classes, classes), true species in rows, summed over repetitions."""


@dataclass(frozen=True)
class OpenSet:
    """Scores of one group of withheld species."""

    withheld: tuple[str, ...]
    crops: int
    accuracy: float
    f1: float
    nmi: float
    ari: float
    per_class: tuple[float, ...]
    """F1 of each withheld species."""
    chance_accuracy: float
    """Mean accuracy of 100 random permutations of the clusters."""


@dataclass(frozen=True)
class Karaderi2021:
    """Results of the protocol."""

    closed: ClosedSet
    open_sets: tuple[OpenSet, ...]
    last_vectors: EmbeddingMatrix
    """(n, d) unit vectors of all crops by the last backbone, trained without the last group of species."""


def score_metric_learning(
    embed: TrainAndEmbed,
    label: NDArray[np.int64],
    classes: Sequence[str],
    *,
    group: NDArray[np.int64],
    repetitions: int,
    withheld: Sequence[Sequence[str]],
    seed: int = 0,
    on_progress: OnProgress = ignore_progress,
) -> Karaderi2021:
    """Run the protocol.

    Args:
        embed: Trains on given rows and returns the vectors of all crops.
        label: (n,) class numbers, 0 to len(classes) - 1.
        classes: Names of the classes.
        group: (n,) equal numbers for copies of one image, which stay on one side of every split.
        repetitions: Splits of the closed set.
        withheld: Groups of species to withhold, one open set each.
        seed: Seed of the first split and of the clustering.
        on_progress: Called after each training.

    Raises:
        UsageError: There are too few crops to split or to cluster, or a group names an unknown species or leaves
            fewer than two.
    """
    step, steps = 0, repetitions + len(withheld)
    truth, predictions = [], []
    for number in range(repetitions):
        split = stratified_split(label, group, seed=seed + number)
        vectors = unit_vectors(embed(split.train, f"closed-{number}").astype(np.float64))
        truth.append(label[split.test])
        predictions.append(_predict_neighbours(vectors, label, split.train, split.test))
        on_progress(step := step + 1, steps)
    open_sets, last = [], np.zeros((0, 0))
    for number, names in enumerate(withheld):
        is_withheld = np.isin(label, _class_numbers(names, classes))
        last = unit_vectors(embed(np.flatnonzero(~is_withheld), f"open-{number}").astype(np.float64))
        open_sets.append(_score_open_set(last[is_withheld], label[is_withheld], names, classes, seed=seed))
        on_progress(step := step + 1, steps)
    return Karaderi2021(_score_closed_set(truth, predictions, len(classes)), tuple(open_sets), last)


def draw_groups(
    label: NDArray[np.int64],
    classes: Sequence[str],
    *,
    group: NDArray[np.int64],
    repetitions: int,
    size: int | None = None,
    seed: int = 0,
) -> tuple[tuple[str, ...], ...]:
    """Draw groups of species to withhold, so that no species is drawn twice before every one was drawn once.

    Args:
        label: (n,) class numbers, 0 to len(classes) - 1.
        classes: Names of the classes.
        group: (n,) equal numbers for copies of one image. Species of one image are never withheld.
        repetitions: Number of groups.
        size: Species of a group; by default two of seven, as published, and at least two.
        seed: Seed of the draw.

    Raises:
        UsageError: Fewer than two species would be withheld, or fewer than two would remain.
    """
    images = [len(np.unique(group[label == c])) for c in range(len(classes))]
    usable = [c for c, count in enumerate(images) if count > 1]
    size = max(2, round(_WITHHELD_SHARE * len(usable))) if size is None else size
    if size < 2 or len(usable) - size < 2:
        raise UsageError(
            f"withholding {size} of {len(usable)} classes that have two images or more leaves too few on a side; "
            "two must be withheld and two must remain: give more labels, or another --withhold-count"
        )
    rng = np.random.default_rng(seed)
    groups: list[tuple[str, ...]] = []
    remaining: list[int] = []
    while len(groups) < repetitions:
        chosen, remaining = remaining[:size], remaining[size:]
        if len(chosen) < size:
            fresh = [c for c in rng.permutation(usable).tolist() if c not in chosen]
            missing = size - len(chosen)
            chosen, remaining = chosen + fresh[:missing], fresh[missing:]
        groups.append(tuple(classes[c] for c in sorted(chosen)))
    return tuple(groups)


def match_clusters(cluster: NDArray[np.int64], truth: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the class (n,) matched with each crop's cluster, so that most crops agree (Kuhn 1955).

    Clusters and classes are numbered from 0. Clusters beyond the number of classes are matched with none: -1.
    """
    from scipy.optimize import linear_sum_assignment

    table = np.zeros((int(cluster.max()) + 1, int(truth.max()) + 1), np.int64)
    np.add.at(table, (cluster, truth), 1)
    class_of_cluster = np.full(len(table), -1, np.int64)
    rows, columns = linear_sum_assignment(table, maximize=True)
    class_of_cluster[rows] = columns
    return class_of_cluster[cluster]


def _predict_neighbours(
    vectors: NDArray[np.float64], label: NDArray[np.int64], train: NDArray[np.int64], test: NDArray[np.int64]
) -> NDArray[np.int64]:
    from sklearn.neighbors import KNeighborsClassifier

    model = KNeighborsClassifier(n_neighbors=min(_NEIGHBOURS, len(train))).fit(vectors[train], label[train])
    return np.asarray(model.predict(vectors[test]), np.int64)


def _class_numbers(names: Sequence[str], classes: Sequence[str]) -> list[int]:
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise UsageError(
            f"{', '.join(unknown)} cannot be withheld: no crop has this label; the classes are "
            f"{', '.join(classes)}"
        )
    if len(set(names)) < 2 or len(classes) - len(set(names)) < 2:
        raise UsageError(
            f"{len(set(names))} of {len(classes)} classes are withheld; at least two must be withheld and at least "
            "two must remain"
        )
    return [classes.index(name) for name in names]


def _score_open_set(
    vectors: NDArray[np.float64],
    label: NDArray[np.int64],
    names: Sequence[str],
    classes: Sequence[str],
    *,
    seed: int,
) -> OpenSet:
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, f1_score, normalized_mutual_info_score
    from threadpoolctl import threadpool_limits

    numbers, truth = np.unique(label, return_inverse=True)
    if len(truth) <= len(numbers):
        raise UsageError(f"{len(truth)} crops of {', '.join(names)} are too few to cluster; give more labels")
    with threadpool_limits(1):
        model = KMeans(len(numbers), n_init=_KMEANS_STARTS, random_state=seed).fit(vectors)
    cluster = model.labels_.astype(np.int64)
    predicted = match_clusters(cluster, truth)
    rng = np.random.default_rng(seed)
    by_chance = [
        (match_clusters(rng.permutation(cluster), truth) == truth).mean() for _ in range(_CHANCE_PERMUTATIONS)
    ]
    per_class = f1_score(truth, predicted, labels=np.arange(len(numbers)), average=None, zero_division=0)
    return OpenSet(
        withheld=tuple(classes[c] for c in numbers.tolist()),
        crops=len(truth),
        accuracy=float((predicted == truth).mean()),
        f1=float(per_class.mean()),
        nmi=float(normalized_mutual_info_score(truth, cluster)),
        ari=float(adjusted_rand_score(truth, cluster)),
        per_class=tuple(float(value) for value in per_class),
        chance_accuracy=float(np.mean(by_chance)),
    )


def _score_closed_set(
    truth: list[NDArray[np.int64]], predictions: list[NDArray[np.int64]], classes: int
) -> ClosedSet:
    from sklearn.metrics import f1_score

    pairs = list(zip(truth, predictions, strict=True))
    confusion = np.zeros((classes, classes), np.int64)
    for true, predicted in pairs:
        np.add.at(confusion, (true, predicted), 1)
    tested, predicted_as = confusion.sum(axis=1), confusion.sum(axis=0)
    f1 = np.where(tested > 0, 2 * np.diag(confusion) / np.maximum(tested + predicted_as, 1), np.nan)
    return ClosedSet(
        accuracy=tuple(float((true == predicted).mean()) for true, predicted in pairs),
        f1=tuple(
            float(f1_score(true, predicted, average="macro", zero_division=0)) for true, predicted in pairs
        ),
        per_class=tuple(float(value) for value in f1),
        confusion=confusion,
    )
