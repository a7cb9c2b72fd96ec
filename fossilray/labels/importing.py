"""From labels that were handed in to a round of a label set, if every one of them names an object."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from fossilray.core.errors import FossilrayError, UsageError
from fossilray.core.text import list_some, strip_control_characters
from fossilray.core.whole_files import whole_folder
from fossilray.labels.label_set import Conflict, Label, LabelSet, RoundRecord, is_label_set
from fossilray.labels.sources import GivenLabel, parse_labels
from fossilray.store import RunStore
from fossilray.store.query.connection import connect, create_objects_view, query_table


@dataclass(frozen=True)
class Imported:
    """What an import brought."""

    round: RoundRecord | None
    """None: there was nothing new."""
    already: int
    """Labels that the same person had given before."""
    changed: int
    """Labels that correct an earlier one of the same person."""
    unlabelled: int
    automatic: int
    conflicts: tuple[Conflict, ...]
    """All of the label set as it is now."""


def import_labels(source: Path, store: RunStore, into: Path, *, who: str, settles: bool = False) -> Imported:
    """Commit the labels of a source as a new round; nothing is written unless all of them name objects of the run.

    who: whose labels they are, where the source itself does not say. settles: they overrule what anybody said of
    these objects before.

    Raises:
        UsageError: the source cannot be read, contradicts itself, or labels what is no object of the run.
    """
    given = parse_labels(source)
    labels = _find_objects(source, store, given.labels, who=strip_control_characters(who.strip()))
    add = functools.partial(
        LabelSet.add,
        source=strip_control_characters(given.name),
        source_sha256=given.sha256,
        run=store.url,
        run_digest=store.read_run().digest,
        settles=settles,
    )
    record = None if into.exists() else _begin(into, labels, add)
    already = changed = 0
    book = LabelSet.open_or_create(into)
    if record is None:
        book.tidy()
        before = book.said_by()
        new = [one for one in labels if settles or before.get((one.key, one.who)) != one.genus]
        already = len(labels) - len(new)
        changed = sum((one.key, one.who) in before for one in new)
        record = add(book, new) if new else None
    return Imported(
        round=record,
        already=already,
        changed=changed,
        unlabelled=given.unlabelled,
        automatic=given.automatic,
        conflicts=book.labels().conflicts,
    )


def _begin(into: Path, labels: Sequence[Label], add: Callable[..., RoundRecord]) -> RoundRecord | None:
    """The first round of a new set, which appears with it in one act; None: another import began the set first."""
    try:
        with whole_folder(into) as made:
            book = LabelSet.open_or_create(made)
            record = add(book, labels)
            book.tidy()
    except FossilrayError:
        if is_label_set(into):
            return None
        raise
    return record


def _find_objects(source: Path, store: RunStore, given: Sequence[GivenLabel], *, who: str) -> list[Label]:
    if not given:
        raise UsageError(
            f"{source} holds no label yet; sort images into one folder a genus, or fill in the column genus"
        )
    con = connect(store)
    files = store.committed_files()
    named = {one.slide_id for one in given}
    create_objects_view(con, store, {slide_id: path for slide_id, path in files.items() if slide_id in named})
    con.register(
        "given",
        pa.table(
            {
                "slide_id": pa.array([one.slide_id for one in given], pa.string()),
                "object_id": pa.array([one.object_id for one in given], pa.int32()),
                "given_row": pa.array(range(len(given)), pa.int32()),
            }
        ),
    )
    found = query_table(
        con,
        "SELECT given_row, x_min, y_min, x_max, y_max FROM objects JOIN given USING (slide_id, object_id) "
        "ORDER BY given_row",
    ).to_pylist()
    boxes = {row["given_row"]: (row["x_min"], row["y_min"], row["x_max"], row["y_max"]) for row in found}
    absent = [one for row, one in enumerate(given) if row not in boxes]
    if absent:
        slides = sorted({one.slide_id for one in absent} - set(files))
        lacking = f", among them all of {len(slides)} slides that are not there" if slides else ""
        named_ones = (
            strip_control_characters(f"{one.slide_id} #{one.object_id} ({one.place})") for one in absent
        )
        raise UsageError(
            f"{source} labels {len(absent)} objects that {store.url} does not hold{lacking}: "
            f"{list_some(named_ones, most=10, separator='; ')}; nothing was imported, "
            "name the run they were taken from, or remove them"
        )
    attempts = attempts_of(store)
    return [
        Label(one.slide_id, one.object_id, attempts[one.slide_id], one.genus, one.who or who, boxes[row])
        for row, one in enumerate(given)
    ]


def attempts_of(store: RunStore) -> dict[str, str]:
    """The attempt that made the objects of each committed slide."""
    table = store.summaries_table()
    return dict(zip(table["slide_id"].to_pylist(), table["attempt"].to_pylist(), strict=True))
