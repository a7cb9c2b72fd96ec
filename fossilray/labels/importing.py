"""Import of labels: the labels of a source become a round of a label set if all of them name objects."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fossilray.core.atomic_files import atomic_folder
from fossilray.core.config.choices import PredictedNames
from fossilray.core.errors import FossilrayError, UsageError
from fossilray.core.text import counted, strip_control_characters
from fossilray.labels.audit.audit_record import is_audit, read_audit
from fossilray.labels.label import Label
from fossilray.labels.label_set import Conflict, LabelSet, is_label_set
from fossilray.labels.labelled_objects import find_labelled_objects
from fossilray.labels.matching import match_labels
from fossilray.labels.rounds import RoundRecord
from fossilray.labels.sources import ParsedLabel, parse_labels
from fossilray.labels.spelling import Spelling, check_spelling
from fossilray.store import RunStore


@dataclass(frozen=True)
class ImportReport:
    """Result of an import."""

    round: RoundRecord | None
    """None: the source has no new label."""
    already: int
    """Labels that the same annotator gave before."""
    changed: int
    """Labels that replace an earlier one of the same annotator."""
    unlabelled: int
    automatic: int
    predicted: int
    """Names that a head gave, left out."""
    missed: int
    """Labels of objects that the detector missed."""
    moved: int
    """Labelled objects of other attempts or runs, and missed ones, that were found in the run by their position."""
    without: Mapping[str, int]
    """Labelled objects that the run does not have, by the reason; their labels are kept."""
    conflicts: tuple[Conflict, ...]
    """All conflicts of the label set after the import."""
    situations: tuple[Conflict, ...]
    """All objects of the label set on whose situation annotators differ."""


def import_label_round(
    source: Path,
    store: RunStore,
    into: Path,
    *,
    who: str,
    overrides: bool = False,
    predicted: PredictedNames = "refuse",
    spelling: Spelling | None = None,
) -> ImportReport:
    """Commit the labels of a source as a new round, if all of them name objects of the run.

    Args:
        who: the annotator of labels for which the source does not name one.
        overrides: the labels replace those of all annotators for their objects.
        predicted: what to do with names that the source marks as a head's; `checked`: they are labels of the
            annotator, who has looked at each.
        spelling: names to accept and to replace; None: all, as they are.

    Raises:
        UsageError: the source cannot be read, contradicts itself, labels an object that the run does not hold, has
            predicted names, or names that are not known or spelled in two ways.
    """
    parsed = parse_labels(source)
    names_by_head = sum(label.is_predicted for label in parsed.labels)
    given = _without_predictions(source, _marked(source, parsed.labels), predicted)
    if is_label_set(source) and into.exists() and source.resolve() == into.resolve():
        raise UsageError(f"{source} cannot be imported into itself; name another label set with --to")
    given = check_spelling(source, given, into, spelling or Spelling())
    labels = find_labelled_objects(source, store, given, who=strip_control_characters(who.strip()))
    add = functools.partial(
        LabelSet.add,
        source=strip_control_characters(parsed.name),
        source_sha256=parsed.sha256,
        run=store.url,
        run_digest=store.read_run().digest,
        overrides=overrides,
    )
    record = None if into.exists() else _create_with_round(into, labels, add)
    already = changed = 0
    label_set = LabelSet.open_or_create(into)
    if record is None:
        label_set.tidy()
        before = label_set.labels_by_annotator()
        new = [
            label for label in labels if overrides or not _is_known(label, before.get((label.key, label.who)))
        ]
        already = len(labels) - len(new)
        changed = sum((label.key, label.who) in before for label in new)
        record = add(label_set, new) if new else None
    matches = match_labels({label.key: label for label in labels}, store)
    merged = label_set.labels()
    return ImportReport(
        round=record,
        already=already,
        changed=changed,
        unlabelled=parsed.unlabelled,
        automatic=parsed.automatic,
        predicted=names_by_head if predicted == "leave-out" else 0,
        missed=sum(label.is_missed for label in labels),
        moved=len(matches.moved),
        without=matches.reasons,
        conflicts=tuple(merged.conflicts.values()),
        situations=merged.situations,
    )


def _marked(source: Path, labels: Sequence[ParsedLabel]) -> Sequence[ParsedLabel]:
    """Return the labels with the mark of an audit, if the source is its folder, on those of the objects it drew."""
    if not is_audit(source):
        return labels
    audit = read_audit(source)
    drawn = set(audit.objects)
    return [
        replace(label, chosen_by=audit.record.chosen_by)
        if (label.slide_id, label.object_id) in drawn
        else label
        for label in labels
    ]


def _without_predictions(
    source: Path, labels: Sequence[ParsedLabel], predicted: PredictedNames
) -> Sequence[ParsedLabel]:
    """Return the labels without predicted names, or with them if they were checked.

    Raises:
        UsageError: there are such names, and they are refused.
    """
    of_head = [label for label in labels if label.is_predicted]
    if not of_head or predicted == "checked":
        return labels
    if predicted == "refuse":
        first = of_head[0]
        raise UsageError(
            f"{source} has {counted(len(of_head), 'name')} that a classifier predicted, the first "
            f"{first.occurrence.shown} of {first.shown} ({first.position}); a prediction is no label. Import the names "
            "that a person gave or changed with --predicted leave-out, or, if a person has looked at each of them, all "
            "with --predicted checked; in a table, `expert` in name_source marks a row that was checked"
        )
    return [label for label in labels if not label.is_predicted]


def _is_known(label: Label, before: Label | None) -> bool:
    return before is not None and before.occurrence == label.occurrence


def _create_with_round(
    into: Path, labels: Sequence[Label], add: Callable[..., RoundRecord]
) -> RoundRecord | None:
    """Create a label set together with its first round; None if another import created it first."""
    try:
        with atomic_folder(into) as folder:
            label_set = LabelSet.open_or_create(folder)
            record = add(label_set, labels)
            label_set.tidy()
    except FossilrayError:
        if is_label_set(into):
            return None
        raise
    return record
