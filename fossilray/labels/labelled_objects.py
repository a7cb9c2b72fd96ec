"""The objects of a run that the labels of a source name, with box, attempt and scan; what is not there is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from fossilray.core.errors import UsageError
from fossilray.core.text import counted, list_some, strip_control_characters
from fossilray.labels.label import Box, Label, Scan
from fossilray.labels.matching import RunSlide, slides_of
from fossilray.labels.sources import ParsedLabel
from fossilray.store import RunStore
from fossilray.store.query.connection import connect, create_objects_view, query_table


def find_labelled_objects(
    source: Path, store: RunStore, parsed: Sequence[ParsedLabel], *, who: str
) -> list[Label]:
    """Return the labels with the box, attempt and scan of their objects.

    Labels with another attempt than the run's are of another run, or of a slide that was reprocessed: they keep their
    own box and scan, by which `matching` finds them. who: the annotator where the source names none.

    Raises:
        UsageError: the source has no label, or the run does not hold an object or slide that it names.
    """
    if not parsed:
        raise UsageError(
            f"{source} holds no label yet; sort images into one folder per taxon, or fill in the column genus"
        )
    slides = slides_of(store)
    by_scan = {slide.scan.scan_id: slide for slide in slides.values() if slide.scan.scan_id}
    slide_of = [slides.get(label.slide_id) or by_scan.get(label.scan.scan_id or "") for label in parsed]
    boxes = _boxes(store, [label for label in parsed if label.object_id is not None])
    missing = [
        label
        for label, slide in zip(parsed, slide_of, strict=True)
        if slide is None or (_is_own(label, slide) and _key(label) not in boxes)
    ]
    if missing:
        raise _not_held(source, store, missing, slides)
    digest = store.read_run().digest
    labels = []
    for label, slide in zip(parsed, slide_of, strict=True):
        assert slide is not None, "labels of other slides are missing"
        box = _checked_box(source, label, slide, boxes.get(_key(label)))
        labels.append(
            Label(
                label.slide_id,
                label.object_id,
                label.attempt or slide.attempt,
                box,
                label.who or who,
                label.occurrence,
                _scan(source, label, slide, digest=digest),
                label.at,
                digest,
                chosen_by=label.chosen_by,
            )
        )
    return labels


def _is_own(label: ParsedLabel, slide: RunSlide) -> bool:
    """Whether the label is of an object of the run's own attempt."""
    return label.object_id is not None and label.attempt in ("", slide.attempt)


def _key(label: ParsedLabel) -> tuple[str, int | None]:
    return (label.slide_id, label.object_id)


def _boxes(store: RunStore, labels: Sequence[ParsedLabel]) -> Mapping[tuple[str, int | None], Box]:
    """Return the boxes of the objects that labels name and the run holds."""
    con = connect(store)
    files = store.committed_files()
    named = {label.slide_id for label in labels}
    create_objects_view(con, store, {slide_id: path for slide_id, path in files.items() if slide_id in named})
    con.register(
        "parsed",
        pa.table(
            {
                "slide_id": pa.array([label.slide_id for label in labels], pa.string()),
                "object_id": pa.array([label.object_id for label in labels], pa.int32()),
            }
        ),
    )
    rows = query_table(
        con,
        "SELECT DISTINCT slide_id, object_id, x_min, y_min, x_max, y_max "
        "FROM objects JOIN parsed USING (slide_id, object_id)",
    ).to_pylist()
    return {
        (row["slide_id"], row["object_id"]): (row["x_min"], row["y_min"], row["x_max"], row["y_max"])
        for row in rows
    }


def _checked_box(source: Path, label: ParsedLabel, slide: RunSlide, box: Box | None) -> Box:
    """Return the box of a label's object, which must be that of the source where it states one."""
    if _is_own(label, slide):
        assert box is not None, "labels of other objects are missing"
        if label.box not in (None, box):
            raise UsageError(
                f"{source}: {label.position}: the box of {label.shown} is {label.box} here and {box} in the run, so "
                "the label is of another run; give its attempt too (`fossilray labels export`), or remove the box"
            )
        return box
    if label.box is None:
        raise UsageError(
            f"{source}: {label.position}: {label.shown} is of the attempt {label.attempt!r:.40}, which the run does "
            "not hold; give its box as well, or remove the attempt if the object_id is that of this run"
        )
    width, height = slide.scan.width, slide.scan.height
    if width is not None and height is not None:
        x_min, y_min, x_max, y_max = label.box
        if x_min < 0 or y_min < 0 or x_max > width or y_max > height:
            raise UsageError(
                f"{source}: {label.position}: the box {label.box} is outside the slide {slide.slide_id} of "
                f"{width} x {height} px; boxes are in level-0 px"
            )
    return label.box


def _scan(source: Path, label: ParsedLabel, slide: RunSlide, *, digest: str) -> Scan:
    """Return the scan of a label: that of the source, else that of the run's slide."""
    if label.scan.is_known and not _is_own(label, slide):
        return label.scan
    if label.attempt not in ("", slide.attempt) and label.run_digest != digest:
        raise UsageError(
            f"{source}: {label.position}: {label.shown} is of another run, and the scan that it lies on is not "
            "recorded; give --run of the run that it was labelled in, and use the new label set with any run of the "
            "same scans"
        )
    return slide.scan


def _not_held(
    source: Path, store: RunStore, missing: Sequence[ParsedLabel], slides: Mapping[str, RunSlide]
) -> UsageError:
    lost = sorted({label.slide_id for label in missing} - set(slides))
    lacking = f", among them all objects of {counted(len(lost), 'slide')} that it lacks" if lost else ""
    names = (strip_control_characters(f"{label.shown} ({label.position})") for label in missing)
    return UsageError(
        f"{source} labels {len(missing)} objects that {store.url} does not hold{lacking}: "
        f"{list_some(names, most=10, separator='; ')}; nothing was imported, "
        "name the run that they were taken from, or remove them"
    )
