"""Current labels of a label set, as a table or as training data."""

from __future__ import annotations

import csv
from pathlib import Path

from fossilray.core.atomic_files import atomic_text
from fossilray.core.text import escape_formula
from fossilray.labels.importing import attempts_of
from fossilray.labels.label_set import Labels, LabelSet
from fossilray.store import RunStore

CurrentLabel = tuple[tuple[str, int], str]
"""(slide_id, object_id) and genus."""


def current_labels(
    folder: Path, store: RunStore
) -> tuple[list[CurrentLabel], list[tuple[tuple[str, int], str]]]:
    """Return the labelled objects of a run, and the labels that are left out with the reason, by slide and object.

    Left out are objects with different genera, and labels of objects that the run no longer holds.

    Raises:
        UsageError: the folder is not a label set.
        StoreError: the label set is damaged, or the run cannot be read.
    """
    labels = LabelSet.open(folder).labels()
    attempts = attempts_of(store)
    current: list[CurrentLabel] = []
    left_out: list[tuple[tuple[str, int], str]] = []
    for label in labels.consensus.values():
        key = (label.slide_id, label.object_id)
        if attempts.get(label.slide_id) == label.attempt:
            current.append((key, label.genus))
        elif label.slide_id in attempts:
            left_out.append((key, "its slide was reprocessed after it was labelled"))
        else:
            left_out.append((key, "its slide is not in the run"))
    for conflict in labels.conflicts:
        left_out.append(((conflict.slide_id, conflict.object_id), f"labelled {conflict.names_text}"))
    return current, left_out


def write_current_labels(labels: Labels, path: Path) -> None:
    """Write a CSV of slide_id, object_id, genus and who, as `classify train` and `labels import` read it.

    Raises:
        UsageError: the file cannot be written.
    """
    with atomic_text(path, newline="") as sink:
        table = csv.writer(sink, lineterminator="\n")
        table.writerow(("slide_id", "object_id", "genus", "who"))
        for label in labels.consensus.values():
            table.writerow(
                (label.slide_id, label.object_id, escape_formula(label.genus), escape_formula(label.who))
            )
