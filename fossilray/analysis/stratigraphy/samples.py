"""The samples of a well from the top down: what a classifier called their objects, and what was lost of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.report.assemblages import gather_assemblages
from fossilray.core.csv_table import read_csv_table
from fossilray.core.errors import UsageError
from fossilray.core.records import SlideSummary, lost_share_of
from fossilray.store import RunStore
from fossilray.store.derived.listing import DerivedListing, current_predictions
from fossilray.store.query.connection import connect, create_objects_view


@dataclass(frozen=True)
class WellSample:
    """All slides of a well at one depth: preparations of one sample."""

    label: str
    """The first slide's name."""
    depth_m: float
    slides: int
    asked: int
    """Slides that have predictions."""
    objects: int
    """Objects that were given a class."""
    without: int
    """Objects that have none, because their pixels could not be read."""
    lost_share: float
    """Of the finest pass's foreground, and of the crops, what could not be read."""

    @property
    def is_barren(self) -> bool:
        return self.asked == self.slides and not self.objects

    @property
    def is_lossy(self) -> bool:
        return self.lost_share > 0


@dataclass(frozen=True)
class WellSamples:
    """A well's samples, and the calls (samples, labels) of their objects."""

    well: str
    predictions: DerivedListing
    labels: tuple[str, ...]
    """The classes of the head."""
    samples: tuple[WellSample, ...]
    calls: NDArray[np.int64]
    without_depth: tuple[str, ...]
    """Slides that are left out."""

    @property
    def depths(self) -> NDArray[np.float64]:
        return np.array([sample.depth_m for sample in self.samples])


def gather_samples(
    store: RunStore, well: str, *, head: str | None = None, depths: Mapping[str, float] | None = None
) -> WellSamples:
    """The samples of a well with the predictions of a head, the newest if none is named.

    depths: measured depths by slide_id, instead of the catalog's. Slides of equal depth are one sample. Slides
    without a depth have no place in a well and are left out.

    Raises:
        UsageError: the run has no such well or no predictions, no slide has a depth, or `depths` names a slide that
            the run has not.
    """
    everything = store.summaries()
    slides = [_place(slide, depths or {}) for slide in everything if slide.well == well]
    if not slides:
        wells = sorted({slide.well for slide in everything})
        raise UsageError(
            f"{store.url} has no committed slides of well {well!r}; it has {', '.join(wells[:12]) or 'none at all'}"
        )
    if strange := set(depths or {}) - {slide.slide_id for slide in everything}:
        raise UsageError(f"the depths name {_few(sorted(strange))}, which {store.url} does not have")
    chosen = current_predictions(store, head, slides)
    if chosen is None:
        raise UsageError(
            f"{store.url} has no predictions; run `fossilray classify run {store.url} --head FILE` first"
        )
    if not chosen.files:
        raise UsageError(
            f"the predictions {chosen.answers.name} say nothing of well {well}; run `fossilray classify run` again"
        )
    placed = [slide for slide in slides if slide.measured_depth_m is not None]
    if not placed:
        raise UsageError(
            f"no slide of well {well} has a measured depth, so it has no order; give --depths, a CSV of slide_id and "
            "measured_depth_m (`fossilray report` draws slides in the order of their names)"
        )
    con = connect(store)
    create_objects_view(
        con, store, {one: store.committed_files()[one] for one in chosen.files}, genera=chosen
    )
    found = gather_assemblages(con, placed, chosen.files.keys())
    stated = (chosen.answers.record.head or {}).get("classes", ())
    labels = (*stated, *(taxon for taxon in found.taxa if taxon not in stated))
    calls = np.zeros((len(found.samples), len(labels)), np.int64)
    columns = [labels.index(taxon) for taxon in found.taxa]
    for row, sample in enumerate(found.samples):
        calls[row, columns] = sample.counts
    return WellSamples(
        well=well,
        predictions=chosen,
        labels=labels,
        samples=tuple(
            WellSample(
                one.label,
                float(one.depth_m or 0.0),
                one.slides,
                one.asked,
                one.total,
                one.without,
                _lost([slide for slide in placed if slide.measured_depth_m == one.depth_m]),
            )
            for one in found.samples
        ),
        calls=calls,
        without_depth=tuple(slide.slide_id for slide in slides if slide.measured_depth_m is None),
    )


def read_depths(path: Path) -> dict[str, float]:
    """Measured depths by slide_id, from a CSV with the columns slide_id and measured_depth_m.

    Raises:
        UsageError: it is no such table, or gives one slide two depths.
    """
    table = read_csv_table(path, use="depths of slides", columns=("slide_id", "measured_depth_m"))
    depths: dict[str, float] = {}
    for row in table.rows:
        slide_id, depth = row["slide_id"], row.number("measured_depth_m")
        if not slide_id or depth is None:
            raise row.error("slide_id and measured_depth_m must both have a value")
        if depths.setdefault(slide_id, depth) != depth:
            raise row.error(f"slide {slide_id} has two depths, {depths[slide_id]:g} and {depth:g} m")
    return depths


def _place(slide: SlideSummary, depths: Mapping[str, float]) -> SlideSummary:
    depth = depths.get(slide.slide_id, slide.measured_depth_m)
    return replace(slide, measured_depth_m=depth if depth is not None and np.isfinite(depth) else None)


def _lost(slides: Sequence[SlideSummary]) -> float:
    objects = sum(slide.objects for slide in slides)
    lost_crops = sum(slide.crops_failed for slide in slides) / max(objects, 1)
    return 1 - (1 - min(lost_share_of(slides), 1.0)) * (1 - min(lost_crops, 1.0))


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
