"""The labels of a label set that stand, as a table and for teaching."""

from __future__ import annotations

import csv
from pathlib import Path

from fossilray.core.text import escape_formula
from fossilray.core.whole_files import whole_text
from fossilray.labels.importing import attempts_of
from fossilray.labels.label_set import Labels, LabelSet
from fossilray.store import RunStore

Given = tuple[tuple[str, int], str]
"""(slide_id, object_id) and genus."""


def current_labels(folder: Path, store: RunStore) -> tuple[list[Given], list[tuple[tuple[str, int], str]]]:
    """The objects of a run that bear one name, and those left out with the reason, both by slide and object.

    Raises:
        UsageError: the folder is no label set.
        StoreError: it is damaged, or the run cannot be read.
    """
    said = LabelSet.open(folder).labels()
    attempts = attempts_of(store)
    standing: list[Given] = []
    left_out: list[tuple[tuple[str, int], str]] = []
    for one in said.agreed.values():
        key = (one.slide_id, one.object_id)
        if attempts.get(one.slide_id) == one.attempt:
            standing.append((key, one.genus))
        elif one.slide_id in attempts:
            left_out.append((key, "its slide was made anew since it was labelled"))
        else:
            left_out.append((key, "no such slide in the run"))
    for conflict in said.conflicts:
        names = ", ".join(f"{genus} ({who})" for genus, who in conflict.said)
        left_out.append(((conflict.slide_id, conflict.object_id), f"called {names}"))
    return standing, left_out


def write_current_labels(labels: Labels, path: Path) -> None:
    """A CSV of slide_id, object_id, genus and who, as `classify train` and `labels import` read it.

    Raises:
        UsageError: it cannot be written.
    """
    with whole_text(path, newline="") as sink:
        table = csv.writer(sink, lineterminator="\n")
        table.writerow(("slide_id", "object_id", "genus", "who"))
        for one in labels.agreed.values():
            table.writerow((one.slide_id, one.object_id, escape_formula(one.genus), escape_formula(one.who)))
