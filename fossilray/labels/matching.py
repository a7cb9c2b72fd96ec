"""Objects of a run at the positions of labels: labels of earlier attempts, of other runs, and of missed objects.

Detections of two attempts have other numbers, but lie on the same pixels. The boxes of both are matched one to one, the
largest overlap first, from MATCH_IOU on. The um per pixel does not matter, because boxes are in level-0 px.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fossilray.core.boxes import box_iou
from fossilray.labels.label import Label, ObjectKey, Scan
from fossilray.labels.label_set import MATCH_IOU
from fossilray.store import RunStore
from fossilray.store.query.connection import connect, create_objects_view, query_table

_ROWS_AT_ONCE = 256
_SLIDES_AT_ONCE = 16

NO_SLIDE = "its slide is not in the run"
OTHER_SCAN = "its slide is another scan in the run"
UNKNOWN_SCAN = (
    "its round does not record the scan, and it is of another run; import the label set into a new one with --run of "
    "the run that it was labelled in, and use that"
)
NO_OBJECT = "no object of the run lies at its position"
STILL_MISSED = "the detector missed it in this run, too"


@dataclass(frozen=True)
class RunSlide:
    """A committed slide of a run."""

    slide_id: str
    attempt: str
    scan: Scan


@dataclass(frozen=True)
class LabelMatches:
    """Where the labelled objects of a label set are in a run."""

    exact: int
    """Number of labelled objects of the run's own attempts."""
    moved: Mapping[ObjectKey, ObjectKey]
    """Objects found at the position of labels of other attempts and of missed objects, by the key of the label."""
    without: Mapping[ObjectKey, str]
    """Labelled objects that the run does not have, with the reason."""

    @property
    def reasons(self) -> dict[str, int]:
        """Number of labelled objects without partner by reason."""
        return dict(sorted(Counter(self.without.values()).items()))


def match_labels(labels: Mapping[ObjectKey, Label], store: RunStore) -> LabelMatches:
    """Find the labelled objects, each with one label, in a run.

    A slide is the same if its scan is: by scan_id, else by size and bounds; a renamed slide is found by its scan_id.
    Labels of rounds that record no scan count only in the run they were given in.

    Raises:
        StoreError: the run cannot be read.
    """
    slides = slides_of(store)
    slide_of_scan = _unique_scans(slides.values())
    digest = store.read_run().digest
    exact = 0
    without: dict[ObjectKey, str] = {}
    to_match: dict[str, dict[str, list[ObjectKey]]] = {}
    for key, label in labels.items():
        slide = _slide_of(label, slides, slide_of_scan, digest)
        if isinstance(slide, str):
            without[key] = slide
        elif not label.is_missed and label.attempt == slide.attempt:
            exact += 1
        else:
            group = "" if label.is_missed else f"{label.slide_id} {label.attempt}"
            to_match.setdefault(slide.slide_id, {}).setdefault(group, []).append(key)
    moved: dict[ObjectKey, ObjectKey] = {}
    for slide_id, ids, boxes in _objects(store, sorted(to_match)):
        for keys in to_match[slide_id].values():
            partners = match_label_boxes(np.array([labels[key].box for key in keys]), boxes)
            for key, row in zip(keys, partners.tolist(), strict=True):
                if row >= 0:
                    moved[key] = (slide_id, int(ids[row]), slides[slide_id].attempt)
                else:
                    without[key] = STILL_MISSED if labels[key].is_missed else NO_OBJECT
    return LabelMatches(exact, moved, without)


def match_label_boxes(
    first: NDArray[np.integer], second: NDArray[np.integer], *, iou: float = MATCH_IOU
) -> NDArray[np.int64]:
    """Match boxes (n, 4) with boxes (m, 4) one to one, the largest overlap first.

    Returns:
        (n,) row of the second boxes; -1 without a partner. Of equal overlaps, the first by row counts.
    """
    rows, columns, overlaps = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0)]
    for begin in range(0, len(first), _ROWS_AT_ONCE):
        matrix = box_iou(first[begin : begin + _ROWS_AT_ONCE, None], second[None])
        row, column = np.nonzero(matrix >= iou)
        rows.append(row + begin)
        columns.append(column)
        overlaps.append(matrix[row, column])
    row, column, overlap = np.concatenate(rows), np.concatenate(columns), np.concatenate(overlaps)
    partner = np.full(len(first), -1, np.int64)
    taken = np.zeros(len(second), bool)
    for pair in np.argsort(-overlap, kind="stable").tolist():
        if partner[row[pair]] < 0 and not taken[column[pair]]:
            partner[row[pair]] = column[pair]
            taken[column[pair]] = True
    return partner


def slides_of(store: RunStore) -> dict[str, RunSlide]:
    """Return the committed slides of a run by slide_id, with the attempt and the scan of each."""
    table = store.summaries_table()
    names = [
        name for name in ("slide_id", "attempt", *Scan.__dataclass_fields__) if name in table.column_names
    ]
    return {
        row["slide_id"]: RunSlide(
            row["slide_id"],
            row["attempt"],
            Scan(**{name: row.get(name) for name in Scan.__dataclass_fields__}),
        )
        for row in table.select(names).to_pylist()
    }


def _slide_of(
    label: Label, slides: Mapping[str, RunSlide], by_scan: Mapping[str, RunSlide], digest: str
) -> RunSlide | str:
    """Return the slide of the run that shows the label's pixels, or the reason why there is none."""
    named = slides.get(label.slide_id)
    if named is not None:
        if label.attempt == named.attempt:
            return named
        is_same = label.scan.shows_same_pixels(named.scan)
        if is_same or (is_same is None and label.run_digest == digest):
            return named
    renamed = by_scan.get(label.scan.scan_id or "")
    if renamed is not None:
        return renamed
    if named is None:
        return NO_SLIDE
    return UNKNOWN_SCAN if label.scan.shows_same_pixels(named.scan) is None else OTHER_SCAN


def _unique_scans(slides: Iterable[RunSlide]) -> dict[str, RunSlide]:
    """Return slides by scan_id; scans that several slides show are left out."""
    slides_of_scan: dict[str, list[RunSlide]] = {}
    for slide in slides:
        if slide.scan.scan_id:
            slides_of_scan.setdefault(slide.scan.scan_id, []).append(slide)
    return {scan_id: same[0] for scan_id, same in slides_of_scan.items() if len(same) == 1}


def _objects(
    store: RunStore, slide_ids: Sequence[str]
) -> Iterable[tuple[str, NDArray[np.int64], NDArray[np.int64]]]:
    """Yield slide_id, object ids (m,) and boxes (m, 4) of slides."""
    files = store.committed_files()
    con = connect(store)
    for first in range(0, len(slide_ids), _SLIDES_AT_ONCE):
        batch = slide_ids[first : first + _SLIDES_AT_ONCE]
        create_objects_view(
            con, store, {slide_id: files[slide_id] for slide_id in batch if slide_id in files}
        )
        table = query_table(
            con,
            "SELECT slide_id, object_id, x_min, y_min, x_max, y_max FROM objects ORDER BY slide_id, object_id",
        )
        slides = np.array(table["slide_id"].to_pylist(), dtype=np.str_)
        numbers = _columns(table, "object_id", "x_min", "y_min", "x_max", "y_max")
        for slide_id in batch:
            of_slide = numbers[slides == slide_id]
            yield slide_id, of_slide[:, 0], of_slide[:, 1:]


def _columns(table: pa.Table, *names: str) -> NDArray[np.int64]:
    return np.stack([np.asarray(table[name].to_numpy(), np.int64) for name in names], axis=1)
