"""Import of labels: the labels of a source become a round of a label set if all of them name objects."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from fossilray.core.atomic_files import atomic_folder
from fossilray.core.errors import FossilrayError, UsageError
from fossilray.core.text import counted, list_some, strip_control_characters
from fossilray.labels.label_set import Conflict, Label, LabelSet, RoundRecord, is_label_set
from fossilray.labels.sources import ParsedLabel, parse_labels
from fossilray.store import RunStore
from fossilray.store.query.connection import connect, create_objects_view, query_table


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
    conflicts: tuple[Conflict, ...]
    """All conflicts of the label set after the import."""


def import_label_round(
    source: Path, store: RunStore, into: Path, *, who: str, overrides: bool = False
) -> ImportReport:
    """Commit the labels of a source as a new round, if all of them name objects of the run.

    who: the annotator of labels for which the source does not name one. overrides: the labels replace those of all
    annotators for their objects.

    Raises:
        UsageError: the source cannot be read, contradicts itself, or labels an object that the run does not hold.
    """
    parsed = parse_labels(source)
    labels = _find_objects(source, store, parsed.labels, who=strip_control_characters(who.strip()))
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
        new = [label for label in labels if overrides or before.get((label.key, label.who)) != label.genus]
        already = len(labels) - len(new)
        changed = sum((label.key, label.who) in before for label in new)
        record = add(label_set, new) if new else None
    return ImportReport(
        round=record,
        already=already,
        changed=changed,
        unlabelled=parsed.unlabelled,
        automatic=parsed.automatic,
        conflicts=label_set.labels().conflicts,
    )


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


def _find_objects(source: Path, store: RunStore, parsed: Sequence[ParsedLabel], *, who: str) -> list[Label]:
    if not parsed:
        raise UsageError(
            f"{source} holds no label yet; sort images into one folder per genus, or fill in the column genus"
        )
    con = connect(store)
    files = store.committed_files()
    named = {label.slide_id for label in parsed}
    create_objects_view(con, store, {slide_id: path for slide_id, path in files.items() if slide_id in named})
    con.register(
        "parsed",
        pa.table(
            {
                "slide_id": pa.array([label.slide_id for label in parsed], pa.string()),
                "object_id": pa.array([label.object_id for label in parsed], pa.int32()),
                "label_row": pa.array(range(len(parsed)), pa.int32()),
            }
        ),
    )
    rows = query_table(
        con,
        "SELECT label_row, x_min, y_min, x_max, y_max FROM objects JOIN parsed USING (slide_id, object_id) "
        "ORDER BY label_row",
    ).to_pylist()
    boxes = {row["label_row"]: (row["x_min"], row["y_min"], row["x_max"], row["y_max"]) for row in rows}
    missing = [label for row, label in enumerate(parsed) if row not in boxes]
    if missing:
        slides = sorted({label.slide_id for label in missing} - set(files))
        lacking = (
            f", among them all objects of {counted(len(slides), 'slide')} that it lacks" if slides else ""
        )
        names = (
            strip_control_characters(f"{label.slide_id} #{label.object_id} ({label.position})")
            for label in missing
        )
        raise UsageError(
            f"{source} labels {len(missing)} objects that {store.url} does not hold{lacking}: "
            f"{list_some(names, most=10, separator='; ')}; nothing was imported, "
            "name the run that they were taken from, or remove them"
        )
    attempts = attempts_of(store)
    return [
        Label(
            label.slide_id,
            label.object_id,
            attempts[label.slide_id],
            label.genus,
            label.who or who,
            boxes[row],
        )
        for row, label in enumerate(parsed)
    ]


def attempts_of(store: RunStore) -> dict[str, str]:
    """Return the attempt that made the objects of each committed slide."""
    table = store.summaries_table()
    return dict(zip(table["slide_id"].to_pylist(), table["attempt"].to_pylist(), strict=True))
