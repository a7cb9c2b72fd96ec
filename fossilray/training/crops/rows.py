"""The crops of a run or a folder as flat arrays, filtered by a condition and a curation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fossilray.core.config import StoreConfig
from fossilray.core.errors import UsageError
from fossilray.store import RunStore
from fossilray.store.query.connection import connect, create_objects_view, create_parquet_view, query_table
from fossilray.training.crops.sources import FolderSource

if TYPE_CHECKING:
    from fossilray.store.query.connection import Connection

_Number = TypeVar("_Number", bound=np.generic)

SLIDES_PER_QUERY = 64
"""Slides whose objects are queried together: a million rows of an ordinary archive."""


@dataclass(frozen=True)
class SourceRows:
    """The crops of one source, sorted by unit (a slide, or one image) and object_id."""

    name: list[str]
    """slide_id of each unit, or `<class>/<image>`."""
    path: list[str]
    """Path of each unit within the source: the Zarr group of the slide, or the image file."""
    group: list[str]
    """The well of each unit; the folder's name for images."""
    unit: NDArray[np.int32]
    object_id: NDArray[np.int32]
    log_aspect: NDArray[np.float16]
    """Natural logarithm of original width over height; 0 for images, and for crops that were not stretched."""
    weight: NDArray[np.float32] | None
    label: list[str] | None
    """The class of each crop."""
    without_pixels: int
    """Objects left out because their pixels could not be read at any level."""


def rows_of_folder(source: FolderSource) -> SourceRows:
    """Return every image of a folder, sorted by path.

    Raises:
        UsageError: There are no images.
    """
    images = source.images()
    count = len(images)
    return SourceRows(
        name=images,
        path=images,
        group=[source.folder.resolve().name] * count,
        unit=np.arange(count, dtype=np.int32),
        object_id=np.zeros(count, np.int32),
        log_aspect=np.zeros(count, np.float16),
        weight=None,
        label=[name.partition("/")[0] for name in images],
        without_pixels=0,
    )


def rows_of_run(
    store: RunStore, *, where: str | None, curation: str | None, access: StoreConfig
) -> SourceRows:
    """Return the crops of a run's objects that meet a condition and that a curation keeps, well by well.

    Objects are queried for a few slides at a time. A condition with a subquery (it contains SELECT) can depend on other
    rows, so it is evaluated for all slides at once.

    Raises:
        QueryError: The condition is not valid SQL, or the curation is not a table.
        UsageError: The curation names a crop twice, or contains a negative weight.
    """
    con = connect(store)
    if curation is not None:
        create_parquet_view(con, store, curation, view="curation", access=access)
    letterboxed = store.read_run().config["crops"]["fit"] == "letterbox"
    name: list[str] = []
    path: list[str] = []
    group: list[str] = []
    blocks: list[_SlideRows] = []
    for files in _slide_groups(store, where):
        slides, block = _query_slides(con, store, files, where=where, curation=curation, first_unit=len(name))
        name += [slide["slide_id"] for slide in slides]
        path += [slide["arrays"] for slide in slides]
        group += [slide["well"] for slide in slides]
        blocks.append(block)
    log_aspect = _joined([block.log_aspect for block in blocks], np.float16)
    return SourceRows(
        name=name,
        path=path,
        group=group,
        unit=_joined([block.unit for block in blocks], np.int32),
        object_id=_joined([block.object_id for block in blocks], np.int32),
        log_aspect=np.zeros_like(log_aspect) if letterboxed else log_aspect,
        weight=_joined([block.weight for block in blocks if block.weight is not None], np.float32)
        if curation
        else None,
        label=None,
        without_pixels=sum(block.without_pixels for block in blocks),
    )


def _joined(arrays: Sequence[NDArray[_Number]], dtype: type[_Number]) -> NDArray[_Number]:
    return np.concatenate([np.zeros(0, dtype), *arrays])


