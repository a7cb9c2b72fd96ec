"""Withdrawal of labels: a round whose rows end labels that annotators gave, while earlier rounds keep them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fossilray.core.errors import UsageError
from fossilray.core.text import list_some, strip_control_characters
from fossilray.labels.current import attempts_of
from fossilray.labels.label import Label
from fossilray.labels.label_set import LabelSet
from fossilray.labels.matching import match_labels
from fossilray.labels.rounds import RoundRecord
from fossilray.store import RunStore


def withdraw_labels(
    folder: Path,
    store: RunStore,
    *,
    who: str | None,
    objects: Sequence[tuple[str, int]] = (),
    given_in: int | None = None,
) -> RoundRecord:
    """Commit a round that withdraws the current labels of objects, or of an earlier round, and return its record.

    Args:
        who: the annotator whose labels are withdrawn; None: those of all annotators.
        objects: slide_id and object_id in the run; labels of other attempts are matched by position.
        given_in: number of the round whose labels are withdrawn, as far as no later one replaced them.

    Raises:
        UsageError: neither or both of objects and a round are named, or there is no such label.
    """
    if bool(objects) == (given_in is not None):
        raise UsageError("name the labels to withdraw by one of --object SLIDE:ID and --given-in ROUND")
    label_set = LabelSet.open(folder)
    if given_in is not None:
        labels = _labels_of_round(label_set, given_in, who)
        source = f"withdrawn: round {given_in}"
    else:
        labels = _labels_of_objects(label_set, store, objects, who)
        source = "withdrawn: objects"
    return label_set.add(
        [replace(label, at="", is_withdrawn=True) for label in labels],
        source=source,
        source_sha256="",
        run=store.url,
        run_digest=store.read_run().digest,
    )


def _labels_of_round(label_set: LabelSet, number: int, who: str | None) -> list[Label]:
    numbers = [record.number for record in label_set.rounds()]
    if number not in numbers:
        raise UsageError(
            f"{label_set.folder} has no round {number}; it has the rounds {list_some(map(str, numbers))}"
        )
    of_round = set(label_set.labels_of_round(number))
    labels = [
        label
        for label in label_set.labels_by_annotator().values()
        if label in of_round and who in (None, label.who)
    ]
    if not labels:
        raise UsageError(f"no label of round {number} is current, so there is none to withdraw")
    return labels


def _labels_of_objects(
    label_set: LabelSet, store: RunStore, objects: Sequence[tuple[str, int]], who: str | None
) -> list[Label]:
    before = label_set.labels()
    matches = match_labels({key: labels[-1] for key, labels in before.by_object.items()}, store)
    by_object = label_set.labels(moved=matches.moved).by_object
    attempts = attempts_of(store)
    labels: list[Label] = []
    missing = []
    for slide_id, object_id in objects:
        given = by_object.get((slide_id, object_id, attempts.get(slide_id, "")), ())
        of_who = [label for label in given if who in (None, label.who)]
        labels += of_who
        if not of_who:
            others = ", ".join(f"{label.occurrence.shown} by {label.who}" for label in given)
            missing.append(f"{slide_id} #{object_id} ({others or 'no label'})")
    if missing:
        by = f" of {who}" if who else ""
        raise UsageError(
            f"{label_set.folder} has no label{by} to withdraw of "
            f"{strip_control_characters(list_some(missing, most=10, separator='; '))}; name the annotator with "
            "--annotator; nothing was withdrawn"
        )
    return labels
