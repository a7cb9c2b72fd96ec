"""Current labels of a label set, as a table or as the labels of a run's objects."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fossilray.core.atomic_files import atomic_text
from fossilray.core.text import escape_formula
from fossilray.labels.agreement import Naming, agree
from fossilray.labels.label_set import Labels, LabelSet
from fossilray.labels.matching import NO_OBJECT, STILL_MISSED, LabelMatches, match_labels
from fossilray.labels.spelling import spellings_of
from fossilray.store import RunStore

CurrentLabel = tuple[tuple[str, int], str]
"""(slide_id, object_id) and class."""


@dataclass(frozen=True)
class LabelsOfRun:
    """The labels of a label set on the objects of a run."""

    merged: Labels
    """Labels by object, those of other attempts under the key of the object at their position."""
    matches: LabelMatches
    current: tuple[CurrentLabel, ...]
    """Labelled objects of the run with their classes, sorted by slide and object.

    Classes that differ only in case, blanks or underscores have the most frequent spelling.
    """
    labelled: tuple[tuple[str, int], ...]
    """All objects of the run with a label, also those without a class."""
    left_out: tuple[tuple[str, str], ...]
    """Objects with contradicting labels, and those that the run does not have, with the reason."""
    unnamed: Mapping[str, int]
    """Number of labels without a class by reason: `coarser than species`."""


def labels_of_run(
    folder: Path, store: RunStore, *, naming: Naming | None = None, version: int | None = None
) -> LabelsOfRun:
    """Return the labels of a label set on the objects of a run.

    Labels of other attempts and runs, and of missed objects, are matched by position. Left out are objects with
    contradicting labels, and labels whose object the run does not have.

    Raises:
        UsageError: the folder is not a label set.
        StoreError: the label set is damaged, or the run cannot be read.
    """
    naming = naming or Naming()
    label_set = LabelSet.open(folder)
    before = label_set.labels(version=version)
    matches = match_labels({key: labels[-1] for key, labels in before.by_object.items()}, store)
    merged = label_set.labels(version=version, naming=naming, moved=matches.moved)
    attempts = attempts_of(store)
    current: list[CurrentLabel] = []
    labelled: list[tuple[str, int]] = []
    left_out: list[tuple[str, str]] = []
    unnamed: Counter[str] = Counter()
    for key, labels in merged.by_object.items():
        if attempts.get(key[0]) != key[2]:
            if not labels[-1].is_missed:
                left_out.append((labels[-1].shown, matches.without.get(key, NO_OBJECT)))
            elif matches.without.get(key) == STILL_MISSED:
                unnamed["of objects that the detector missed"] += 1
            continue
        labelled.append((key[0], key[1]))
        agreement = agree([label.occurrence for label in labels], naming)
        if agreement.name is not None:
            current.append(((key[0], key[1]), agreement.name))
        elif not agreement.is_conflict:
            unnamed[agreement.reason] += 1
    for conflict in merged.conflicts.values():
        left_out.append((conflict.object_shown, f"labelled {conflict.names_text}"))
    common = {
        name: spelled[0][0] for spelled in spellings_of(name for _, name in current) for name, _ in spelled
    }
    current = [(key, common.get(name, name)) for key, name in current]
    return LabelsOfRun(
        merged, matches, tuple(current), tuple(labelled), tuple(left_out), dict(sorted(unnamed.items()))
    )


def attempts_of(store: RunStore) -> dict[str, str]:
    """Return the attempt that made the objects of each committed slide."""
    table = store.summaries_table()
    return dict(zip(table["slide_id"].to_pylist(), table["attempt"].to_pylist(), strict=True))


@dataclass(frozen=True)
class LabelledTaxon:
    """The current label of an object, in words for other programs."""

    taxon: str
    """Empty if it names none, or names what is no fossil."""
    qualifier: str
    situation: str
    who: str
    at: str
    remark: str


def labelled_taxa(folder: Path, store: RunStore) -> dict[tuple[str, int], LabelledTaxon]:
    """Return the current labels of a run's objects by slide_id and object_id; contradicting ones are left out.

    Raises:
        UsageError: the folder is not a label set.
        StoreError: the label set is damaged, or the run cannot be read.
    """
    attempts = attempts_of(store)
    taxa: dict[tuple[str, int], LabelledTaxon] = {}
    for (slide_id, object_id, attempt), label in labels_of_run(folder, store).merged.consensus.items():
        stated = label.occurrence
        if attempts.get(slide_id) == attempt:
            taxa[slide_id, object_id] = LabelledTaxon(
                stated.taxon if stated.kind == "fossil" else "",
                stated.qualifier or "",
                stated.situation or "",
                label.who,
                label.at,
                stated.remark,
            )
    return taxa


def write_current_labels(labels: Labels, path: Path) -> None:
    """Write a CSV of slide_id, object_id, genus and who, as `classify train` and `labels import` read it.

    Missed objects, and labels without a class, are left out; `labels export` writes everything.

    Raises:
        UsageError: the file cannot be written.
    """
    with atomic_text(path, newline="") as sink:
        table = csv.writer(sink, lineterminator="\n")
        table.writerow(("slide_id", "object_id", "genus", "who"))
        for key, label in labels.consensus.items():
            name = agree([given.occurrence for given in labels.by_object[key]], Naming()).name
            if name is not None and not label.is_missed:
                table.writerow(
                    (label.slide_id, label.object_id, escape_formula(name), escape_formula(label.who))
                )
