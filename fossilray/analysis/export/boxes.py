"""Export of boxes as GeoJSON for QuPath and as CSV, and of crops as image files."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from fossilray.analysis.export.selection import (
    CORNERS,
    SAVED_JPEG_QUALITY,
    ExportResult,
    ObjectSelection,
    file_stems,
)
from fossilray.core.atomic_files import atomic_text, make_folder, write_atomically
from fossilray.core.config.choices import BoxFormat
from fossilray.core.errors import UsageError
from fossilray.core.images import restore_aspect_ratio
from fossilray.core.name_source import NAME_SOURCE
from fossilray.core.records import SlideSummary
from fossilray.core.slide_names import check_slide_id
from fossilray.core.text import escape_formula
from fossilray.store import RunStore
from fossilray.store.arrays.jpeg_codec import encode_crop
from fossilray.store.query.connection import connect, load_crops, objects_where, query_table

QUPATH_CORNERS = tuple(f"qupath_{name}" for name in CORNERS)
"""Columns of the CSV: the box in QuPath's frame, whose origin is the corner of the scanned area."""

_BATCH_CROPS = 512
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
    slides: Collection[str] = (),
    head: str | None = None,
    subtract_bounds: bool = True,
) -> ExportResult:
    """Write the boxes of a run, or of some of its slides.

    Args:
        out: geojson: a folder, or for one slide a file ending in .json or .geojson. csv: a file.
        form: geojson: one FeatureCollection per slide, for QuPath 0.4 and later. csv: one file with the columns of
            `objects`, whose boxes are in OpenSlide's frame, and QUPATH_CORNERS.
        where: SQL condition on `objects`, and on `genus` and `genus_score` of the predictions.
        slides: slide_ids of the slides to export; none: all.
        head: name of the predictions to write, as the classification of a detection in QuPath or as columns of the CSV;
            None: the newest; `none`: none.
        subtract_bounds: geojson: coordinates are level-0 px from the corner of the scanned area, as in QuPath; False:
            in OpenSlide's frame. The frames differ for MIRAX.

    Raises:
        QueryError: DuckDB refuses the condition.
        UsageError: a slide is not in the run, or `out` cannot be written.
        RunNotFound: the run has no predictions of this name.
    """
    selection = ObjectSelection(store, where=where, slides=slides, head=head)
    if form == "csv":
        return _write_csv(out, selection)
    return _write_geojson(out, selection, subtract_bounds=subtract_bounds)


def save_crops(
    store: RunStore, *, where: str | None, out: Path, limit: int | None = None, square: bool = False
) -> int:
    """Write crops of objects that meet an SQL condition as JPEG files into a folder; return their number.

    Files are named <slide_id>-<object_id>.jpg. Crops have the proportions of the object, or with `square` they are as
    stored.

    Raises:
        QueryError: DuckDB refuses the condition.
        UsageError: the folder cannot be written.
    """
    end = "" if limit is None else f" LIMIT {int(limit)}"
    con = connect(store, sql=where or "")
    table = query_table(
        con, f"SELECT slide_id, arrays, object_id, width_um, height_um FROM ({objects_where(where)}){end}"
    )
    as_stored = square or has_letterboxed_crops(store)
    # Stems of all slides of the run, so that the name of a crop does not depend on the condition.
    stems = file_stems(store.committed())
    make_folder(out)
    for first in range(0, table.num_rows, _BATCH_CROPS):
        batch = table.slice(first, _BATCH_CROPS)
        for row, crop in zip(batch.to_pylist(), load_crops(store, batch), strict=True):
            # The slide_id inside a file may differ from the name of the file and lead out of the folder.
            slide_id = check_slide_id(row["slide_id"])
            image = crop if as_stored else restore_aspect_ratio(crop, row["width_um"], row["height_um"])
            name = f"{stems.get(slide_id, slide_id)}-{row['object_id']:06d}.jpg"
            write_atomically(
                out / name, encode_crop(image, quality=SAVED_JPEG_QUALITY), clean=False, durable=False
            )
    return int(table.num_rows)


def has_letterboxed_crops(store: RunStore) -> bool:
    """Return whether a run's crops keep their proportions within the square."""
    return bool(store.read_run().config["crops"].get("fit", "stretch") == "letterbox")


def _write_geojson(out: Path, selection: ObjectSelection, *, subtract_bounds: bool) -> ExportResult:
    as_file = out.suffix.lower() in (".json", ".geojson")
    if as_file and len(selection.slides) != 1:
        raise UsageError(
            f"{out} is one file for {len(selection.slides)} slides, but QuPath opens the objects of one "
            "slide at a time; give a folder, or --slide"
        )
    if not as_file:
        make_folder(out)
    stems = file_stems(summary.slide_id for summary in selection.slides)
    written = clipped = 0
    for objects in selection:
        path = out if as_file else out / f"{stems[objects.summary.slide_id]}.geojson"
        origin = (objects.summary.bounds_x, objects.summary.bounds_y) if subtract_bounds else (0, 0)
        with atomic_text(path) as file:
            # RFC 7946 lets a collection have further members.
            mark = {NAME_SOURCE: selection.name_source} if selection.name_source else {}
            members = json.dumps({"type": "FeatureCollection", **mark})
            file.write(f'{members[:-1]}, "features":[\n')
            written += write_joined(file, (_feature(row, origin) for row in objects.table.to_pylist()))
            file.write("\n]}\n")
        clipped += objects.clipped
    return ExportResult(written, clipped)


def _feature(row: dict[str, Any], origin: tuple[int, int]) -> dict[str, Any]:
    left, top = row["x_min"] - origin[0], row["y_min"] - origin[1]
    right, bottom = row["x_max"] - origin[0], row["y_max"] - origin[1]
    genus = row.get("genus")
    # A closed ring of positive area, as RFC 7946 demands.
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


def _write_csv(out: Path, selection: ObjectSelection) -> ExportResult:
    written = clipped = 0
    with atomic_text(out, newline="") as file:
        writer = csv.writer(file)
        has_names = "genus" in selection.columns
        writer.writerow([*selection.columns, *QUPATH_CORNERS, *([NAME_SOURCE] if has_names else [])])
        for objects in selection:
            for row in objects.table.to_pylist():
                values = [
                    escape_formula(value) if isinstance(value, str) else value for value in row.values()
                ]
                source = selection.name_source if row.get("genus") is not None else ""
                marks = [source] if has_names else []
                writer.writerow([*values, *_in_qupath(row, objects.summary), *marks])
            written += objects.table.num_rows
            clipped += objects.clipped
    return ExportResult(written, clipped)


def _in_qupath(row: dict[str, Any], summary: SlideSummary) -> Iterator[int]:
    for name, origin in zip(CORNERS, (summary.bounds_x, summary.bounds_y) * 2, strict=True):
        yield row[name] - origin


def write_joined(file: IO[str], items: Iterable[dict[str, Any]]) -> int:
    """Write the items of a JSON array, one per line, as they come; return their number."""
    count = 0
    for count, item in enumerate(items, start=1):
        if count > 1:
            file.write(",\n")
        json.dump(item, file, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return count
