"""A contact sheet for each cluster: some of its crops, drawn at random, small and in true proportions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import StoreError
from fossilray.core.images import FAILED_GREY
from fossilray.core.types import Image
from fossilray.render.contact_sheet import tile_grid
from fossilray.render.crops import centre_in_square
from fossilray.store import RunStore
from fossilray.store.query.slide_objects import SlideObjects
from fossilray.training.crops.sources import RunSource

CELL_PX = 72
_ACROSS = 8
_GAP_PX = 3
_GROUND = (239, 237, 234)


@dataclass(frozen=True)
class ClusterSample:
    """Some objects of each cluster, those that drew the lowest lots so far."""

    shown: int
    """Most of a cluster."""
    cluster: NDArray[np.int32]
    lot: NDArray[np.float64]
    run: NDArray[np.int32]
    place: NDArray[np.object_]
    """The Zarr group of the slide."""
    object_id: NDArray[np.int32]
    log_aspect: NDArray[np.float32]

    @staticmethod
    def nothing(*, shown: int) -> ClusterSample:
        numbers = np.zeros(0, np.int32)
        return ClusterSample(
            shown, numbers, np.zeros(0), numbers, np.zeros(0, object), numbers, np.zeros(0, np.float32)
        )

    def among(
        self,
        slide: SlideObjects,
        rows: NDArray[np.intp],
        cluster: NDArray[np.int32],
        lot: NDArray[np.float64],
    ) -> ClusterSample:
        """The lowest lots of these and of some rows of a slide with their clusters."""
        count = len(rows)
        of = np.append(self.cluster, cluster)
        lots = np.append(self.lot, lot)
        order = np.lexsort((lots, of))
        starts = np.searchsorted(of[order], of[order])
        chosen = order[np.arange(len(order)) - starts < self.shown]
        return ClusterSample(
            self.shown,
            of[chosen],
            lots[chosen],
            np.append(self.run, np.full(count, slide.run, np.int32))[chosen],
            np.append(self.place, np.full(count, slide.arrays, object))[chosen],
            np.append(self.object_id, slide.object_id[rows])[chosen],
            np.append(self.log_aspect, slide.log_aspect[rows])[chosen],
        )


@dataclass(frozen=True)
class Sheets:
    """Contact sheets by cluster."""

    sheets: dict[int, Image]
    unreadable: int
    """Crops that could not be read; their cells are grey."""


def draw_sheets(stores: Sequence[RunStore], drawn: ClusterSample, *, clusters: int) -> Sheets:
    """The sheet of every cluster that has objects.

    Raises:
        StoreUnreachable: a store does not answer.
    """
    cells = np.empty((len(drawn.cluster), CELL_PX, CELL_PX, 3), np.uint8)
    unreadable = 0
    for run, store in enumerate(stores):
        source = RunSource.of(store)
        letterboxed = store.read_run().config["crops"]["fit"] == "letterbox"
        of_run = np.flatnonzero(drawn.run == run)
        for place in sorted(set(drawn.place[of_run].tolist())):
            rows = of_run[drawn.place[of_run] == place]
            for row, encoded in zip(rows.tolist(), source.read(place, drawn.object_id[rows]), strict=True):
                crop = np.empty((2 * CELL_PX, 2 * CELL_PX, 3), np.uint8)
                try:
                    if isinstance(encoded, StoreError):
                        raise encoded
                    source.decode(encoded, crop)
                except StoreError:
                    unreadable += 1
                    crop[:] = FAILED_GREY
                aspect = 1.0 if letterboxed else math.exp(drawn.log_aspect[row])
                cells[row] = centre_in_square(crop, aspect, 1.0, side_px=CELL_PX, ground=_GROUND)
    sheets = {
        cluster: tile_grid(cells[drawn.cluster == cluster], columns=_ACROSS, gap_px=_GAP_PX, ground=_GROUND)
        for cluster in range(clusters)
        if (drawn.cluster == cluster).any()
    }
    return Sheets(sheets, unreadable)
