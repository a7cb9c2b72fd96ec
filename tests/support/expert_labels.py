"""Label sets of objects of a run, as an expert gives them, without an import."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fossilray.labels.label import Label
from fossilray.labels.label_set import LabelSet
from fossilray.labels.matching import slides_of
from fossilray.labels.occurrence import Occurrence
from fossilray.labels.occurrence_cells import BOX_COLUMNS, occurrence_of_cell
from fossilray.store import RunStore
from fossilray.store.query.connection import run_query


def stated(name: str, **fields: Any) -> Occurrence:
    """What an expert writes, with further fields of the label."""
    written = occurrence_of_cell(name)
    assert written is not None
    return Occurrence(**{**vars(written), **fields})


def label_objects(
    store: RunStore,
    folder: Path,
    labels: Iterable[tuple[str, int, Occurrence | str]],
    *,
    who: str = "Ada",
    attempt: str | None = None,
) -> Path:
    """Add a round of (slide_id, object_id, label) and return the folder of the label set.

    attempt: an earlier one of slides of the same pixels, with the boxes that the objects have now.
    """
    slides = slides_of(store)
    boxes = {
        (row["slide_id"], row["object_id"]): tuple(row[side] for side in BOX_COLUMNS)
        for row in run_query(
            store, f"SELECT slide_id, object_id, {', '.join(BOX_COLUMNS)} FROM objects"
        ).to_pylist()
    }
    rows = [
        Label(
            slide_id,
            object_id if attempt is None else 90_000 + object_id,
            attempt or slides[slide_id].attempt,
            boxes[slide_id, object_id],
            who,
            stated(given) if isinstance(given, str) else given,
            slides[slide_id].scan,
            run_digest=store.read_run().digest,
        )
        for slide_id, object_id, given in labels
    ]
    LabelSet.open_or_create(folder).add(
        rows, source="drawn", source_sha256="", run=store.url, run_digest=store.read_run().digest
    )
    return folder
