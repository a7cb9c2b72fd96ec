"""Boxes and crops for other programs: GeoJSON for QuPath, COCO, CSV, and image files.

What trains networks (YOLO, ImageFolder) and what carries vectors (AnnData) are in files of their own beside this.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import pyarrow as pa

from fossilray.errors import UsageError
from fossilray.query import connect, fetch, load_crops, objects_where, show_objects
from fossilray.records import SlideSummary
from fossilray.store import RunStore
from fossilray.store.codec import encode_crop
from fossilray.store.layout import check_slide_id
from fossilray.store.listed_answers import ListedAnswers, choose_fitting
from fossilray.tables import spreadsheet_safe
from fossilray.whole_files import make_folder, whole_text, write_whole

if TYPE_CHECKING:
    from fossilray.query import Connection

BoxForm = Literal["geojson", "coco", "csv"]

SAVED_JPEG_QUALITY = 95
"""Of crops saved as files: above the store's own 90, so that saving costs nothing that can be seen."""

_CROPS_AT_ONCE = 512
_MEASURES = (
    *("score", "width_um", "height_um", "area_um2", "overlap", "opacity", "sharpness"),
    *("genus_score", "genus_entropy"),
)


def export_objects(
    store: RunStore,
    out: Path,
    *,
    form: BoxForm = "geojson",
    where: str | None = None,
    slide: str | None = None,
    head: str | None = None,
    subtract_bounds: bool = True,
) -> int:
    """Write the boxes of a run, or of one slide of it; how many objects were written.

    geojson: one FeatureCollection per slide, which QuPath 0.4 and later opens; into the folder `out`, or
    into the file `out` when it ends in .json or .geojson and there is one slide. coco and csv: one file.
    where: SQL condition on `objects`. head: name of predictions that are written along, where there are any: as the
    class of an annotation that QuPath shows, as columns of a CSV, or as categories of COCO; `where` may name them
    too (`genus`, `genus_score`). Coordinates are level-0 pixels, counted from the corner of the scanned
    area as QuPath does, or in OpenSlide's frame without subtract_bounds; it matters for MIRAX.

    Raises:
        QueryError: DuckDB refuses the condition.
        UsageError: the slide is not in the run, or `out` cannot be written.
        RunNotFound: the run has no predictions of this name.
    """
    chosen = choose_slides(store, slide)
    genera = None if head is None else choose_fitting(store, head, chosen)
    con = connect(store, sql=where or "")
    per_slide = objects_by_slide(con, store, chosen, where, genera, subtract_bounds=subtract_bounds)
    if form == "coco":
        return _write_coco(out, chosen, per_slide, genera, subtract_bounds=subtract_bounds)
    if form == "csv":
        return _write_csv(out, per_slide)
    return _write_geojson(out, chosen, per_slide)


def save_crops(store: RunStore, *, where: str | None, out: Path, limit: int | None = None) -> int:
    """Write the crops of objects that meet an SQL condition as JPEG files into a folder; how many.

    A file is named <slide_id>-<object_id>.jpg, so it leads back to its row.

    Raises:
        QueryError: DuckDB refuses the condition.
        UsageError: the folder cannot be written.
    """
    end = "" if limit is None else f" LIMIT {int(limit)}"
    con = connect(store, sql=where or "")
    found = fetch(con, f"SELECT slide_id, arrays, object_id FROM ({objects_where(where)}){end}")
    make_folder(out)
    for first in range(0, found.num_rows, _CROPS_AT_ONCE):
        part = found.slice(first, _CROPS_AT_ONCE)
        for row, crop in zip(part.to_pylist(), load_crops(store, part), strict=True):
            # What a table says of itself may be another name than its file's, and lead out of the folder.
            name = f"{check_slide_id(row['slide_id'])}-{row['object_id']:06d}.jpg"
            write_whole(out / name, encode_crop(crop, quality=SAVED_JPEG_QUALITY), sweep=False, lasting=False)
    return int(found.num_rows)


def choose_slides(store: RunStore, slide: str | None) -> list[SlideSummary]:
    """All committed slides, or one.

    Raises:
        UsageError: it is not in the run.
    """
    summaries = store.summaries()
    if slide is None:
        return summaries
    chosen = [summary for summary in summaries if summary.slide_id == slide]
    if not chosen:
        raise UsageError(f"{slide} is not a committed slide of {store.url}; `fossilray query` lists slide_id")
    return chosen


def objects_by_slide(
    con: Connection,
    store: RunStore,
    slides: list[SlideSummary],
    where: str | None,
    genera: ListedAnswers | None,
    *,
    subtract_bounds: bool,
) -> Iterator[tuple[SlideSummary, pa.Table]]:
    """Each slide with its objects, one slide in memory at a time."""
    # A wrong condition must be refused even if there is no slide, and before any file is begun.
    show_objects(con, store, {}, genera=genera)
    fetch(con, f"{objects_where(where)} LIMIT 0")
    return _read_slides(con, store, slides, where, genera, subtract_bounds=subtract_bounds)


