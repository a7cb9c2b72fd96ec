"""Boxes and crops for other programs: GeoJSON for QuPath, CSV, and image files.

What trains networks (COCO, YOLO, ImageFolder) and what carries vectors (AnnData, Parquet) are in files of their own
beside this.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from fossilray.analysis.export.selection import (
    CORNERS,
    SAVED_JPEG_QUALITY,
    Exported,
    ObjectSelection,
    file_stems,
)
from fossilray.core.atomic_files import atomic_text, make_folder, write_atomically
from fossilray.core.config.choices import BoxFormat
from fossilray.core.errors import UsageError
from fossilray.core.images import restore_aspect_ratio
from fossilray.core.records import SlideSummary
from fossilray.core.slide_names import check_slide_id
from fossilray.core.text import escape_formula
from fossilray.store import RunStore
from fossilray.store.arrays.jpeg_codec import encode_crop
from fossilray.store.query.connection import connect, load_crops, objects_where, query_table

QUPATH_CORNERS = tuple(f"qupath_{name}" for name in CORNERS)
"""Columns of the CSV: the box as QuPath counts it, from the corner of the scanned area."""

_CROPS_AT_ONCE = 512
_MEASURES = (
    *("score", "width_um", "height_um", "area_um2", "overlap", "opacity", "sharpness"),
    *("genus_score", "genus_entropy"),
)


def export_objects(
    store: RunStore,
    out: Path,
    *,
    form: BoxFormat = "geojson",
    where: str | None = None,
    slide: str | None = None,
    head: str | None = None,
    subtract_bounds: bool = True,
) -> Exported:
    """Write the boxes of a run, or of one slide of it.

    geojson: one FeatureCollection per slide, which QuPath 0.4 and later opens; into the folder `out`, or
    into the file `out` when it ends in .json or .geojson and there is one slide. Coordinates are level-0 pixels counted
    from the corner of the scanned area as QuPath does, or in OpenSlide's frame without subtract_bounds; it matters for
    MIRAX. csv: one file with the columns of `objects`, boxes in OpenSlide's frame as everywhere under these names,
    and QUPATH_CORNERS beside them.
    where: SQL condition on `objects`. head: name of predictions that are written along, where there are any: as the
    class of an annotation that QuPath shows, as columns of a CSV; `where` may name them too (`genus`, `genus_score`).

    Raises:
        QueryError: DuckDB refuses the condition.
        UsageError: the slide is not in the run, or `out` cannot be written.
        RunNotFound: the run has no predictions of this name.
    """
    chosen = ObjectSelection(store, where=where, slide=slide, head=head)
    if form == "csv":
        return _write_csv(out, chosen)
    return _write_geojson(out, chosen, subtract_bounds=subtract_bounds)


def save_crops(
    store: RunStore, *, where: str | None, out: Path, limit: int | None = None, square: bool = False
) -> int:
    """Write the crops of objects that meet an SQL condition as JPEG files into a folder; how many.

    A file is named <slide_id>-<object_id>.jpg, so it leads back to its row. Crops have the proportions of the fossil,
    or with `square` those of the stored square, to which a run stretches them.

    Raises:
        QueryError: DuckDB refuses the condition.
        UsageError: the folder cannot be written.
    """
    end = "" if limit is None else f" LIMIT {int(limit)}"
    con = connect(store, sql=where or "")
    found = query_table(
        con, f"SELECT slide_id, arrays, object_id, width_um, height_um FROM ({objects_where(where)}){end}"
    )
    as_stored = square or is_letterboxed(store)
    # Of all slides of the run, so that a crop's name does not depend on what else was chosen.
    stems = file_stems(store.committed())
    make_folder(out)
    for first in range(0, found.num_rows, _CROPS_AT_ONCE):
        part = found.slice(first, _CROPS_AT_ONCE)
        for row, crop in zip(part.to_pylist(), load_crops(store, part), strict=True):
            # What a table says of itself may be another name than its file's, and lead out of the folder.
            slide_id = check_slide_id(row["slide_id"])
            image = crop if as_stored else restore_aspect_ratio(crop, row["width_um"], row["height_um"])
            name = f"{stems.get(slide_id, slide_id)}-{row['object_id']:06d}.jpg"
            write_atomically(
                out / name, encode_crop(image, quality=SAVED_JPEG_QUALITY), sweep=False, lasting=False
            )
    return int(found.num_rows)


def is_letterboxed(store: RunStore) -> bool:
    """Whether the crops of a run have their true proportions already, on a ground that fills the square."""
    return bool(store.read_run().config["crops"].get("fit", "stretch") == "letterbox")


def _write_geojson(out: Path, chosen: ObjectSelection, *, subtract_bounds: bool) -> Exported:
    as_file = out.suffix.lower() in (".json", ".geojson")
    if as_file and len(chosen.slides) != 1:
        raise UsageError(
            f"{out} is one file and the run has {len(chosen.slides)} slides, but QuPath opens one slide's objects at a "
            "time; name a folder, or one slide"
        )
    if not as_file:
        make_folder(out)
    stems = file_stems(summary.slide_id for summary in chosen.slides)
    written = clipped = 0
    for one in chosen:
        path = out if as_file else out / f"{stems[one.summary.slide_id]}.geojson"
        origin = (one.summary.bounds_x, one.summary.bounds_y) if subtract_bounds else (0, 0)
        with atomic_text(path) as file:
            file.write('{"type":"FeatureCollection","features":[\n')
            written += write_joined(file, (_feature(row, origin) for row in one.table.to_pylist()))
            file.write("\n]}\n")
        clipped += one.clipped
    return Exported(written, clipped)


def _feature(row: dict[str, Any], origin: tuple[int, int]) -> dict[str, Any]:
    left, top = row["x_min"] - origin[0], row["y_min"] - origin[1]
    right, bottom = row["x_max"] - origin[0], row["y_max"] - origin[1]
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


def _write_csv(out: Path, chosen: ObjectSelection) -> Exported:
    written = clipped = 0
    with atomic_text(out, newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*chosen.columns, *QUPATH_CORNERS])
        for one in chosen:
            for row in one.table.to_pylist():
                values = [
                    escape_formula(value) if isinstance(value, str) else value for value in row.values()
                ]
                writer.writerow([*values, *_in_qupath(row, one.summary)])
            written += one.table.num_rows
            clipped += one.clipped
    return Exported(written, clipped)


def _in_qupath(row: dict[str, Any], summary: SlideSummary) -> Iterator[int]:
    for name, origin in zip(CORNERS, (summary.bounds_x, summary.bounds_y) * 2, strict=True):
        yield row[name] - origin


def write_joined(file: IO[str], items: Iterable[dict[str, Any]]) -> int:
    """Write items of a JSON array, one a line, without holding them all; return how many there were."""
    count = 0
    for count, item in enumerate(items, start=1):
        if count > 1:
            file.write(",\n")
        json.dump(item, file, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return count
