"""Which crops a run or a folder has, as flat arrays: the objects that a condition and a curation leave."""

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

Number = TypeVar("Number", bound=np.generic)

SLIDES_AT_ONCE = 64
"""Slides whose objects are asked for together: a million rows of an ordinary archive."""


@dataclass(frozen=True)
class SourceRows:
    """The crops of one source, by unit (a slide, or one image) and object_id."""

    name: list[str]
    """slide_id of each unit, or `<class>/<image>`."""
    place: list[str]
    """What the source reads a unit by: the Zarr group of the slide, or the image."""
    group: list[str]
    """The well of each unit; of images the folder's name."""
    unit: NDArray[np.int32]
    object_id: NDArray[np.int32]
    log_aspect: NDArray[np.float16]
    """Natural logarithm of true width over height; 0 where the bytes tell or nothing was stretched."""
    weight: NDArray[np.float32] | None
    label: list[str] | None
    """The class of each crop."""
    without_pixels: int
    """Objects left out because no level of their slide could give their pixels."""


def rows_of_folder(source: FolderSource) -> SourceRows:
    """Every image of a folder, in the order of their paths.

    Raises:
        UsageError: there are none.
    """
    images = source.images()
    count = len(images)
    return SourceRows(
        name=images,
        place=images,
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
    """The crops of a run's objects that meet the condition and that the curation keeps, well by well.

    In memory are the arrays and the objects of some slides. A condition that asks other rows too (it holds a
    SELECT) is answered for all slides at once.

    Raises:
        QueryError: DuckDB refuses the condition, or the curation is no such file.
        UsageError: the curation names a crop twice, or a weight is negative.
    """
    con = connect(store)
    if curation is not None:
        create_parquet_view(con, store, curation, view="curation", access=access)
    letterboxed = store.read_run().config["crops"]["fit"] == "letterbox"
    name: list[str] = []
    place: list[str] = []
    group: list[str] = []
    parts: list[_Part] = []
    for files in _slide_groups(store, where):
        slides, part = _ask(con, store, files, where=where, curation=curation, first_unit=len(name))
        name += [slide["slide_id"] for slide in slides]
        place += [slide["arrays"] for slide in slides]
        group += [slide["well"] for slide in slides]
        parts.append(part)
    log_aspect = _joined([part.log_aspect for part in parts], np.float16)
    return SourceRows(
        name=name,
        place=place,
        group=group,
        unit=_joined([part.unit for part in parts], np.int32),
        object_id=_joined([part.object_id for part in parts], np.int32),
        log_aspect=np.zeros_like(log_aspect) if letterboxed else log_aspect,
        weight=_joined([part.weight for part in parts if part.weight is not None], np.float32)
        if curation
        else None,
        label=None,
        without_pixels=sum(part.without_pixels for part in parts),
    )


def _joined(parts: Sequence[NDArray[Number]], kind: type[Number]) -> NDArray[Number]:
    return np.concatenate([np.zeros(0, kind), *parts])


@dataclass(frozen=True)
class _Part:
    """The rows of some slides."""

    unit: NDArray[np.int32]
    object_id: NDArray[np.int32]
    log_aspect: NDArray[np.float16]
    weight: NDArray[np.float32] | None
    without_pixels: int


def _slide_groups(store: RunStore, where: str | None) -> Iterator[dict[str, str]]:
    """The objects files of some slides at a time, in the order that a run and its compacted dataset share."""
    files = sorted(store.committed_files().items(), key=lambda one: (one[1].rpartition("/")[0], one[0]))
    asks_others = where is not None and "select" in where.lower()
    step = max(1, len(files)) if asks_others else SLIDES_AT_ONCE
    for first in range(0, len(files), step):
        yield dict(files[first : first + step])


def _ask(
    con: Connection,
    store: RunStore,
    files: dict[str, str],
    *,
    where: str | None,
    curation: str | None,
    first_unit: int,
) -> tuple[list[dict[str, str]], _Part]:
    """The slides among `files` that have objects, and their chosen rows."""
    create_objects_view(con, store, files if len(files) <= SLIDES_AT_ONCE else None, view="chosen")
    said = query_table(
        con, "SELECT slide_id, min(arrays) AS arrays, min(well) AS well FROM chosen GROUP BY slide_id"
    )
    order = {slide_id: number for number, slide_id in enumerate(files)}
    # A run that goes on may have committed others since it was listed.
    known = [slide for slide in said.to_pylist() if slide["slide_id"] in order]
    slides = sorted(known, key=lambda slide: order[slide["slide_id"]])
    names = pa.array([slide["slide_id"] for slide in slides], pa.string())
    units = pa.array(range(first_unit, first_unit + len(slides)), pa.int32())
    con.register("numbered", pa.table({"slide_id": names, "unit": units}))
    # The line breaks keep a comment at the end of the condition from swallowing what follows.
    condition = f"WHERE (\n{where}\n)" if where else ""
    weight, join = ("k.weight", _curated(min(order), max(order))) if curation else ("1", "")
    found = query_table(
        con,
        f"SELECT n.unit, c.object_id, c.opacity IS NULL AS lost, c.width_um, c.height_um, {weight}::FLOAT AS weight "
        "FROM (SELECT slide_id, object_id, opacity, width_um, height_um FROM chosen AS objects "
        f"{condition}) AS c JOIN numbered AS n ON n.slide_id = c.slide_id {join} ORDER BY n.unit, c.object_id",
    )
    return slides, _checked(found, curation)


def _curated(first: str, last: str) -> str:
    """The join with the curation; the bounds let DuckDB leave row groups of other slides unread."""
    low, high = (name.replace("'", "''") for name in (first, last))
    return (
        "JOIN (SELECT slide_id, object_id, weight FROM curation WHERE keep "
        f"AND slide_id BETWEEN '{low}' AND '{high}') AS k "
        "ON k.slide_id = c.slide_id AND k.object_id = c.object_id"
    )


def _checked(found: pa.Table, curation: str | None) -> _Part:
    columns = {name: found[name].to_numpy() for name in found.column_names}
    unit, object_id, weight = columns["unit"], columns["object_id"], columns["weight"]
    repeated = (np.diff(unit) == 0) & (np.diff(object_id) == 0)
    if repeated.any():
        raise UsageError(
            f"{curation} names {int(repeated.sum())} crops more than once, perhaps those of several runs whose "
            "slides have the same names; make it of this run alone with `fossilray curate`"
        )
    if not (np.isfinite(weight).all() and (weight >= 0).all()):
        raise UsageError(f"{curation} holds a weight that is negative or no number; weights are 0 or more")
    lost = columns["lost"].astype(bool)
    width, height = (np.maximum(columns[name], 1e-3) for name in ("width_um", "height_um"))
    aspect = np.log(width / height).astype(np.float16)
    kept = ~lost
    return _Part(
        unit[kept], object_id[kept], aspect[kept], weight[kept] if curation else None, int(lost.sum())
    )