def _read_slides(
    con: Connection,
    store: RunStore,
    slides: list[SlideSummary],
    where: str | None,
    genera: ListedAnswers | None,
    *,
    subtract_bounds: bool,
) -> Iterator[tuple[SlideSummary, pa.Table]]:
    files = store.committed_files()
    for summary in slides:
        x, y = (summary.bounds_x, summary.bounds_y) if subtract_bounds else (0, 0)
        # A compacted dataset has no file for a slide without objects.
        file = {one: files[one] for one in (summary.slide_id,) if one in files}
        show_objects(con, store, file, genera=genera)
        moved = (
            f"x_min - {x}::INTEGER AS x_min, y_min - {y}::INTEGER AS y_min, "
            f"x_max - {x}::INTEGER AS x_max, y_max - {y}::INTEGER AS y_max"
        )
        yield summary, fetch(con, f"SELECT * REPLACE ({moved}) FROM ({objects_where(where)})")


def _write_geojson(
    out: Path, slides: list[SlideSummary], per_slide: Iterator[tuple[SlideSummary, pa.Table]]
) -> int:
    as_file = out.suffix.lower() in (".json", ".geojson")
    if as_file and len(slides) != 1:
        raise UsageError(
            f"{out} is one file and the run has {len(slides)} slides, but QuPath opens one slide's objects at a "
            "time; name a folder, or one slide"
        )
    if not as_file:
        make_folder(out)
    written = 0
    for summary, table in per_slide:
        name = f"{check_slide_id(summary.slide_id)}.geojson"
        with whole_text(out if as_file else out / name) as file:
            file.write('{"type":"FeatureCollection","features":[\n')
            written += _write_joined(file, (_feature(row) for row in table.to_pylist()))
            file.write("\n]}\n")
    return written


def _feature(row: dict[str, Any]) -> dict[str, Any]:
    left, top, right, bottom = row["x_min"], row["y_min"], row["x_max"], row["y_max"]
    genus = row.get("genus")
    # Closed ring, positive area as RFC 7946 counts it.
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "objectType": "detection",
            "name": f"{row['slide_id']} #{row['object_id']}",
            **({} if genus is None else {"classification": {"name": genus}}),
            "measurements": {name: row[name] for name in _MEASURES if row.get(name) is not None},
        },
    }


def _write_coco(
    out: Path,
    slides: list[SlideSummary],
    per_slide: Iterator[tuple[SlideSummary, pa.Table]],
    genera: ListedAnswers | None,
    *,
    subtract_bounds: bool,
) -> int:
    # 1 is whatever has no genus.
    numbers = {genus: number for number, genus in enumerate(classes_of(genera), start=2)}
    images = [
        {
            "id": number,
            "file_name": summary.path,
            "width": summary.bounds_width if subtract_bounds else summary.width,
            "height": summary.bounds_height if subtract_bounds else summary.height,
            "slide_id": summary.slide_id,
        }
        for number, summary in enumerate(slides, start=1)
    ]
    with whole_text(out) as file:
        file.write('{"info":{"description":"Objects found by fossilray"},\n"images":[\n')
        _write_joined(file, iter(images))
        file.write('\n],\n"categories":[\n')
        named = [("object", 1), *numbers.items()]
        _write_joined(
            file, ({"id": number, "name": name, "supercategory": "palynomorph"} for name, number in named)
        )
        file.write('\n],\n"annotations":[\n')
        written = _write_joined(file, _annotations(per_slide, numbers))
        file.write("\n]}\n")
    return written


def _annotations(
    per_slide: Iterator[tuple[SlideSummary, pa.Table]], numbers: Mapping[str, int]
) -> Iterator[dict[str, Any]]:
    number = 0
    for image, (_, table) in enumerate(per_slide, start=1):
        for row in table.to_pylist():
            number += 1
            width, height = row["x_max"] - row["x_min"], row["y_max"] - row["y_min"]
            yield {
                "id": number,
                "image_id": image,
                "category_id": numbers.get(row.get("genus"), 1),
                "bbox": [row["x_min"], row["y_min"], width, height],
                "area": width * height,
                "iscrowd": 0,
                "segmentation": [],
                "score": row["score"],
                "object_id": row["object_id"],
            }


def _write_csv(out: Path, per_slide: Iterator[tuple[SlideSummary, pa.Table]]) -> int:
    written = 0
    with whole_text(out, newline="") as file:
        writer = csv.writer(file)
        for number, (_, table) in enumerate(per_slide):
            if not number:
                writer.writerow(table.column_names)
            for row in table.to_pylist():
                writer.writerow(
                    spreadsheet_safe(value) if isinstance(value, str) else value for value in row.values()
                )
            written += table.num_rows
    return written


def _write_joined(file: IO[str], items: Iterator[dict[str, Any]]) -> int:
    """Items of a JSON array, one a line, without holding them all; how many there were."""
    count = 0
    for count, item in enumerate(items, start=1):
        if count > 1:
            file.write(",\n")
        json.dump(item, file, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return count


def classes_of(genera: ListedAnswers | None) -> tuple[str, ...]:
    """The classes of the head that gave predictions; none without any."""
    return () if genera is None else tuple((genera.answers.record.head or {}).get("classes", ()))


@contextmanager
def writing_to(out: Path) -> Iterator[None]:
    """Within it, a file that cannot be written is a UsageError that names `out`."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}; choose another place with --out") from None
