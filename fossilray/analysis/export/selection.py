"""Selection of the objects of an export, slide by slide, for all formats.

Boxes are in level-0 pixels of OpenSlide's frame, as in Parquet. Runs of earlier versions hold boxes that reach beyond
the scanned area; exports clip them to it and count them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fossilray.core.errors import QueryError, UsageError
from fossilray.core.formats.parquet import read_parquet_metadata
from fossilray.core.name_source import predicted_source
from fossilray.core.records import SlideSummary
from fossilray.core.schemas import NEW_OBJECT_COLUMNS, OBJECTS_SCHEMA
from fossilray.core.slide_names import check_slide_id
from fossilray.core.text import list_some
from fossilray.store import RunStore
from fossilray.store.derived.listing import DerivedListing, current_predictions
from fossilray.store.query.connection import connect, create_objects_view, objects_where, query_table
from fossilray.store.run.roles import objects_file

SAVED_JPEG_QUALITY = 95
"""Quality of crops and tiles saved as files. It is above the store's 90, so that saving adds no visible loss."""

CORNERS = ("x_min", "y_min", "x_max", "y_max")


@dataclass(frozen=True)
class ExportResult:
    """Counts of an export."""

    objects: int
    clipped: int = 0
    """Objects whose box reached beyond the scanned area."""
    without_pixels: int = 0
    """Objects left out because their pixels could not be read, so that they have no embedding."""
    without_genus: int = 0
    """Objects left out because they have no predicted genus."""


@dataclass(frozen=True)
class SelectedObjects:
    """The selected objects of one slide."""

    summary: SlideSummary
    table: pa.Table
    """Columns of `objects`, with boxes clipped to the scanned area."""
    stored: pa.Table
    """The same rows with boxes as stored, which their crops show."""
    clipped: int
    """Rows whose box was clipped."""


class ObjectSelection:
    """The objects of a run, or of some of its slides, that meet a condition. Memory holds one slide.

    Args:
        where: SQL condition on `objects`.
        slides: slide_ids of the only slides; none: all slides.
        head: name of the predictions whose columns are added to those of `objects`; None: the newest; `none`: none.

    Raises:
        QueryError: DuckDB refuses the condition.
        UsageError: a slide is not in the run.
        RunNotFound: the run has no predictions of this name.
    """

    def __init__(
        self,
        store: RunStore,
        *,
        where: str | None = None,
        slides: Collection[str] = (),
        head: str | None = None,
    ) -> None:
        self.store = store
        self.slides = select_slides(store, slides)
        self._where = where
        self._genera = current_predictions(store, head, self.slides)
        self._con = connect(store, sql=where or "")
        # An invalid condition is refused even if there are no slides, and before any file is created.
        create_objects_view(self._con, store, {}, genera=self._genera)
        self.columns: tuple[str, ...] = tuple(
            query_table(self._con, f"{objects_where(where)} LIMIT 0").column_names
        )
        self._files = store.committed_files()

    @property
    def predictions(self) -> str | None:
        """Name of the predictions; None without."""
        return None if self._genera is None else self._genera.results.name

    @property
    def name_source(self) -> str:
        """Mark of the names of the predictions, for the column `name_source`; empty without predictions."""
        return "" if self._genera is None else predicted_source(self._genera.results.record.head)

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of the predictions' head, in its order; empty without predictions."""
        return _classes_of(self._genera)

    def __iter__(self) -> Iterator[SelectedObjects]:
        for summary in self.slides:
            yield self.read(summary)

    def read(self, summary: SlideSummary) -> SelectedObjects:
        """Read the selected objects of one slide."""
        self._show(summary)
        stored = query_table(self._con, objects_where(self._where))
        table, clipped = clip_to_scan(stored, summary)
        return SelectedObjects(summary, table, stored, clipped)

    def all_boxes(self, summary: SlideSummary) -> NDArray[np.int64]:
        """Return boxes (n, 4) of all objects of one slide, selected or not, clipped to the scanned area."""
        self._show(summary)
        table, _ = clip_to_scan(query_table(self._con, f"SELECT {', '.join(CORNERS)} FROM objects"), summary)
        return corners_of(table)

    def _show(self, summary: SlideSummary) -> None:
        # A compacted dataset has no file for a slide without objects.
        slide_id = summary.slide_id
        files = {slide_id: self._files[slide_id]} if slide_id in self._files else {}
        try:
            create_objects_view(self._con, self.store, files, genera=self._genera)
        except QueryError:
            # The condition was checked against the schema, so the file differs from it.
            for path in files.values():
                _require_columns(self.store, path)
            raise


