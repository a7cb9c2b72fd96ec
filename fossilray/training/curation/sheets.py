"""A contact sheet for each cluster: a random sample of its crops, small and in their aspect ratio."""

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

_CELL_PX = 72
_COLUMNS = 8
_GAP_PX = 3
_BACKGROUND = (239, 237, 234)


@dataclass(frozen=True)
class ClusterSample:
    """A random sample of each cluster's objects: those with the smallest random keys so far."""

    shown: int
    """Maximum number of objects of a cluster."""
    cluster: NDArray[np.int32]
    random_key: NDArray[np.float64]
    run: NDArray[np.int32]
    group: NDArray[np.object_]
    """Path of the slide's Zarr group."""
    object_id: NDArray[np.int32]
    log_aspect: NDArray[np.float32]

    @staticmethod
    def empty(*, shown: int) -> ClusterSample:
        """Return a sample without objects."""
        numbers = np.zeros(0, np.int32)
        return ClusterSample(
            shown, numbers, np.zeros(0), numbers, np.zeros(0, object), numbers, np.zeros(0, np.float32)
        )

    def add(
        self,
        slide: SlideObjects,
        rows: NDArray[np.intp],
        cluster: NDArray[np.int32],
        random_key: NDArray[np.float64],
    ) -> ClusterSample:
        """Return the sample after adding rows of a slide, with the cluster and a random key of each row."""
        count = len(rows)
        clusters = np.append(self.cluster, cluster)
        keys = np.append(self.random_key, random_key)
        order = np.lexsort((keys, clusters))
        starts = np.searchsorted(clusters[order], clusters[order])
        chosen = order[np.arange(len(order)) - starts < self.shown]
        return ClusterSample(
            self.shown,
            clusters[chosen],
            keys[chosen],
            np.append(self.run, np.full(count, slide.run, np.int32))[chosen],
            np.append(self.group, np.full(count, slide.arrays, object))[chosen],
            np.append(self.object_id, slide.object_id[rows])[chosen],
            np.append(self.log_aspect, slide.log_aspect[rows])[chosen],
        )


@dataclass(frozen=True)
class ClusterSheets:
    """Contact sheets of clusters."""

    sheets: dict[int, Image]
    """By cluster."""
    unreadable: int
    """Number of crops that could not be read; their cells are grey."""


def draw_sheets(stores: Sequence[RunStore], sample: ClusterSample, *, clusters: int) -> ClusterSheets:
    """Draw a contact sheet of every cluster that has objects.

    Raises:
        StoreUnreachable: A store does not respond.
    """
    cells = np.empty((len(sample.cluster), _CELL_PX, _CELL_PX, 3), np.uint8)
    unreadable = 0
    for run, store in enumerate(stores):
        source = RunSource.of(store)
        letterboxed = store.read_run().config["crops"]["fit"] == "letterbox"
        of_run = np.flatnonzero(sample.run == run)
        for group in sorted(set(sample.group[of_run].tolist())):
            rows = of_run[sample.group[of_run] == group]
            for row, encoded in zip(rows.tolist(), source.read(group, sample.object_id[rows]), strict=True):
                crop = np.empty((2 * _CELL_PX, 2 * _CELL_PX, 3), np.uint8)
                try:
                    if isinstance(encoded, StoreError):
                        raise encoded
                    source.decode(encoded, crop)
                except StoreError:
                    unreadable += 1
                    crop[:] = FAILED_GREY
                aspect = 1.0 if letterboxed else math.exp(sample.log_aspect[row])
                cells[row] = centre_in_square(crop, aspect, 1.0, side_px=_CELL_PX, ground=_BACKGROUND)
    sheets = {
        cluster: tile_grid(
            cells[sample.cluster == cluster], columns=_COLUMNS, gap_px=_GAP_PX, ground=_BACKGROUND
        )
        for cluster in range(clusters)
        if (sample.cluster == cluster).any()
    }
    return ClusterSheets(sheets, unreadable)
