"""Crops to explain, from a folder, from labels or from a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fossilray.analysis.export.boxes import has_letterboxed_crops
from fossilray.core.errors import UsageError
from fossilray.core.images import IMAGE_SUFFIXES, read_image, resize_to
from fossilray.labels.load import LABELLED_CROP_PX, LabelledSet
from fossilray.store import RunStore
from fossilray.store.derived.listing import DerivedListing, keep_current, list_derived
from fossilray.store.query.connection import (
    connect,
    create_objects_view,
    load_crops,
    objects_where,
    query_table,
)

MAX_IMAGES = 2000
"""Images of a folder, which are held in memory at 150 kB each."""


@dataclass(frozen=True)
class CropsToExplain:
    """Crops to explain, with their names and labels."""

    pixels: NDArray[np.uint8]
    """(n, S, S, 3) RGB, stretched to a square, or letterboxed if the run's crops are."""
    shape: NDArray[np.float32]
    """(n, 2) width and height in which a crop is shown, the longer one 1."""
    names: tuple[str, ...]
    labels: tuple[str, ...] | None = None
    unreadable: tuple[tuple[str, str], ...] = ()
    """Names of images that could not be read, with reasons."""
    left_out: int = 0
    """Number of further crops, beyond the requested count."""

    def __len__(self) -> int:
        return len(self.names)


def crops_from_folder(folder: Path) -> CropsToExplain:
    """Read every image below a folder, in the order of paths. Images that cannot be decoded go to `unreadable`.

    Raises:
        UsageError: there are no images, more than MAX_IMAGES, or only unreadable ones.
    """
    if not folder.is_dir():
        raise UsageError(f"--crops {folder} is not a folder; give a folder of images")
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )
    if not paths or len(paths) > MAX_IMAGES:
        raise UsageError(
            f"{folder} holds {len(paths):,} images; explain takes 1 to {MAX_IMAGES:,}, with the suffixes "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    pixels, shapes, names, unreadable = [], [], [], []
    for path in paths:
        name = str(path.relative_to(folder)).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        try:
            image = read_image(path, name=name)
        except UsageError as error:
            unreadable.append((name, str(error)))
            continue
        height, width = image.shape[:2]
        pixels.append(resize_to(image, size_px=LABELLED_CROP_PX))
        shapes.append((width / max(width, height), height / max(width, height)))
        names.append(name)
    if not names:
        raise UsageError(
            f"none of the {len(paths)} images in {folder} can be decoded; the first: {unreadable[0][1]}"
        )
    return CropsToExplain(
        np.stack(pixels), np.array(shapes, np.float32), tuple(names), unreadable=tuple(unreadable)
    )


def crops_from_labels(labelled: LabelledSet, *, letterboxed: bool = False) -> CropsToExplain:
    """Return labelled crops with their labels. `letterboxed`: they are crops of a run that letterboxes them."""
    crops = labelled.crops
    return CropsToExplain(
        crops.pixels,
        np.ones_like(crops.shape) if letterboxed else crops.shape,
        labelled.names,
        labels=tuple(crops.classes[c] for c in crops.label.tolist()),
        unreadable=labelled.findings.unreadable,
    )


def crops_from_run(
    store: RunStore,
    *,
    head_sha256: str,
    count: int,
    objects: Sequence[tuple[str, int]] = (),
    where: str | None = None,
    highest_entropy: bool = False,
) -> CropsToExplain:
    """Return crops of a run: of given objects, or of the first `count` objects that meet a condition.

    Args:
        head_sha256: digest of the head's file. If the run has predictions of this head, `where` may use their columns
            `genus`, `genus_score` and `genus_entropy`.
        objects: slide_id and object_id of each object.
        where: SQL condition on columns of `objects`.
        highest_entropy: take the objects of highest entropy.

    Raises:
        UsageError: an object is missing or has no pixels, no object meets the condition, or the run has no predictions
            of this head for `highest_entropy`.
        QueryError: DuckDB refuses the condition.
    """
    genera = _predictions_of(store, head_sha256)
    if highest_entropy and genera is None:
        raise UsageError(
            f"{store.url} has no predictions of this head, which --highest-entropy needs; make them with "
            "`fossilray classify run`, or explain a folder of crops"
        )
    con = connect(store, sql=where or "")
    if objects:
        table = _named_objects(con, store, objects)
        left_out = max(0, table.num_rows - count)
        table = table.slice(0, count)
    else:
        create_objects_view(con, store, None, genera=genera)
        # Objects whose pixels could not be read have no opacity.
        chosen = f"SELECT * FROM ({objects_where(where)}) WHERE opacity IS NOT NULL"
        order = "genus_entropy DESC NULLS LAST, " if highest_entropy else ""
        columns = "slide_id, arrays, object_id, width_um, height_um"
        known = " AND genus IS NOT NULL" if highest_entropy else ""
        total = query_table(con, f"SELECT count(*) AS n FROM ({chosen}{known})")["n"][0].as_py()
        table = query_table(
            con,
            f"SELECT {columns} FROM ({chosen}{known}) ORDER BY {order}well, slide_id, object_id LIMIT {count}",
        )
        left_out = total - table.num_rows
    if not table.num_rows:
        raise UsageError(
            f"{store.url} has no object with pixels that meets {where}; loosen --where"
            if where
            else f"{store.url} has no object with pixels; process slides first"
        )
    size = np.stack([table["width_um"].to_numpy(), table["height_um"].to_numpy()], axis=1)
    shape = (size / np.maximum(size.max(axis=1, keepdims=True), 1e-6)).astype(np.float32)
    names = tuple(f"{row['slide_id']}:{row['object_id']}" for row in table.to_pylist())
    return CropsToExplain(
        load_crops(store, table),
        np.ones_like(shape) if has_letterboxed_crops(store) else shape,
        names,
        left_out=left_out,
    )


def _predictions_of(store: RunStore, head_sha256: str) -> DerivedListing | None:
    """Return the newest predictions of this head, without slides that were reprocessed since."""
    listed = [
        listing
        for listing in list_derived(store, "predictions")
        if (listing.results.record.head or {}).get("sha256") == head_sha256
    ]
    if not listed:
        return None
    newest = max(listed, key=lambda listing: (listing.results.record.created_at, listing.results.name))
    return keep_current(newest, {summary.slide_id: summary.attempt for summary in store.summaries()})


def _named_objects(con: object, store: RunStore, objects: Sequence[tuple[str, int]]) -> pa.Table:
    files = store.committed_files()
    slides = {slide_id: files[slide_id] for slide_id, _ in objects if slide_id in files}
    create_objects_view(con, store, slides)  # type: ignore[arg-type]
    rows = query_table(
        con,  # type: ignore[arg-type]
        "SELECT slide_id, arrays, object_id, width_um, height_um, opacity FROM objects WHERE object_id IN "
        f"({', '.join(str(number) for _, number in objects)})",
    )
    row_of = {(row["slide_id"], row["object_id"]): i for i, row in enumerate(rows.to_pylist())}
    for slide_id, number in objects:
        if (slide_id, number) not in row_of:
            raise UsageError(
                f"{store.url} has no object {slide_id}:{number}; `fossilray query` lists slide_id and object_id"
            )
        if rows["opacity"][row_of[slide_id, number]].as_py() is None:
            raise UsageError(
                f"the pixels of {slide_id}:{number} could not be read, so it has no crop; give another --object"
            )
    return rows.take(pa.array([row_of[key] for key in objects], pa.int64()))
