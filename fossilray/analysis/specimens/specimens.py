"""Objects of a run that are chosen as specimens: by name, by link, from a table or by a condition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fossilray.analysis.specimens.link import SCHEME, SpecimenLink, link_to, parse_link
from fossilray.core.boxes import box_iou
from fossilray.core.errors import UsageError
from fossilray.core.records import SlideSummary
from fossilray.core.slide_names import parse_object_name
from fossilray.core.text import list_some
from fossilray.core.user_table import read_user_table
from fossilray.store import RunStore
from fossilray.store.derived.listing import DerivedListing, current_predictions
from fossilray.store.query.connection import (
    connect,
    create_objects_view,
    objects_where,
    query_table,
)

MIN_IOU = 0.5
"""Overlap from which the box of a link and that of an object are one, as in PASCAL VOC (Everingham et al. 2010)."""

SpecimenKey = tuple[str, int]


@dataclass(frozen=True)
class RunSpecimen:
    """An object that is cited or figured."""

    slide: SlideSummary
    object_id: int
    arrays: str
    """Zarr group of its crop, as in `objects`."""
    box: tuple[int, int, int, int]
    """x_min, y_min, x_max, y_max in level-0 px."""
    width_um: float
    height_um: float
    taxon: str | None
    taxon_from: str | None
    """`prediction NAME (score)` or the name of the table; None without a taxon."""
    remark: str = ""

    @property
    def name(self) -> str:
        """SLIDE:ID."""
        return f"{self.slide.slide_id}:{self.object_id}"

    @property
    def link(self) -> SpecimenLink:
        """The link to its box."""
        return link_to(self.slide, self.box)

    @property
    def centre_mm(self) -> tuple[float, float]:
        """The middle of its box, in mm from the top left corner of the scanned area."""
        return centre_in_scan(self.slide, self.box)


@dataclass(frozen=True)
class ChosenObject:
    """An object that the user names, with what he states about it."""

    name: str
    """SLIDE:ID or a link."""
    taxon: str = ""
    remark: str = ""
    source: str = ""
    """Name of the table that states it."""


def centre_in_scan(slide: SlideSummary, box: Sequence[int]) -> tuple[float, float]:
    """Return the middle of a box in mm from the top left corner of the scanned area."""
    mm = slide.mpp / 1000
    return ((box[0] + box[2]) / 2 - slide.bounds_x) * mm, ((box[1] + box[3]) / 2 - slide.bounds_y) * mm


def read_chosen(path: Path) -> list[ChosenObject]:
    """Read a table of objects: slide_id and object_id, or link; and taxon and remark where they are stated.

    Raises:
        UsageError: the file is no such table.
    """
    table = read_user_table(path, use="specimens", columns=())
    if not table.has("link") and not table.has("slide_id", "object_id"):
        raise table.role.damaged(
            f"it has the columns {list_some(table.header, most=12) or 'none'}; expected slide_id and object_id, or link"
        )
    return [
        ChosenObject(
            row["link"] or f"{row['slide_id']}:{row.object_id('object_id')}",
            row["taxon"],
            row["remark"],
            path.name,
        )
        for row in table.rows
    ]


def find_chosen(
    store: RunStore, chosen: Sequence[ChosenObject], *, head: str | None = None
) -> list[RunSpecimen]:
    """Return objects that are named, in their order.

    head: name of the predictions that give a taxon where none is stated; None: the newest; `none`: none.

    Raises:
        UsageError: the run does not hold one of them, or one is named twice.
    """
    slides = {summary.slide_id: summary for summary in store.summaries()}
    keys = [_key_of(store, slides, named.name) for named in chosen]
    if repeated := sorted({key for key in keys if keys.count(key) > 1}):
        raise UsageError(f"{_shown(repeated[0])} is named {keys.count(repeated[0])} times; name it once")
    by_key = {
        (specimen.slide.slide_id, specimen.object_id): specimen
        for specimen in _read_objects(store, slides, keys, head)
    }
    if missing := [key for key in keys if key not in by_key]:
        raise UsageError(
            f"{store.url} does not hold the object {list_some(map(_shown, missing))}; `fossilray query` lists slide_id "
            "and object_id"
        )
    return [
        replace(
            by_key[key],
            taxon=named.taxon or by_key[key].taxon,
            taxon_from=named.source if named.taxon else by_key[key].taxon_from,
            remark=named.remark,
        )
        for key, named in zip(keys, chosen, strict=True)
    ]


def find_matching(
    store: RunStore, where: str, *, limit: int | None = None, head: str | None = None
) -> tuple[list[RunSpecimen], int]:
    """Return the first objects that meet a condition, by well, slide and number, and how many more there are.

    Raises:
        UsageError: no object meets it.
        QueryError: DuckDB refuses it.
    """
    summaries = store.summaries()
    genera = current_predictions(store, head, summaries)
    con = connect(store, sql=where)
    create_objects_view(con, store, None, genera=genera)
    table = query_table(con, objects_where(where))
    if not table.num_rows:
        raise UsageError(f"no object of {store.url} meets {where!r:.120}; loosen --where")
    slides = {summary.slide_id: summary for summary in summaries}
    shown = table.slice(0, table.num_rows if limit is None else limit)
    return _specimens(shown, slides, genera), table.num_rows - shown.num_rows


def _key_of(store: RunStore, slides: dict[str, SlideSummary], name: str) -> SpecimenKey:
    return (
        _find_linked(store, slides, parse_link(name)) if name.startswith(SCHEME) else parse_object_name(name)
    )


def _find_linked(store: RunStore, slides: dict[str, SlideSummary], link: SpecimenLink) -> SpecimenKey:
    """The object whose box covers that of a link best.

    Raises:
        UsageError: the run has no such scan, or no object there.
    """
    on_scan = sorted(slide_id for slide_id, summary in slides.items() if link.is_on(summary))
    if not on_scan:
        raise UsageError(f"{store.url} has no slide that is the scan of {link}")
    con = connect(store)
    files = store.committed_files()
    create_objects_view(con, store, {name: files[name] for name in on_scan if name in files})
    # A file of a compacted dataset holds other slides, too.
    con.register("linked", pa.table({"slide_id": pa.array(on_scan, pa.string())}))
    table = query_table(
        con,
        "SELECT slide_id, object_id, x_min, y_min, x_max, y_max FROM objects JOIN linked USING (slide_id) "
        "ORDER BY slide_id, object_id",
    )
    boxes = np.stack([table[name].to_numpy() for name in ("x_min", "y_min", "x_max", "y_max")], axis=1)
    overlap = box_iou(boxes, np.array(link.box))
    if not len(overlap) or overlap.max() < MIN_IOU:
        best = f"; the nearest overlaps by {overlap.max():.2f}" if len(overlap) else ""
        raise UsageError(
            f"no object of {store.url} overlaps the box of {link} by {MIN_IOU:g} (IoU) or more{best}"
        )
    row = int(overlap.argmax())
    return table["slide_id"][row].as_py(), table["object_id"][row].as_py()


def _read_objects(
    store: RunStore, slides: dict[str, SlideSummary], keys: Sequence[SpecimenKey], head: str | None
) -> list[RunSpecimen]:
    named = {slide_id: slides[slide_id] for slide_id, _ in keys if slide_id in slides}
    genera = current_predictions(store, head, named.values())
    files = store.committed_files()
    con = connect(store)
    create_objects_view(con, store, {name: files[name] for name in named if name in files}, genera=genera)
    con.register(
        "named",
        pa.table(
            {
                "slide_id": pa.array([slide_id for slide_id, _ in keys], pa.string()),
                "object_id": pa.array([object_id for _, object_id in keys], pa.int32()),
            }
        ),
    )
    table = query_table(con, "SELECT objects.* FROM objects JOIN named USING (slide_id, object_id)")
    return _specimens(table, slides, genera)


def _specimens(
    table: pa.Table, slides: dict[str, SlideSummary], genera: DerivedListing | None
) -> list[RunSpecimen]:
    return [_specimen(row, slides[row["slide_id"]], genera) for row in table.to_pylist()]


def _specimen(row: dict[str, Any], slide: SlideSummary, genera: DerivedListing | None) -> RunSpecimen:
    genus = row.get("genus")
    source = None
    if genus is not None and genera is not None:
        source = f"prediction {genera.results.name} ({row['genus_score']:.2f})"
    return RunSpecimen(
        slide,
        row["object_id"],
        row["arrays"],
        (row["x_min"], row["y_min"], row["x_max"], row["y_max"]),
        row["width_um"],
        row["height_um"],
        genus,
        source,
    )


def _shown(key: SpecimenKey) -> str:
    return f"{key[0]}:{key[1]}"
