"""Objects of a run to choose from: a sample spread over its wells and slides, with vectors, and those known already."""

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

POOL_SLIDES = 512
"""Slides that a pool is drawn from: the vectors of one slide are read whole, some 15 MB."""
SLIDES_AT_ONCE = 16

COLUMNS = (
    "well",
    *select_names(
        OBJECTS_SCHEMA, "slide_id", "measured_depth_m", "arrays", "object_id", "width_um", "height_um"
    ),
)


@dataclass(frozen=True)
class Pool:
    """Objects with their vectors."""

    objects: pa.Table
    """COLUMNS, one row an object."""
    vectors: NDArray[np.float32]
    """(n, d)."""

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def keys(self) -> list[tuple[str, int]]:
        """(slide_id, object_id) of every row."""
        return list(
            zip(self.objects["slide_id"].to_pylist(), self.objects["object_id"].to_pylist(), strict=True)
        )

    @property
    def wells(self) -> list[str]:
        """The well of every row."""
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
    """At most `size` objects with pixels and finite vectors, equally many of each well, over many of its slides.

    where: a condition on the columns of `objects`. without: (slide_id, object_id) of objects to leave out. Memory
    holds the pool and one slide.

    Raises:
        UsageError: no object is left to choose from.
        QueryError: DuckDB refuses the condition.
    """
    quotas = _quota_by_slide(store, size, seed=seed)
    con = connect(store, sql=where or "")
    create_objects_view(con, store, {})
    query_table(
        con, f"{objects_where(where)} LIMIT 0"
    )  # a wrong condition is refused before anything is read
    files = store.committed_files()
    chosen = sorted(slide_id for slide_id in quotas if slide_id in files)
    out_of = set(without)
    tables: list[pa.Table] = []
    vectors: list[NDArray[np.float32]] = []
    for first in range(0, len(chosen), SLIDES_AT_ONCE):
        part = chosen[first : first + SLIDES_AT_ONCE]
        create_objects_view(con, store, {slide_id: files[slide_id] for slide_id in part})
        table = query_table(
            con, f"SELECT {', '.join(COLUMNS)} FROM ({objects_where(where)}) WHERE opacity IS NOT NULL"
        )
        for number, slide_id in enumerate(part, first):
            rows = table.filter(pc.equal(table["slide_id"], slide_id))
            ids = rows["object_id"].to_pylist()
            left = [row for row, one in enumerate(ids) if (slide_id, one) not in out_of]
            rng = np.random.default_rng([seed, number])
            if left:
                drawn = sample_objects(np.array(left), quotas[slide_id], rng)
                tables.append(rows.take(pa.array(drawn)))
                vectors.append(reader.rows(tables[-1]).astype(np.float32))
    if not tables:
        meeting = f" that meet {where!r}" if where else ""
        raise UsageError(
            f"{store.url} holds no objects with pixels{meeting} that have no label yet; there is nothing to suggest"
        )
    everything = np.concatenate(vectors)
    sound = np.isfinite(everything).all(axis=1)
    return Pool(pa.concat_tables(tables).filter(pa.array(sound)), everything[sound])


def labelled_vectors(
    store: RunStore, reader: VectorReader, keys: Sequence[tuple[str, int]]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Which of these (slide_id, object_id) the run holds, and their vectors."""
    files = store.committed_files()
    slides = sorted({slide_id for slide_id, _ in keys if slide_id in files})
    found: list[pa.Table] = []
    vectors: list[NDArray[np.float32]] = []
    con = connect(store)
    known = {
        "slide_id": pa.array([slide_id for slide_id, _ in keys], pa.string()),
        "object_id": pa.array([object_id for _, object_id in keys], pa.int32()),
        "known_row": pa.array(range(len(keys)), pa.int64()),
    }
    con.register("known", pa.table(known))
    for first in range(0, len(slides), SLIDES_AT_ONCE):
        create_objects_view(
            con, store, {slide_id: files[slide_id] for slide_id in slides[first : first + SLIDES_AT_ONCE]}
        )
        table = query_table(
            con,
            "SELECT known_row, slide_id, arrays, object_id FROM objects JOIN known USING (slide_id, object_id) "
            "ORDER BY known_row",
        )
        if table.num_rows:
            found.append(table)
            vectors.append(reader.rows(table).astype(np.float32))
    if not found:
        return np.zeros(0, np.int64), np.zeros((0, 0), np.float32)
    everything = np.concatenate(vectors)
    sound = np.isfinite(everything).all(axis=1)
    return np.asarray(pa.concat_tables(found)["known_row"].to_numpy())[sound], everything[sound]


def _quota_by_slide(store: RunStore, size: int, *, seed: int) -> dict[str, int]:
    table = store.summaries_table()
    table = table.filter(pc.greater(table["objects"], 0))
    slides, wells, objects = (table[name].to_pylist() for name in ("slide_id", "well", "objects"))
    quotas = quotas_by_slide(
        [well or UNASSIGNED_WELL for well in wells],
        objects,
        count=size,
        max_slides=POOL_SLIDES,
        rng=np.random.default_rng([seed, 3]),
    )
    return {slides[number]: quota for number, quota in quotas.items()}
