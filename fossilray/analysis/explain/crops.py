"""The crops that are to be explained: of a folder, of labels, or of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fossilray.core.errors import UsageError
from fossilray.core.images import IMAGE_SUFFIXES, read_image, resize_to
from fossilray.labels.load import SIDE_PX, LabelledSet
from fossilray.store import RunStore
from fossilray.store.derived.listing import DerivedListing, keep_current, list_derived
from fossilray.store.query.connection import (
    connect,
    create_objects_view,
    load_crops,
    objects_where,
    query_table,
)

MOST_IMAGES = 2000
"""Held in memory at 150 kB each."""


@dataclass(frozen=True)
class CropsToExplain:
    """Crops as a backbone takes them, with what is known of them."""

    pixels: NDArray[np.uint8]
    """(n, S, S, 3) RGB, stretched to the square unless the run letterboxed them."""
    shape: NDArray[np.float32]
    """(n, 2) width and height as they should be shown, the longer one 1."""
    names: tuple[str, ...]
    labels: tuple[str, ...] | None = None
    unreadable: tuple[tuple[str, str], ...] = ()
    """Images that were left out, and why."""
    left_out: int = 0
    """More that would have been explained but for the number asked for."""

    def __len__(self) -> int:
        return len(self.names)


def material_of_folder(folder: Path) -> CropsToExplain:
    """Every image in a folder and the folders in it, by path; what cannot be decoded is left out and told.

    Raises:
        UsageError: there is none, or too many to hold.
    """
    if not folder.is_dir():
        raise UsageError(f"--crops {folder} is no folder; give a folder of images")
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )
    if not paths or len(paths) > MOST_IMAGES:
        raise UsageError(
            f"{folder} holds {len(paths):,} images; explain takes 1 to {MOST_IMAGES:,}, of the endings "
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
        pixels.append(resize_to(image, size_px=SIDE_PX))
        shapes.append((width / max(width, height), height / max(width, height)))
        names.append(name)
    if not names:
        raise UsageError(
            f"none of the {len(paths)} images in {folder} can be decoded; the first: {unreadable[0][1]}"
        )
    return CropsToExplain(
        np.stack(pixels), np.array(shapes, np.float32), tuple(names), unreadable=tuple(unreadable)
    )


def material_of_labels(labelled: LabelledSet, *, letterboxed: bool = False) -> CropsToExplain:
    """Labelled crops, with their labels; letterboxed: they are of a run whose crops show true proportions."""
    crops = labelled.crops
    return CropsToExplain(
        crops.pixels,
        np.ones_like(crops.shape) if letterboxed else crops.shape,
        labelled.names,
        labels=tuple(crops.classes[c] for c in crops.label.tolist()),
        unreadable=labelled.findings.unreadable,
    )


def material_of_run(
    store: RunStore,
    *,
    head_sha256: str,
    count: int,
    objects: Sequence[tuple[str, int]] = (),
    where: str | None = None,
    least_certain: bool = False,
) -> CropsToExplain:
    """Objects of a run: those named, or the first that meet a condition, or of these the least certain.

    head_sha256: of the head's file. Where the run has its predictions, `where` may name them (`genus`,
    `genus_score`, `genus_entropy`), and the least certain are known without looking at every crop.

    Raises:
        UsageError: an object is not there or has no pixels, nothing meets the condition, or the least certain are
            asked for and the run has no predictions of this head.
        QueryError: DuckDB refuses the condition.
    """
    genera = _predictions_of(store, head_sha256)
    if least_certain and genera is None:
        raise UsageError(
            f"{store.url} has no predictions of this head, so its least certain objects are not known; make them with "
            "`fossilray classify run`, or explain a folder of crops"
        )
    con = connect(store, sql=where or "")
    if objects:
        table = _named_objects(con, store, objects)
        left_out = max(0, table.num_rows - count)
        table = table.slice(0, count)
    else:
        create_objects_view(con, store, None, genera=genera)
        # Objects whose pixels no level could give have no opacity, and nothing to explain.
        chosen = f"SELECT * FROM ({objects_where(where)}) WHERE opacity IS NOT NULL"
        order = "genus_entropy DESC NULLS LAST, " if least_certain else ""
        columns = "slide_id, arrays, object_id, width_um, height_um"
        known = " AND genus IS NOT NULL" if least_certain else ""
        total = query_table(con, f"SELECT count(*) AS n FROM ({chosen}{known})")["n"][0].as_py()
        table = query_table(
            con,
            f"SELECT {columns} FROM ({chosen}{known}) ORDER BY {order}well, slide_id, object_id LIMIT {count}",
        )
        left_out = total - table.num_rows
    if not table.num_rows:
        raise UsageError(
            f"{store.url} has no object with pixels that meets {where or 'this'}; loosen --where"
        )
    size = np.stack([table["width_um"].to_numpy(), table["height_um"].to_numpy()], axis=1)
    shape = (size / np.maximum(size.max(axis=1, keepdims=True), 1e-6)).astype(np.float32)
    names = tuple(f"{row['slide_id']}:{row['object_id']}" for row in table.to_pylist())
    return CropsToExplain(
        load_crops(store, table),
        np.ones_like(shape) if is_letterboxed(store) else shape,
        names,
        left_out=left_out,
    )


def is_letterboxed(store: RunStore) -> bool:
    """Whether a run's crops show true proportions within their squares."""
    return bool(store.read_run().config["crops"]["fit"] == "letterbox")


def _predictions_of(store: RunStore, head_sha256: str) -> DerivedListing | None:
    """What this very head said of the objects as they are committed, the newest first."""
    listed = [
        one
        for one in list_derived(store, "predictions")
        if (one.answers.record.head or {}).get("sha256") == head_sha256
    ]
    if not listed:
        return None
    newest = max(listed, key=lambda one: (one.answers.record.created_at, one.answers.name))
    return keep_current(newest, {one.slide_id: one.attempt for one in store.summaries()})


def _named_objects(con: object, store: RunStore, objects: Sequence[tuple[str, int]]) -> pa.Table:
    files = store.committed_files()
    slides = {slide_id: files[slide_id] for slide_id, _ in objects if slide_id in files}
    create_objects_view(con, store, slides)  # type: ignore[arg-type]
    rows = query_table(
        con,  # type: ignore[arg-type]
        "SELECT slide_id, arrays, object_id, width_um, height_um, opacity FROM objects WHERE object_id IN "
        f"({', '.join(str(number) for _, number in objects)})",
    )
    place = {(row["slide_id"], row["object_id"]): i for i, row in enumerate(rows.to_pylist())}
    for slide_id, number in objects:
        if (slide_id, number) not in place:
            raise UsageError(
                f"{store.url} has no object {slide_id}:{number}; `fossilray query` lists slide_id and object_id"
            )
        if rows["opacity"][place[slide_id, number]].as_py() is None:
            raise UsageError(
                f"the pixels of {slide_id}:{number} could not be read, so there is nothing to explain"
            )
    return rows.take(pa.array([place[key] for key in objects], pa.int64()))
