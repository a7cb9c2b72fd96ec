"""Crops as a folder of classes, which torchvision's ImageFolder, timm, Keras and ParticleTrieur read."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from fossilray.export import SAVED_JPEG_QUALITY, choose_slides, classes_of, objects_by_slide
from fossilray.query import connect, load_crops
from fossilray.records import Image
from fossilray.store import RunStore
from fossilray.store.codec import encode_crop
from fossilray.store.layout import check_slide_id
from fossilray.store.listed_answers import choose_fitting
from fossilray.tables import spreadsheet_safe
from fossilray.whole_files import make_folder, whole_folder, whole_text, write_new

OBJECTS_CSV = "objects.csv"
_COLUMNS = ("file", "genus", "genus_score", "slide_id", "object_id", "well", "measured_depth_m")
_CROPS_AT_ONCE = 512
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{name}{i}" for name in ("COM", "LPT") for i in range(1, 10))}
"""Names that Windows gives to devices, with any ending."""


def export_image_folder(
    store: RunStore, out: Path, *, head: str, where: str | None = None, slide: str | None = None
) -> int:
    """Write <genus>/<slide_id>-<object_id>.jpg of every object with a genus, in true proportions; how many.

    `objects.csv` beside the folders tells of each file what the object is. A genus whose name is no safe folder
    gets one that is; the table has the name itself. 512 crops are in memory at a time.

    Raises:
        QueryError: DuckDB refuses the condition.
        RunNotFound: the run has no predictions of this name.
        UsageError: the slide is not in the run, or `out` holds something or cannot be written.
    """
    chosen = choose_slides(store, slide)
    genera = choose_fitting(store, head, chosen)
    folders = folder_names(classes_of(genera))
    letterboxed = store.read_run().config["crops"]["fit"] == "letterbox"
    per_slide = objects_by_slide(
        connect(store, sql=where or ""), store, chosen, where, genera, subtract_bounds=False
    )
    written = 0
    with whole_folder(out) as made:
        for name in folders.values():
            # A class without a crop is a class all the same: its number must not depend on what was chosen.
            make_folder(made / name)
        with whole_text(made / OBJECTS_CSV, newline="") as file:
            table = csv.writer(file)
            table.writerow(_COLUMNS)
            for _, objects in per_slide:
                for row, crop in _with_crops(store, objects):
                    side = crop if letterboxed else _in_proportion(crop, row["width_um"], row["height_um"])
                    name = f"{check_slide_id(row['slide_id'])}-{row['object_id']:06d}.jpg"
                    place = f"{folders[row['genus']]}/{name}"
                    write_new(made / place, encode_crop(side, quality=SAVED_JPEG_QUALITY))
                    values = [place, *(row[column] for column in _COLUMNS[1:])]
                    table.writerow(spreadsheet_safe(one) if isinstance(one, str) else one for one in values)
                    written += 1
    return written


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


def _with_crops(store: RunStore, objects: pa.Table) -> Iterator[tuple[dict[str, Any], Image]]:
    """The rows that have a genus, with their crops."""
    known = objects.filter(objects["genus"].is_valid())
    for first in range(0, known.num_rows, _CROPS_AT_ONCE):
        part = known.slice(first, _CROPS_AT_ONCE)
        yield from zip(part.to_pylist(), load_crops(store, part), strict=True)


def _in_proportion(crop: Image, width_um: float, height_um: float) -> Image:
    """The crop with its shorter side shrunk to what it was on the slide."""
    longest = max(width_um, height_um, 1e-6)
    width, height = (
        max(8, round(side * of / longest))
        for side, of in zip(crop.shape[1::-1], (width_um, height_um), strict=True)
    )
    return np.asarray(cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA))