@dataclass(frozen=True)
class _SlideRows:
    """The rows of a few slides."""

    unit: NDArray[np.int32]
    object_id: NDArray[np.int32]
    log_aspect: NDArray[np.float16]
    weight: NDArray[np.float32] | None
    without_pixels: int


def _slide_groups(store: RunStore, where: str | None) -> Iterator[dict[str, str]]:
    """Yield objects files of a few slides at a time, in an order that a run and its compacted dataset share."""
    files = sorted(store.committed_files().items(), key=lambda file: (file[1].rpartition("/")[0], file[0]))
    has_subquery = where is not None and "select" in where.lower()
    step = max(1, len(files)) if has_subquery else SLIDES_PER_QUERY
    for first in range(0, len(files), step):
        yield dict(files[first : first + step])


def _query_slides(
    con: Connection,
    store: RunStore,
    files: dict[str, str],
    *,
    where: str | None,
    curation: str | None,
    first_unit: int,
) -> tuple[list[dict[str, str]], _SlideRows]:
    """Return the slides among `files` that have objects, and their selected rows."""
    create_objects_view(con, store, files if len(files) <= SLIDES_PER_QUERY else None, view="chosen")
    table = query_table(
        con, "SELECT slide_id, min(arrays) AS arrays, min(well) AS well FROM chosen GROUP BY slide_id"
    )
    order = {slide_id: number for number, slide_id in enumerate(files)}
    # A running job may have committed further slides since the run was listed.
    known = [slide for slide in table.to_pylist() if slide["slide_id"] in order]
    slides = sorted(known, key=lambda slide: order[slide["slide_id"]])
    names = pa.array([slide["slide_id"] for slide in slides], pa.string())
    units = pa.array(range(first_unit, first_unit + len(slides)), pa.int32())
    con.register("numbered", pa.table({"slide_id": names, "unit": units}))
    # The line breaks end a comment at the end of the condition.
    condition = f"WHERE (\n{where}\n)" if where else ""
    weight, join = ("k.weight", _curated(min(order), max(order))) if curation else ("1", "")
    selected = query_table(
        con,
        f"SELECT n.unit, c.object_id, c.opacity IS NULL AS lost, c.width_um, c.height_um, {weight}::FLOAT AS weight "
        "FROM (SELECT slide_id, object_id, opacity, width_um, height_um FROM chosen AS objects "
        f"{condition}) AS c JOIN numbered AS n ON n.slide_id = c.slide_id {join} ORDER BY n.unit, c.object_id",
    )
    return slides, _check_rows(selected, curation)


def _curated(first: str, last: str) -> str:
    """Return the join with the curation; by the bounds DuckDB skips row groups of other slides."""
    low, high = (name.replace("'", "''") for name in (first, last))
    return (
        "JOIN (SELECT slide_id, object_id, weight FROM curation WHERE keep "
        f"AND slide_id BETWEEN '{low}' AND '{high}') AS k "
        "ON k.slide_id = c.slide_id AND k.object_id = c.object_id"
    )


def _check_rows(table: pa.Table, curation: str | None) -> _SlideRows:
    columns = {name: table[name].to_numpy() for name in table.column_names}
    unit, object_id, weight = columns["unit"], columns["object_id"], columns["weight"]
    repeated = (np.diff(unit) == 0) & (np.diff(object_id) == 0)
    if repeated.any():
        raise UsageError(
            f"{curation} names {int(repeated.sum())} crops more than once, perhaps as it covers several runs whose "
            "slides have the same names; curate this run alone with `fossilray curate`"
        )
    if not (np.isfinite(weight).all() and (weight >= 0).all()):
        raise UsageError(
            f"{curation} contains a weight that is negative or not finite; weights must be 0 or more"
        )
    lost = columns["lost"].astype(bool)
    width, height = (np.maximum(columns[name], 1e-3) for name in ("width_um", "height_um"))
    aspect = np.log(width / height).astype(np.float16)
    kept = ~lost
    return _SlideRows(
        unit[kept], object_id[kept], aspect[kept], weight[kept] if curation else None, int(lost.sum())
    )
