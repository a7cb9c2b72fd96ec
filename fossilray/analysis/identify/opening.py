"""Specimens to compare with, opened from a run, an index and labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fossilray.analysis.identify.identifier import Specimens
from fossilray.analysis.identify.specimens_of_labels import LabelledSpecimens
from fossilray.analysis.identify.specimens_of_run import (
    GivenName,
    IndexSpecimens,
    LabelsNow,
    ObjectName,
    RunSpecimens,
    given_name,
)
from fossilray.analysis.search.search import SearchIndex
from fossilray.core.config import CropsConfig, StoreConfig
from fossilray.core.errors import UsageError
from fossilray.labels.current import attempts_of, labels_of_run
from fossilray.labels.label_set import is_label_set
from fossilray.labels.load import load_labels
from fossilray.store import RunStore


@dataclass(frozen=True)
class OpenedSpecimens:
    """Specimens, and the crops that they were cut to."""

    specimens: tuple[Specimens, ...]
    crops: CropsConfig | None
    """None: of no run or index."""


def open_specimens(
    *,
    run: RunStore | None = None,
    index: SearchIndex | None = None,
    labels: Path | None = None,
    embeddings: str | None = None,
    backbone: str = "bundled",
) -> OpenedSpecimens:
    """Open what images are compared with.

    Args:
        run: its objects are compared, exactly and up to MOST_COMPARED, unless there is an index.
        index: searched instead; with labels of `run`, it must hold the run.
        labels: a label set, or a table of objects, of `run`; a folder of <class>/<image>; or a table of files.
        embeddings: name of the run's embeddings; None: its own.
        backbone: embeds labelled crops that are of no run.

    Raises:
        UsageError: a label set without its run, or an index that lacks the run.
        StoreError: the run or the label set cannot be read.
    """
    if index is not None and run is not None and run.source_run.url not in index.runs():
        raise UsageError(
            f"{index.index.url} does not hold {run.source_run.url}; start `fossilray index build` with it, or "
            "leave out --index"
        )
    opened: list[Specimens] = []
    names: LabelsNow = dict
    if labels is not None:
        if is_label_set(labels) and run is not None:
            names = names_of_label_set(labels, run)
        else:
            labelled = load_labels(labels, run=run)
            opened.append(LabelledSpecimens(labelled, backbone, source=str(labels)))
    if index is not None:
        opened.append(IndexSpecimens(index, {} if run is None else {run.source_run.url: names}))
        return OpenedSpecimens(tuple(opened), crops_as_stored(index.record.crops))
    if run is not None:
        opened.append(RunSpecimens(run, names, embeddings=embeddings))
        return OpenedSpecimens(tuple(opened), crops_as_stored(run.read_run().config["crops"]))
    return OpenedSpecimens(tuple(opened), None)


def open_index_specimens(
    url: str, labels: Mapping[str, LabelsNow], *, access: StoreConfig | None = None
) -> OpenedSpecimens:
    """Open an index whose objects are compared. labels: of its runs, by URL.

    Raises:
        RunNotFound: there is no index at this URL.
        StoreError: it cannot be read.
    """
    index = SearchIndex.open(url, access)
    return OpenedSpecimens((IndexSpecimens(index, labels),), crops_as_stored(index.record.crops))


def names_of_label_set(folder: Path, run: RunStore) -> LabelsNow:
    """Return the names of the labelled objects of a run, as they are now; objects that it lacks are left out."""
    attempts = attempts_of(run)
    names: dict[ObjectName, GivenName] = {
        (slide_id, object_id): given_name(given)
        for (slide_id, object_id, attempt), given in labels_of_run(folder, run).merged.by_object.items()
        if attempts.get(slide_id) == attempt and not given[-1].is_missed
    }
    return lambda: names


def crops_as_stored(stated: Mapping[str, Any]) -> CropsConfig:
    """Return side and fit of crops that a run or an index states."""
    return CropsConfig(size_px=int(stated["size_px"]), fit=stated["fit"])
