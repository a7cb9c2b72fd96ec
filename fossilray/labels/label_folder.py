"""Folders of objects to be labelled: images to sort, a table to fill in, and a table for ParticleTrieur."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from fossilray.core.atomic_files import atomic_folder, make_folder, write_new
from fossilray.core.errors import UsageError
from fossilray.core.images import restore_aspect_ratio
from fossilray.core.slide_names import check_slide_id
from fossilray.core.text import escape_formula
from fossilray.store import RunStore
from fossilray.store.arrays.jpeg_codec import encode_crop
from fossilray.store.query.connection import load_crops

_CROPS = "crops"
_PARTICLETRIEUR = "particletrieur.csv"
_JPEG_QUALITY = 95
_CROPS_AT_ONCE = 256

_PARTICLETRIEUR_COLUMNS = (
    *("filename", "sample", "index1", "resolution", "guid", "slide_id", "object_id", "guess", "why"),
)


def refuse_used_folder(out: Path, content: str) -> None:
    """Check that a folder is missing or empty.

    content: what would be mixed, as a noun phrase: `suggestions of two rounds`.

    Raises:
        UsageError: it is not.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not empty, and {content} would be mixed; name a new folder")


def write_label_folder(
    store: RunStore,
    out: Path,
    objects: pa.Table,
    rows: Sequence[dict[str, Any]],
    *,
    table: str,
    columns: Sequence[str],
    others: Mapping[str, bytes] | None = None,
) -> None:
    """Write images below `crops`, the table `table` and the table of ParticleTrieur; the folder appears as a whole.

    Args:
        objects: arrays and object_id of each row.
        rows: slide_id, object_id, width_um, height_um and measured_depth_m of each object, and what `columns` need;
            `file` and `resolution` (px per mm) are added to them. A column that a row lacks is empty.
        others: further files.
    """
    square = store.read_run().config["crops"].get("fit", "stretch") == "letterbox"
    with atomic_folder(out) as folder:
        make_folder(folder / _CROPS)
        for first in range(0, len(rows), _CROPS_AT_ONCE):
            block = rows[first : first + _CROPS_AT_ONCE]
            crops = load_crops(store, objects.slice(first, _CROPS_AT_ONCE))
            for row, crop in zip(block, crops, strict=True):
                name = f"{check_slide_id(row['slide_id'])}-{row['object_id']:06d}.jpg"
                row["file"] = f"{_CROPS}/{name}"
                image = crop if square else restore_aspect_ratio(crop, row["width_um"], row["height_um"])
                longest_um = max(row["width_um"], row["height_um"], 1e-6)
                row["resolution"] = f"{1000 * max(image.shape[:2]) / longest_um:.3f}"
                write_new(folder / row["file"], encode_crop(image, quality=_JPEG_QUALITY))
        write_new(folder / table, _csv(rows, columns))
        particletrieur = [_for_particletrieur(out, row) for row in rows]
        write_new(folder / _PARTICLETRIEUR, _csv(particletrieur, _PARTICLETRIEUR_COLUMNS))
        for name, content in (others or {}).items():
            write_new(folder / name, content)


def _for_particletrieur(out: Path, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the table from which ParticleTrieur adds images; it has no `label`, which would be imported."""
    return {
        **row,
        "filename": str((out / row["file"]).resolve()),
        "sample": row["slide_id"],
        "index1": row["measured_depth_m"],
        "guid": f"{row['slide_id']}-{row['object_id']:06d}",
    }


def _csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    for row in rows:
        table.writerow([_cell(row.get(name)) for name in columns])
    return text.getvalue()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.10g}"
    return escape_formula(value) if isinstance(value, str) else str(value)
