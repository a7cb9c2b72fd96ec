"""Export of crops as a folder per genus, for torchvision's ImageFolder, timm, Keras and ParticleTrieur."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from fossilray.analysis.export.boxes import has_letterboxed_crops
from fossilray.analysis.export.selection import (
    CORNERS,
    SAVED_JPEG_QUALITY,
    ExportResult,
    ObjectSelection,
    SelectedObjects,
    file_stems,
)
from fossilray.core.atomic_files import atomic_folder, atomic_text, make_folder, write_new
from fossilray.core.errors import UsageError
from fossilray.core.images import restore_aspect_ratio
from fossilray.core.name_source import NAME_SOURCE, NameMark, mark_jpeg
from fossilray.core.text import escape_formula
from fossilray.core.types import Image
from fossilray.store import RunStore
from fossilray.store.arrays.jpeg_codec import encode_crop
from fossilray.store.query.connection import load_crops

OBJECTS_CSV = "objects.csv"
_COLUMNS = (
    "file",
    "genus",
    "genus_score",
    NAME_SOURCE,
    "slide_id",
    "object_id",
    "well",
    "measured_depth_m",
    *CORNERS,
)
_BATCH_CROPS = 512
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{name}{i}" for name in ("COM", "LPT") for i in range(1, 10))}
"""Names of devices in Windows, with any suffix."""


def export_image_folder(
    store: RunStore,
    out: Path,
    *,
    head: str | None = None,
    where: str | None = None,
    slides: Collection[str] = (),
) -> ExportResult:
    """Write <genus>/<slide_id>-<object_id>.jpg of every object with a genus, in its proportions, and objects.csv.

    objects.csv has one row per file. It and the EXIF of each image state that the name is a prediction. A genus whose
    name is not a safe folder name gets a safe one; the table has the genus. Memory holds 512 crops.

    Raises:
        QueryError: DuckDB refuses the condition.
        RunNotFound: the run has no predictions of this name.
        UsageError: a slide is not in the run, the run has no predictions, or `out` is not empty or cannot be written.
    """
    selection = ObjectSelection(store, where=where, slides=slides, head=head)
    if selection.predictions is None:
        raise UsageError(
            f"an image folder has a folder for each predicted genus, and {store.url} has no predictions; make "
            "some with `fossilray classify run`"
        )
    folders = folder_names(selection.classes)
    letterboxed = has_letterboxed_crops(store)
    stems = file_stems(summary.slide_id for summary in selection.slides)
    written = clipped = without_genus = 0
    with atomic_folder(out) as made:
        for name in folders.values():
            # Classes without crops get a folder too, so that the numbers of classes do not depend on the selection.
            make_folder(made / name)
        with atomic_text(made / OBJECTS_CSV, newline="") as file:
            table = csv.writer(file)
            table.writerow(_COLUMNS)
            for objects in selection:
                clipped += objects.clipped
                without_genus += objects.table["genus"].null_count
                stem = stems[objects.summary.slide_id]
                for row, stored, crop in _with_crops(store, objects):
                    # The crop shows the stored box, so it has the proportions of that box.
                    sides = (stored["width_um"], stored["height_um"])
                    image = crop if letterboxed else restore_aspect_ratio(crop, *sides)
                    path = f"{folders[row['genus']]}/{stem}-{row['object_id']:06d}.jpg"
                    mark = NameMark(
                        selection.name_source, row["genus"], folders[row["genus"]], row["genus_score"]
                    )
                    jpeg = encode_crop(image, quality=SAVED_JPEG_QUALITY)
                    write_new(made / path, mark_jpeg(jpeg, mark))
                    cells = {**row, "file": path, NAME_SOURCE: selection.name_source}
                    values = [cells[column] for column in _COLUMNS]
                    table.writerow(
                        escape_formula(value) if isinstance(value, str) else value for value in values
                    )
                    written += 1
    return ExportResult(written, clipped, without_genus=without_genus)


def folder_names(classes: Sequence[str]) -> dict[str, str]:
    """Return a unique folder name for each class: its name if that is safe on every system, else a similar one."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for genus in classes:
        plain = re.sub(r"[^\w\- .()+,]", "_", genus).strip(" .")[:80] or "_"
        if plain.split(".")[0].upper() in _RESERVED:
            plain = f"_{plain}"
        name, number = plain, 2
        # Alnus and alnus are one folder on Windows and macOS.
        while name.casefold() in taken:
            name, number = f"{plain} {number}", number + 1
        taken.add(name.casefold())
        names[genus] = name
    return names


def _with_crops(
    store: RunStore, objects: SelectedObjects
) -> Iterator[tuple[dict[str, Any], dict[str, Any], Image]]:
    """Yield each row that has a genus, with its clipped box, the same row as stored, and its crop."""
    has_genus = objects.table["genus"].is_valid()
    clipped, stored = objects.table.filter(has_genus), objects.stored.filter(has_genus)
    for first in range(0, clipped.num_rows, _BATCH_CROPS):
        batch = clipped.slice(first, _BATCH_CROPS)
        rows = (batch.to_pylist(), stored.slice(first, _BATCH_CROPS).to_pylist())
        yield from zip(*rows, load_crops(store, batch), strict=True)
