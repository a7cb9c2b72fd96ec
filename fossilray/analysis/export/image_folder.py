"""Crops as a folder of classes, which torchvision's ImageFolder, timm, Keras and ParticleTrieur read."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fossilray.analysis.export.boxes import is_letterboxed
from fossilray.analysis.export.selection import (
    CORNERS,
    SAVED_JPEG_QUALITY,
    Exported,
    ObjectSelection,
    SlideObjects,
    file_stems,
)
from fossilray.core.atomic_files import atomic_folder, atomic_text, make_folder, write_new
from fossilray.core.images import restore_aspect_ratio
from fossilray.core.text import escape_formula
from fossilray.core.types import Image
from fossilray.store import RunStore
from fossilray.store.arrays.jpeg_codec import encode_crop
from fossilray.store.query.connection import load_crops

OBJECTS_CSV = "objects.csv"
_COLUMNS = ("file", "genus", "genus_score", "slide_id", "object_id", "well", "measured_depth_m", *CORNERS)
_CROPS_AT_ONCE = 512
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{name}{i}" for name in ("COM", "LPT") for i in range(1, 10))}
"""Names that Windows gives to devices, with any ending."""


def export_image_folder(
    store: RunStore, out: Path, *, head: str, where: str | None = None, slide: str | None = None
) -> Exported:
    """Write <genus>/<slide_id>-<object_id>.jpg of every object with a genus, in true proportions.

    `objects.csv` beside the folders tells of each file what the object is. A genus whose name is no safe folder
    gets one that is; the table has the name itself. 512 crops are in memory at a time.

    Raises:
        QueryError: DuckDB refuses the condition.
        RunNotFound: the run has no predictions of this name.
        UsageError: the slide is not in the run, or `out` holds something or cannot be written.
    """
    chosen = ObjectSelection(store, where=where, slide=slide, head=head)
    folders = folder_names(chosen.classes)
    letterboxed = is_letterboxed(store)
    stems = file_stems(summary.slide_id for summary in chosen.slides)
    written = clipped = without_genus = 0
    with atomic_folder(out) as made:
        for name in folders.values():
            # A class without a crop is a class all the same: its number must not depend on what was chosen.
            make_folder(made / name)
        with atomic_text(made / OBJECTS_CSV, newline="") as file:
            table = csv.writer(file)
            table.writerow(_COLUMNS)
            for one in chosen:
                clipped += one.clipped
                without_genus += one.table["genus"].null_count
                stem = stems[one.summary.slide_id]
                for row, stored, crop in _with_crops(store, one):
                    # The crop shows the box as it was stored, and has its proportions.
                    sides = (stored["width_um"], stored["height_um"])
                    image = crop if letterboxed else restore_aspect_ratio(crop, *sides)
                    place = f"{folders[row['genus']]}/{stem}-{row['object_id']:06d}.jpg"
                    write_new(made / place, encode_crop(image, quality=SAVED_JPEG_QUALITY))
                    values = [place, *(row[column] for column in _COLUMNS[1:])]
                    table.writerow(
                        escape_formula(value) if isinstance(value, str) else value for value in values
                    )
                    written += 1
    return Exported(written, clipped, without_genus=without_genus)


def folder_names(classes: Sequence[str]) -> dict[str, str]:
    """A folder for each class: its name where that is safe on every system, else one like it; no two alike."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for genus in classes:
        plain = re.sub(r"[^\w\- .()+,]", "_", genus).strip(" .")[:80] or "_"
        if plain.split(".")[0].upper() in _RESERVED:
            plain = f"_{plain}"
        name, number = plain, 2
        # Windows and macOS take Alnus and alnus for one folder.
        while name.casefold() in taken:
            name, number = f"{plain} {number}", number + 1
        taken.add(name.casefold())
        names[genus] = name
    return names


def _with_crops(store: RunStore, one: SlideObjects) -> Iterator[tuple[dict[str, Any], dict[str, Any], Image]]:
    """The rows that have a genus, with their box inside the scan and as it was stored, and their crops."""
    named = one.table["genus"].is_valid()
    known, stored = one.table.filter(named), one.stored.filter(named)
    for first in range(0, known.num_rows, _CROPS_AT_ONCE):
        part = known.slice(first, _CROPS_AT_ONCE)
        rows = (part.to_pylist(), stored.slice(first, _CROPS_AT_ONCE).to_pylist())
        yield from zip(*rows, load_crops(store, part), strict=True)