def _require_columns(store: RunStore, path: str) -> None:
    """Check that an objects file has all columns of its version, also those that may be null.

    Raises:
        DamagedFile: a column is missing.
    """
    role = objects_file(f"{store.url}/{path}")
    schema = read_parquet_metadata(store.files.read(path), role).schema.to_arrow_schema()
    expected = [name for name in OBJECTS_SCHEMA.names if name not in NEW_OBJECT_COLUMNS]
    if missing := [name for name in expected if name not in schema.names]:
        raise role.damaged(f"it has no column {list_some(missing)}")


def select_slides(store: RunStore, slide_ids: Collection[str]) -> list[SlideSummary]:
    """Return all committed slides, or those of some slide_ids.

    Raises:
        UsageError: a slide is not in the run.
    """
    summaries = store.summaries()
    if not slide_ids:
        return summaries
    if missing := sorted(set(slide_ids) - {summary.slide_id for summary in summaries}):
        raise UsageError(
            f"{store.url} has no committed slide {list_some(missing)}; `fossilray query` lists slide_id"
        )
    return [summary for summary in summaries if summary.slide_id in slide_ids]


def clip_to_scan(table: pa.Table, summary: SlideSummary) -> tuple[pa.Table, int]:
    """Clip boxes to the slide's bounds; return the table and the number of clipped boxes.

    Sizes are changed with the box. A box stays at least one pixel wide and high, so that no object is lost.
    """
    corners = corners_of(table)
    first = np.array([summary.bounds_x, summary.bounds_y])
    last = first + np.maximum([summary.bounds_width, summary.bounds_height], 1)
    low = corners[:, :2].clip(first, last - 1)
    inside = np.hstack([low, corners[:, 2:].clip(low + 1, last)])
    is_clipped = (inside != corners).any(axis=1)
    if not is_clipped.any():
        return table, 0
    share = (inside[:, 2:] - inside[:, :2]) / np.maximum(corners[:, 2:] - corners[:, :2], 1)
    changed: dict[str, NDArray[np.generic]] = {name: inside[:, axis] for axis, name in enumerate(CORNERS)}
    for name, factor in (
        ("width_um", share[:, 0]),
        ("height_um", share[:, 1]),
        ("area_um2", share.prod(axis=1)),
    ):
        if name in table.column_names:
            changed[name] = np.where(is_clipped, table[name].to_numpy() * factor, table[name].to_numpy())
    if "touches_edge" in table.column_names:
        changed["touches_edge"] = table["touches_edge"].to_numpy(zero_copy_only=False) | is_clipped
    for name, values in changed.items():
        position = table.schema.get_field_index(name)
        field = table.schema.field(position)
        table = table.set_column(position, field, pa.array(values).cast(field.type))
    return table, int(is_clipped.sum())


def corners_of(table: pa.Table) -> NDArray[np.int64]:
    """Return x_min, y_min, x_max, y_max (n, 4) of a table's rows."""
    return np.stack([table[name].to_numpy() for name in CORNERS], axis=1).astype(np.int64)


def file_stems(slide_ids: Iterable[str]) -> dict[str, str]:
    """Return the stem of each slide's file names: its slide_id, made unique for file systems that ignore case.

    Raises:
        CatalogError: a slide_id is not safe as a file name.
    """
    stems: dict[str, str] = {}
    taken: set[str] = set()
    for slide_id in sorted(slide_ids):
        stem, number = check_slide_id(slide_id), 2
        # A17 and a17 are one file on Windows and macOS. No slide_id contains `~`.
        while (folded := unicodedata.normalize("NFC", stem).casefold()) in taken:
            stem, number = f"{slide_id}~{number}", number + 1
        taken.add(folded)
        stems[slide_id] = stem
    return stems


def _classes_of(genera: DerivedListing | None) -> tuple[str, ...]:
    return () if genera is None else tuple((genera.results.record.head or {}).get("classes", ()))
