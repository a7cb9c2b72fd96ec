"""Closed and open sets as Karaderi et al. judge them ("Visual Microfossil Identification via Deep Metric Learning").

arXiv:2112.09490 (2021), ICPRAI 2022. Closed set: images withheld, their species known: the label that the nearest
crops in embedding space bear, as accuracy and F1 averaged over species. Open set: whole species withheld from
training (10 of 35 in a split of the published code), their images clustered by embedding alone, and each cluster
matched with one species so that most images agree.

Followed are the abstract and the published code. What those do not tell is ours: 80 to 20 stratified divisions; the
vote of five neighbours; k-means with as many clusters as species were withheld; vectors brought to length 1; repetition
over groups of species that are drawn in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import UsageError
from fossilray.evaluation.martinsen2024 import Told
from fossilray.models.heads.splits import stratified_split

NEIGHBOURS = 5
WITHHELD_SHARE = 10 / 35
_STARTS = 10
"""Of k-means, the best of which counts."""

Vectors = NDArray[np.floating]
Learned = Callable[[NDArray[np.int64], str], Vectors]
"""Given rows and a name: the vectors of all crops, by a backbone that has learned from these rows, or from none."""


@dataclass(frozen=True)
class ClosedSet:
    """One value a repetition."""

    accuracy: tuple[float, ...]
    f1: tuple[float, ...]
    per_class: tuple[float, ...]
    """F1 of each species over all answers; NaN where none was asked about."""
    confusion: NDArray[np.int64]
    """Truth down, answer across, all repetitions together."""


@dataclass(frozen=True)
class Clustered:
    """One group of withheld species."""

    withheld: tuple[str, ...]
    crops: int
    accuracy: float
    f1: float
    nmi: float
    ari: float
    per_class: tuple[float, ...]
    """F1 of each withheld species."""
    by_chance: float
    """Accuracy of clusters of the same sizes drawn at random, mean of a hundred."""


@dataclass(frozen=True)
class Karaderi2021:
    """All figures of the protocol."""

    closed: ClosedSet
    opened: tuple[Clustered, ...]
    last: Vectors
    """Vectors of all crops by the last backbone, from which the last group was withheld."""


def judge_metric_space(
    learned: Learned,
    label: NDArray[np.int64],
    classes: Sequence[str],
    *,
    group: NDArray[np.int64],
    repetitions: int,
    withheld: Sequence[Sequence[str]],
    seed: int = 0,
    told: Told = lambda _done, _of: None,
) -> Karaderi2021:
    """The protocol with labels (n,) in 0..len(classes)-1; withheld: the groups of species, one after the other.

    Raises:
        UsageError: there are too few crops to divide, or a group is of no use.
    """
    steps, step = repetitions + len(withheld), 0
    truth, said = [], []
    for number in range(repetitions):
        split = stratified_split(label, group, seed=seed + number)
        vectors = unit_length(learned(split.train, f"closed-{number}"))
        truth.append(label[split.test])
        said.append(_ask_neighbours(vectors, label, split.train, split.test))
        told(step := step + 1, steps)
    opened, last = [], np.zeros((0, 0))
    for number, names in enumerate(withheld):
        apart = np.isin(label, _numbers(names, classes))
        last = unit_length(learned(np.flatnonzero(~apart), f"open-{number}"))
        opened.append(_cluster(last[apart], label[apart], names, classes, seed=seed))
        told(step := step + 1, steps)
    return Karaderi2021(_score(truth, said, len(classes)), tuple(opened), last)


def draw_groups(
    label: NDArray[np.int64],
    classes: Sequence[str],
    *,
    group: NDArray[np.int64],
    repetitions: int,
    size: int | None = None,
    seed: int = 0,
) -> tuple[tuple[str, ...], ...]:
    """Groups of species to withhold, so drawn that no species comes twice before all came once.

    size: species of a group; None: two of seven, as published, and at least two. Species of one picture are never
    withheld.

    Raises:
        UsageError: fewer than two species would be left on a side.
    """
    pictures = [len(np.unique(group[label == c])) for c in range(len(classes))]
    usable = [c for c, count in enumerate(pictures) if count > 1]
    size = max(2, round(WITHHELD_SHARE * len(usable))) if size is None else size
    if size < 2 or len(usable) - size < 2:
        raise UsageError(
            f"withholding {size} of {len(usable)} classes that have two pictures or more leaves too few on a side; "
            "two must be withheld and two be left: give more labels, or another --withheld"
        )
    rng = np.random.default_rng(seed)
    groups: list[tuple[str, ...]] = []
    waiting: list[int] = []
    while len(groups) < repetitions:
        chosen = waiting[:size]
        waiting = waiting[size:]
        if len(chosen) < size:
            fresh = [c for c in rng.permutation(usable).tolist() if c not in chosen]
            missing = size - len(chosen)
            chosen, waiting = chosen + fresh[:missing], fresh[missing:]
        groups.append(tuple(classes[c] for c in sorted(chosen)))
    return tuple(groups)


def match_clusters(cluster: NDArray[np.int64], truth: NDArray[np.int64]) -> NDArray[np.int64]:
    """The class (n,) that each crop's cluster is matched with, so that most crops agree (Kuhn 1955).

    Both are numbered from 0. A cluster beyond the number of classes is matched with none: -1.
    """
    from scipy.optimize import linear_sum_assignment

    table = np.zeros((int(cluster.max()) + 1, int(truth.max()) + 1), np.int64)
    np.add.at(table, (cluster, truth), 1)
    name = np.full(len(table), -1, np.int64)
    rows, columns = linear_sum_assignment(table, maximize=True)
    name[rows] = columns
    return name[cluster]


def unit_length(vectors: Vectors) -> NDArray[np.float64]:
    """The vectors (n, d) brought to length 1."""
    seen = vectors.astype(np.float64)
    return np.asarray(seen / np.maximum(np.linalg.norm(seen, axis=1, keepdims=True), 1e-12), np.float64)


def _ask_neighbours(
    vectors: NDArray[np.float64], label: NDArray[np.int64], train: NDArray[np.int64], test: NDArray[np.int64]
) -> NDArray[np.int64]:
    from sklearn.neighbors import KNeighborsClassifier

    model = KNeighborsClassifier(n_neighbors=min(NEIGHBOURS, len(train))).fit(vectors[train], label[train])
    return np.asarray(model.predict(vectors[test]), np.int64)


def _numbers(names: Sequence[str], classes: Sequence[str]) -> list[int]:
    absent = sorted(set(names) - set(classes))
    if absent:
        raise UsageError(
            f"{', '.join(absent)} cannot be withheld, for no crop is labelled so; the classes are "
            f"{', '.join(classes)}"
        )
    if len(set(names)) < 2 or len(classes) - len(set(names)) < 2:
        raise UsageError(
            f"{len(set(names))} of {len(classes)} classes are to be withheld; two must be, and two be left"
        )
    return [classes.index(name) for name in names]


def _cluster(
    vectors: NDArray[np.float64],
    label: NDArray[np.int64],
    names: Sequence[str],
    classes: Sequence[str],
    *,
    seed: int,
) -> Clustered:
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, f1_score, normalized_mutual_info_score
    from threadpoolctl import threadpool_limits

    there, truth = np.unique(label, return_inverse=True)
    if len(truth) <= len(there):
        raise UsageError(
            f"{len(truth)} crops of {', '.join(names)} are too few to be clustered; give more labels"
        )
    with threadpool_limits(1):
        model = KMeans(len(there), n_init=_STARTS, random_state=seed).fit(vectors)
    cluster = model.labels_.astype(np.int64)
    said = match_clusters(cluster, truth)
    rng = np.random.default_rng(seed)
    drawn = [(match_clusters(rng.permutation(cluster), truth) == truth).mean() for _ in range(100)]
    per_class = f1_score(truth, said, labels=np.arange(len(there)), average=None, zero_division=0)
    return Clustered(
        withheld=tuple(classes[c] for c in there.tolist()),
        crops=len(truth),
        accuracy=float((said == truth).mean()),
        f1=float(per_class.mean()),
        nmi=float(normalized_mutual_info_score(truth, cluster)),
        ari=float(adjusted_rand_score(truth, cluster)),
        per_class=tuple(float(value) for value in per_class),
        by_chance=float(np.mean(drawn)),
    )


def _score(truth: list[NDArray[np.int64]], said: list[NDArray[np.int64]], classes: int) -> ClosedSet:
    from sklearn.metrics import f1_score

    confusion = np.zeros((classes, classes), np.int64)
    for true, answer in zip(truth, said, strict=True):
        np.add.at(confusion, (true, answer), 1)
    right = np.diag(confusion)
    both = confusion.sum(axis=0) + confusion.sum(axis=1)
    f1 = np.where(confusion.sum(axis=1) > 0, 2 * right / np.maximum(both, 1), np.nan)
    return ClosedSet(
        accuracy=tuple(float((t == s).mean()) for t, s in zip(truth, said, strict=True)),
        f1=tuple(
            float(f1_score(t, s, average="macro", zero_division=0)) for t, s in zip(truth, said, strict=True)
        ),
        per_class=tuple(float(value) for value in f1),
        confusion=confusion,
    )
