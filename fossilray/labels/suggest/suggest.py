"""Suggestions of what to label next in a run: images to sort, and tables that relate them to their objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config.choices import SuggestionStrategy
from fossilray.core.vectors import entropy
from fossilray.labels.current import labels_of_run
from fossilray.labels.label_folder import refuse_used_folder, write_label_folder
from fossilray.labels.suggest.pool import Pool, labelled_vectors, sample_pool
from fossilray.labels.suggest.selection import Quotas, centred_directions, distance_to_nearest
from fossilray.labels.suggest.strategies import REASONS, Selection, choose
from fossilray.models.heads import Head, train_head
from fossilray.models.heads.compatibility import require_same_backbone
from fossilray.models.heads.head import BackboneReference
from fossilray.store import RunStore
from fossilray.store.query.vectors import VectorReader

POOL_OBJECTS = 20_000
"""Default number of objects to choose from: 30 MB of vectors, some seconds."""

_SUGGESTIONS = "suggestions.csv"
_SUGGESTION_COLUMNS = (
    *("rank", "file", "slide_id", "object_id", "well", "measured_depth_m", "width_um", "height_um"),
    *("why", "guess", "score", "entropy", "distance", "genus"),
)


@dataclass(frozen=True)
class SuggestionReport:
    """Counts of a round of suggestions."""

    objects: int
    """Suggested objects."""
    pool: int
    """Objects that they were chosen from."""
    labelled: int
    """Objects that had a label before."""
    by_strategy: Mapping[str, int]
    wells: Mapping[str, int]
    trained_here: bool
    """Whether a head was trained on the labels because none was given."""


def suggest_objects(
    store: RunStore,
    out: Path,
    *,
    count: int,
    strategy: SuggestionStrategy = "mixed",
    head: Head | None = None,
    labels: Path | None = None,
    embeddings: str | None = None,
    where: str | None = None,
    pool: int = POOL_OBJECTS,
    seed: int = 0,
) -> SuggestionReport:
    """Write the images of objects worth a label into `out`, with suggestions.csv and particletrieur.csv.

    labels: a label set, whose objects are left out and count as known; without a head, one is trained on them.
    embeddings: the name of embeddings to use instead of the run's own. where: a condition on `objects`. Equal runs,
    labels and seeds give equal files.

    Raises:
        UsageError: there is nothing to choose from, the head is of another backbone, or `out` is not empty.
        QueryError: DuckDB refuses the condition.
    """
    refuse_used_folder(out, "suggestions of two rounds")
    reader = VectorReader(store, embeddings)
    if head is not None:
        require_same_backbone(head.meta, _backbone_reference(reader), subject=f"the vectors of {store.url}")
    genera, known, labelled = _read_labels(store, reader, labels)
    trained_here = head is None and len(set(genera)) > 1
    if trained_here:
        head = _train_head(genera, known, reader)
    drawn = sample_pool(store, reader, size=max(pool, count), where=where, without=labelled, seed=seed)
    probability = None if head is None else head.predict(drawn.vectors)
    _, well = np.unique(np.array(drawn.wells, dtype=np.str_), return_inverse=True)
    picks = choose(
        strategy,
        vectors=drawn.vectors,
        known=known,
        probability=probability,
        count=count,
        quotas=Quotas(well.astype(np.int64), count),
        seed=seed,
    )
    write_label_folder(
        store,
        out,
        drawn.objects.take([pick.row for pick in picks]),
        list(_rows(drawn, picks, known, probability, head)),
        table=_SUGGESTIONS,
        columns=_SUGGESTION_COLUMNS,
    )
    return SuggestionReport(
        objects=len(picks),
        pool=len(drawn),
        labelled=len(labelled),
        by_strategy=Counter(pick.strategy for pick in picks),
        wells=Counter(drawn.wells[pick.row] for pick in picks),
        trained_here=trained_here,
    )


def _read_labels(
    store: RunStore, reader: VectorReader, labels: Path | None
) -> tuple[list[str], NDArray[np.float32], set[tuple[str, int]]]:
    """Return the genera and vectors of the current labels, and the keys of all labelled objects."""
    if labels is None:
        return [], np.zeros((0, 0), np.float32), set()
    of_run = labels_of_run(labels, store)
    rows, vectors = labelled_vectors(store, reader, [key for key, _ in of_run.current])
    return [of_run.current[row][1] for row in rows.tolist()], vectors, set(of_run.labelled)


def _backbone_reference(reader: VectorReader) -> BackboneReference:
    return BackboneReference(name=reader.name or reader.backbone.name, sha256=reader.backbone.sha256)


def _train_head(genera: Sequence[str], known: NDArray[np.float32], reader: VectorReader) -> Head:
    classes, label = np.unique(np.array(genera, dtype=np.str_), return_inverse=True)
    return train_head(
        known,
        label.astype(np.int64),
        tuple(classes.tolist()),
        kind="logistic",
        backbone=_backbone_reference(reader),
    )


def _rows(
    pool: Pool,
    picks: Sequence[Selection],
    known: NDArray[np.float32],
    probability: NDArray[np.float32] | None,
    head: Head | None,
) -> Iterator[dict[str, Any]]:
    """Yield the row of each selected object in the tables, without its image."""
    rows = np.array([pick.row for pick in picks], np.int64)
    directions, centre = centred_directions(pool.vectors)
    labelled, _ = centred_directions(known.reshape(-1, pool.vectors.shape[1]), centre=centre)
    distance = distance_to_nearest(directions[rows], labelled)
    objects = pool.objects.take(rows).to_pylist()
    for number, (pick, row) in enumerate(zip(picks, objects, strict=True)):
        guess, score, nats = "", "", ""
        if probability is not None and head is not None:
            of_pick = probability[pick.row].astype(np.float64)
            guess, score = head.classes[int(of_pick.argmax())], f"{of_pick.max():.4f}"
            nats = f"{float(entropy(of_pick)):.4f}"
        yield {
            **row,
            "rank": number + 1,
            "why": REASONS[pick.strategy],
            "guess": guess,
            "score": score,
            "entropy": nats,
            "distance": f"{float(distance[number]):.4f}" if len(known) else "",
        }
