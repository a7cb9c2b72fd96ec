"""Objects of a run slide by slide, with their vectors."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from fossilray.core.backbones import require_comparable
from fossilray.core.errors import UsageError
from fossilray.core.schemas import OBJECTS_SCHEMA, select_names
from fossilray.core.vectors import unit_vectors
from fossilray.store.query.connection import connect, create_objects_view, query_table
from fossilray.store.query.vectors import VectorReader
from fossilray.store.run.run_store import RunStore

SLIDES_AT_ONCE = 16
"""Slides whose objects are read by one query: 300,000 rows of a typical archive, 30 MB."""


_COLUMNS = ", ".join(
    (
        "well",
        *select_names(OBJECTS_SCHEMA, "slide_id", "measured_depth_m", "arrays", "object_id"),
        *select_names(OBJECTS_SCHEMA, "x_min", "y_min", "x_max", "y_max", "width_um", "height_um"),
        *select_names(OBJECTS_SCHEMA, "overlap", "opacity", "sharpness"),
    )
)


@dataclass(frozen=True)
class SlideObjects:
    """Objects of one slide, ordered by object_id; at least one."""

    run: int
    """Index of the run."""
    slide_id: str
    well: str
    measured_depth_m: float | None
    arrays: str
    object_id: NDArray[np.int32]
    longest_um: NDArray[np.float32]
    log_aspect: NDArray[np.float32]
    """Natural logarithm of width over height."""
    overlap: NDArray[np.float32]
    opacity: NDArray[np.float32]
    """NaN, like sharpness, for objects whose pixels could not be read."""
    sharpness: NDArray[np.float32]
    objects_inside: NDArray[np.int64]
    """Number of objects whose centre is in the box of this object, itself included."""
    vectors: NDArray[np.float32]
    """(n, d) float32 of length 1; NaN if the stored vector is zero or not finite."""

    def __len__(self) -> int:
        return len(self.object_id)

    @property
    def without_pixels(self) -> NDArray[np.bool_]:
        return np.isnan(self.opacity)

    @property
    def without_vector(self) -> NDArray[np.bool_]:
        return np.isnan(self.vectors[:, 0])


def check_runs(stores: Sequence[RunStore]) -> None:
    """Require that these runs can be curated together.

    Raises:
        UsageError: no run was named, a run has no embeddings, their backbones differ, or they share slides.
        RunNotFound: one of the folders holds no run.
    """
    if not stores:
        raise UsageError("no run was named; give run directories or compacted datasets")
    first = VectorReader(stores[0]).backbone
    owner: dict[str, str] = {}
    for store in stores:
        require_comparable(
            first,
            VectorReader(store).backbone,
            of_ours=f"the vectors of {stores[0].url} are of",
            of_theirs=f"those of {store.url}",
            remedy="curate these runs one by one",
        )
        for slide_id in slides_with_objects(store):
            if slide_id in owner:
                raise UsageError(
                    f"slide {slide_id} is in {owner[slide_id]} and in {store.url}, and a curation names crops by "
                    "slide_id; curate these runs one by one"
                )
            owner[slide_id] = store.url


def slides_with_objects(store: RunStore) -> list[str]:
    """Return the sorted slide_ids of the slides with objects; the same for a run and its compacted dataset."""
    table = store.summaries_table().select(["slide_id", "objects"])
    slide_ids: list[str] = table.filter(pc.greater(table["objects"], 0))["slide_id"].to_pylist()
    return sorted(slide_ids)


def read_slides(
    store: RunStore,
    *,
    run: int,
    slides: Collection[str] | None = None,
    where: str | None = None,
    embeddings: str | None = None,
) -> Iterator[SlideObjects]:
    """Yield the objects of all slides, or of some, well by well in the order of a table of crops.

    The vectors of one slide are in memory at a time. where: a condition on the columns of `objects`. embeddings: name
    of the embeddings to read instead of the run's own.

    Raises:
        StoreError: a slide's objects or vectors cannot be read.
    """
    con = connect(store)
    reader = VectorReader(store, embeddings)
    committed = sorted(
        store.committed_files().items(), key=lambda item: (item[1].rpartition("/")[0], item[0])
    )
    files = [(name, path) for name, path in committed if slides is None or name in slides]
    for first in range(0, len(files), SLIDES_AT_ONCE):
        part = dict(files[first : first + SLIDES_AT_ONCE])
        create_objects_view(con, store, part, view="chosen")
        # The line breaks keep a comment at the end of the condition from swallowing what follows.
        condition = f"WHERE (\n{where}\n)" if where else ""
        table = query_table(con, f"SELECT {_COLUMNS} FROM chosen {condition} ORDER BY slide_id, object_id")
        for slide_id in part:
            rows = table.filter(pc.equal(table["slide_id"], slide_id))
            if rows.num_rows:
                yield _slide(reader, run, slide_id, rows)


def _slide(reader: VectorReader, run: int, slide_id: str, table: pa.Table) -> SlideObjects:
    texts = ("slide_id", "well", "measured_depth_m", "arrays")
    columns = {name: table[name].to_numpy() for name in table.column_names if name not in texts}
    width, height = (np.maximum(columns[name], 1e-3) for name in ("width_um", "height_um"))
    return SlideObjects(
        run=run,
        slide_id=slide_id,
        well=table["well"][0].as_py(),
        measured_depth_m=table["measured_depth_m"][0].as_py(),
        arrays=table["arrays"][0].as_py(),
        object_id=columns["object_id"],
        longest_um=np.maximum(width, height),
        log_aspect=np.log(width / height),
        overlap=columns["overlap"],
        opacity=columns["opacity"].astype(np.float32),
        sharpness=columns["sharpness"].astype(np.float32),
        objects_inside=_objects_inside(
            np.stack([columns[name] for name in ("x_min", "y_min", "x_max", "y_max")], axis=1)
        ),
        vectors=unit_vectors(reader.rows(table).astype(np.float32), undefined=np.nan),
    )


def _objects_inside(xyxy: NDArray[np.int32]) -> NDArray[np.int64]:
    corners = xyxy.astype(np.float64)
    centres = shapely.points((corners[:, :2] + corners[:, 2:]) / 2)
    pairs = shapely.STRtree(centres).query(shapely.box(*corners.T), predicate="intersects")
    return np.bincount(pairs[0], minlength=len(xyxy))
