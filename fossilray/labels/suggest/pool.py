"""The pool of objects that suggestions are chosen from, with their vectors, and the vectors of labelled objects."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fossilray.core.errors import UsageError
from fossilray.core.records import UNASSIGNED_WELL
from fossilray.core.schemas import OBJECTS_SCHEMA, select_names
from fossilray.store import RunStore
from fossilray.store.query.connection import (
    connect,
    create_objects_view,
    objects_where,
    query_table,
)
from fossilray.store.query.sampling import quotas_by_slide, sample_objects
from fossilray.store.query.vectors import VectorReader

_POOL_SLIDES = 512
"""Slides that a pool is sampled from: the vectors of a slide, about 15 MB, are read whole."""
_SLIDES_PER_BATCH = 16

_POOL_COLUMNS = (
    "well",
    *select_names(
        OBJECTS_SCHEMA, "slide_id", "measured_depth_m", "arrays", "object_id", "width_um", "height_um"
    ),
)


@dataclass(frozen=True)
class Pool:
    """Objects with their vectors."""

    objects: pa.Table
    """slide_id, well, measured_depth_m, arrays, object_id, width_um, height_um; one row per object."""
    vectors: NDArray[np.float32]
    """(n, d)."""

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def keys(self) -> list[tuple[str, int]]:
        """(slide_id, object_id) of each row."""
        return list(
            zip(self.objects["slide_id"].to_pylist(), self.objects["object_id"].to_pylist(), strict=True)
        )

    @property
    def wells(self) -> list[str]:
        """The well of each row."""
        return [well or UNASSIGNED_WELL for well in self.objects["well"].to_pylist()]


def sample_pool(
    store: RunStore,
    reader: VectorReader,
    *,
    size: int,
    where: str | None,
    without: Collection[tuple[str, int]],
    seed: int,
) -> Pool:
    """Sample at most `size` objects with pixels and finite vectors, evenly over wells and then over slides.

    where: a condition on the columns of `objects`. without: (slide_id, object_id) of objects to leave out. Memory is
    needed for the pool and one slide.

    Raises:
        UsageError: no object remains to choose from.
        QueryError: DuckDB refuses the condition.
    """
    quotas = _quota_by_slide(store, size, seed=seed)
    con = connect(store, sql=where or "")
    create_objects_view(con, store, {})
    # An invalid condition is refused before any slide is read.
    query_table(con, f"{objects_where(where)} LIMIT 0")
    files = store.committed_files()
    chosen = sorted(slide_id for slide_id in quotas if slide_id in files)
    excluded = set(without)
    tables: list[pa.Table] = []
    vectors: list[NDArray[np.float32]] = []
    for first in range(0, len(chosen), _SLIDES_PER_BATCH):
        batch = chosen[first : first + _SLIDES_PER_BATCH]
        create_objects_view(con, store, {slide_id: files[slide_id] for slide_id in batch})
        table = query_table(
            con, f"SELECT {', '.join(_POOL_COLUMNS)} FROM ({objects_where(where)}) WHERE opacity IS NOT NULL"
        )
        for number, slide_id in enumerate(batch, first):
            rows = table.filter(pc.equal(table["slide_id"], slide_id))
            ids = rows["object_id"].to_pylist()
            eligible = [row for row, object_id in enumerate(ids) if (slide_id, object_id) not in excluded]
            rng = np.random.default_rng([seed, number])
            if eligible:
                drawn = sample_objects(np.array(eligible), quotas[slide_id], rng)
                tables.append(rows.take(pa.array(drawn)))
                vectors.append(reader.rows(tables[-1]).astype(np.float32))
    if not tables:
        condition = f" that meet {where!r}" if where else ""
        raise UsageError(
            f"{store.url} holds no objects with pixels{condition} that have no label yet; there is nothing to suggest"
        )
    all_vectors = np.concatenate(vectors)
    is_finite = np.isfinite(all_vectors).all(axis=1)
    return Pool(pa.concat_tables(tables).filter(pa.array(is_finite)), all_vectors[is_finite])


def labelled_vectors(
    store: RunStore, reader: VectorReader, keys: Sequence[tuple[str, int]]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the rows of `keys` (slide_id, object_id) that the run holds with finite vectors, and these vectors."""
    files = store.committed_files()
    slides = sorted({slide_id for slide_id, _ in keys if slide_id in files})
    tables: list[pa.Table] = []
    vectors: list[NDArray[np.float32]] = []
    con = connect(store)
    known = {
        "slide_id": pa.array([slide_id for slide_id, _ in keys], pa.string()),
        "object_id": pa.array([object_id for _, object_id in keys], pa.int32()),
        "known_row": pa.array(range(len(keys)), pa.int64()),
    }
    con.register("known", pa.table(known))
    for first in range(0, len(slides), _SLIDES_PER_BATCH):
        create_objects_view(
            con, store, {slide_id: files[slide_id] for slide_id in slides[first : first + _SLIDES_PER_BATCH]}
        )
        table = query_table(
            con,
            "SELECT known_row, slide_id, arrays, object_id FROM objects JOIN known USING (slide_id, object_id) "
            "ORDER BY known_row",
        )
        if table.num_rows:
            tables.append(table)
            vectors.append(reader.rows(table).astype(np.float32))
    if not tables:
        return np.zeros(0, np.int64), np.zeros((0, 0), np.float32)
    all_vectors = np.concatenate(vectors)
    is_finite = np.isfinite(all_vectors).all(axis=1)
    return np.asarray(pa.concat_tables(tables)["known_row"].to_numpy())[is_finite], all_vectors[is_finite]


def _quota_by_slide(store: RunStore, size: int, *, seed: int) -> dict[str, int]:
    table = store.summaries_table()
    table = table.filter(pc.greater(table["objects"], 0))
    slides, wells, objects = (table[name].to_pylist() for name in ("slide_id", "well", "objects"))
    quotas = quotas_by_slide(
        [well or UNASSIGNED_WELL for well in wells],
        objects,
        count=size,
        max_slides=_POOL_SLIDES,
        rng=np.random.default_rng([seed, 3]),
    )
    return {slides[number]: quota for number, quota in quotas.items()}
