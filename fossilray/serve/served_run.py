"""A run as the pages show it: its slides, the objects in memory, tiles, crops and labels."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.specimens.slide_files import AvailableFiles
from fossilray.core.errors import UsageError
from fossilray.core.records import SlideSummary
from fossilray.labels.audit.audit_record import Audit
from fossilray.labels.label import MISSED, Box, Label, ObjectKey
from fossilray.serve.label_desk import LabelDesk
from fossilray.serve.object_table import ObjectTable, Order, read_object_table
from fossilray.serve.slide_tiles import SlideTiles
from fossilray.serve.well_chart import WellCharts
from fossilray.store import RunStore
from fossilray.store.arrays.crops import read_crops, read_encoded_crops
from fossilray.store.derived.listing import DerivedListing, current_predictions
from fossilray.store.query.connection import connect, create_objects_view, query_table
from fossilray.store.query.views import quote
from fossilray.store.run.layout import arrays_path
from fossilray_jpeg import encode_jpeg

Queue = Literal["all", "audit"]

_CROP_QUALITY = 92
_MARGIN = 1.5
"""Surroundings on each side of an object, in longest sides of its box."""
_LEAST_CONTEXT_PX = 96
_MOST_CONTEXT_PX = 640


@dataclass(frozen=True)
class GridQuery:
    """Which objects a grid of crops shows, and in what order."""

    status: str = "all"
    """`all`, `unlabelled`, `labelled`, `unsure` or `conflict`."""
    taxa: tuple[str, ...] | None = None
    """Predicted taxa; an empty name: objects without a prediction."""
    label: str | None = None
    """Name of the current label, or the genus of it."""
    slide_ids: tuple[str, ...] | None = None
    well: str | None = None
    least: float = 0.0
    most: float = 1.0
    order: Order = "slide"
    seed: int = 0
    queue: Queue = "all"
    """`audit`: the objects of the audit, in its random order and without conditions on predictions."""


class ServedRun:
    """One run that is served; its objects are read at the first use.

    folder: where the slides lie now; None: where the run was made. labels: folder of the label set that acts go to;
    None: the pages label nothing. predictions: a name; None: the newest. audit: an audit of this run, whose objects
    are a queue of their own.
    """

    def __init__(
        self,
        key: str,
        store: RunStore,
        *,
        folder: Path | None = None,
        labels: Path | None = None,
        predictions: str | None = None,
        audit: Audit | None = None,
    ) -> None:
        self.key, self.store, self.audit = key, store, audit
        self.summaries: dict[str, SlideSummary] = {row.slide_id: row for row in store.summaries()}
        self.predictions: DerivedListing | None = current_predictions(
            store, predictions, self.summaries.values()
        )
        self.tiles = SlideTiles(AvailableFiles(folder))
        self._reading = threading.Lock()
        self._labelled: tuple[int, NDArray[np.bool_]] | None = None
        self.desk = (
            None
            if labels is None
            else LabelDesk(
                store,
                labels,
                box_of=self.box_of,
                chosen_by={} if audit is None else dict.fromkeys(audit.objects, audit.record.chosen_by),
            )
        )
        self.charts = WellCharts(store, self.desk, self.predictions)

    @cached_property
    def _table(self) -> ObjectTable:
        audited = () if self.audit is None else self.audit.objects
        return read_object_table(
            self.store, self.predictions, always_held={slide_id for slide_id, _ in audited}
        )

    @property
    def objects(self) -> ObjectTable:
        """The objects in memory."""
        with self._reading:
            return self._table

    def slide(self, slide_id: str) -> SlideSummary:
        """Return a committed slide.

        Raises:
            UsageError: the run holds none of this name.
        """
        try:
            return self.summaries[slide_id]
        except KeyError:
            raise UsageError(f"the run holds no slide {slide_id!r:.100}") from None

    def box_of(self, slide_id: str, object_id: int) -> Box | None:
        """Return the box of an object; None if the run lacks it."""
        row = self.objects.row_of(slide_id, object_id)
        if row is not None:
            x_min, y_min, x_max, y_max = self.objects.boxes[row].tolist()
            return (x_min, y_min, x_max, y_max)
        if slide_id in self.objects.slides or slide_id not in self.summaries:
            return None
        columns = self.describe(slide_id, object_id)
        return (
            None
            if columns is None
            else (columns["x_min"], columns["y_min"], columns["x_max"], columns["y_max"])
        )

    def describe(self, slide_id: str, object_id: int) -> dict[str, Any] | None:
        """Return all columns of an object, with its prediction; None if the run lacks it."""
        path = self.store.committed_files().get(slide_id)
        if path is None:
            return None
        con = connect(self.store)
        create_objects_view(con, self.store, {slide_id: path}, genera=self.predictions)
        rows = query_table(
            con,
            f"SELECT * FROM objects WHERE slide_id = {quote(slide_id)} AND object_id = {int(object_id)}",
        ).to_pylist()
        return rows[0] if rows else None

    def crop(self, slide_id: str, attempt: str, object_id: int) -> bytes:
        """Return a stored crop as JPEG, as it is stored if it is one.

        Raises:
            UsageError: the run holds no such object of this attempt.
            StoreError: the arrays are missing or damaged.
        """
        summary = self.slide(slide_id)
        if attempt != summary.attempt or not 0 <= object_id < summary.objects:
            raise UsageError(f"{slide_id} has no object {object_id} of the attempt {attempt!r:.60}")
        path = arrays_path(slide_id, attempt)
        home = self.store.source_run
        (encoded,) = read_encoded_crops(home, path, [object_id])
        if encoded[:2] == b"\xff\xd8":
            return encoded
        return encode_jpeg(read_crops(home, path, [object_id])[0], quality=_CROP_QUALITY)

    def surroundings(self, slide_id: str, object_id: int) -> tuple[bytes, tuple[int, int, int, int]]:
        """Return an object with its surroundings as JPEG, and the region in level-0 px.

        Raises:
            UsageError: the run holds no such object.
            SlideError: the slide is not available.
        """
        summary, box = self.slide(slide_id), self.box_of(slide_id, object_id)
        if box is None:
            raise UsageError(f"{slide_id} has no object {object_id}")
        margin = _MARGIN * max(box[2] - box[0], box[3] - box[1])
        side = max(_LEAST_CONTEXT_PX, 2 * margin + max(box[2] - box[0], box[3] - box[1]))
        middle_x, middle_y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        left, top = round(middle_x - side / 2), round(middle_y - side / 2)
        region = (left, top, left + round(side), top + round(side))
        pixels = self.tiles.region(summary, region, most_px=_MOST_CONTEXT_PX)
        return encode_jpeg(pixels, quality=_CROP_QUALITY), region

    def grid(self, query: GridQuery) -> NDArray[np.int64]:
        """Return the rows of the objects that a grid shows, in its order.

        Raises:
            UsageError: the queue is that of an audit, and there is none, or a condition would show its predictions.
        """
        table = self.objects
        slides = self._slides_of(query)
        if query.queue == "audit":
            if query.taxa is not None or (query.least, query.most) != (0.0, 1.0):
                raise UsageError("an audit hides the predictions; remove the conditions on them")
            drawn = self._audited_rows
            return drawn[np.isin(drawn, table.choose(slides=slides, among=self._among(query)))]
        rows = table.choose(
            slides=slides, taxa=query.taxa, confidence=(query.least, query.most), among=self._among(query)
        )
        return table.sort(rows, query.order, seed=query.seed)

    @cached_property
    def _audited_rows(self) -> NDArray[np.int64]:
        """Rows of the objects of the audit, in its order."""
        if self.audit is None:
            raise UsageError("no audit is served; start `fossilray serve` with --audit FOLDER")
        rows = [self.objects.row_of(*key) for key in self.audit.objects]
        return np.array([row for row in rows if row is not None], np.int64)

    def audited_and_labelled(self) -> int:
        """Return how many objects of the audit have a label."""
        return int(self._labelled_mask()[self._audited_rows].sum()) if self.desk is not None else 0

    def labels_of(self, slide_id: str, object_id: int) -> tuple[Label, ...]:
        """Return the current labels of an object, the newest last."""
        if self.desk is None:
            return ()
        return self.desk.labels_of((slide_id, object_id, self.summaries[slide_id].attempt))

    def missed_on(self, slide_id: str) -> list[Label]:
        """Return the labels of objects that the detector missed on a slide."""
        if self.desk is None:
            return []
        return [
            labels[-1]
            for key, labels in self.desk.labelled().items()
            if key[0] == slide_id and key[1] == MISSED
        ]

    def close(self) -> None:
        """Close the slides."""
        self.tiles.close()

    def _slides_of(self, query: GridQuery) -> list[str] | None:
        if query.slide_ids is not None:
            return list(query.slide_ids)
        if query.well is not None:
            return [slide_id for slide_id, row in self.summaries.items() if (row.well or "") == query.well]
        return None

    def _among(self, query: GridQuery) -> NDArray[np.bool_] | None:
        if self.desk is None or (query.status == "all" and query.label is None):
            return None
        if query.status == "unlabelled":
            return ~self._labelled_mask()
        if query.status == "labelled" and query.label is None:
            return self._labelled_mask()
        conflicts = set(self.desk.conflicts()) if query.status == "conflict" else set()

        def fits(key: ObjectKey, labels: tuple[Label, ...]) -> bool:
            stated = labels[-1].occurrence
            name = stated.name or stated.shown
            if query.label is not None and query.label not in (name, name.partition(" ")[0]):
                return False
            return (
                query.status in ("all", "labelled")
                or (query.status == "unsure" and stated.is_unsure)
                or key in conflicts
            )

        return self._mask([key for key, labels in self.desk.labelled().items() if fits(key, labels)])

    def _labelled_mask(self) -> NDArray[np.bool_]:
        assert self.desk is not None, "there is a label set where labels are wanted"
        number = self.desk.newest_act
        if self._labelled is None or self._labelled[0] != number:
            self._labelled = (number, self._mask(list(self.desk.labelled())))
        return self._labelled[1]

    def _mask(self, keys: list[ObjectKey]) -> NDArray[np.bool_]:
        table = self.objects
        mask = np.zeros(len(table), bool)
        rows = [table.row_of(slide_id, object_id) for slide_id, object_id, _ in keys if object_id != MISSED]
        mask[[row for row in rows if row is not None]] = True
        return mask
