"""A slide looked over: windows read ahead by threads while the detector works on those before them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from fossilray.blank import find_content, units_with_content
from fossilray.config import RunConfig
from fossilray.errors import TooManyObjects, TooMuchLost, UnreadableRegion
from fossilray.in_parts import in_order
from fossilray.merge import TileBoxes
from fossilray.records import Boxes, Detector, Image
from fossilray.slide import Slide
from fossilray.tiling import Sweep, Tile, plan_sweeps, read_tile
from fossilray.windows import plan_windows, quarter

# Pixels that wait for the detector, whatever the size of windows.
_MOST_WAITING_BYTES = 48_000_000
# On a device a batch is quicker than its windows one by one, and wants windows of one shape.
_SIDES_ON_DEVICE_PX = 128


@dataclass(frozen=True)
class Seen:
    """What the detector found in each tile, and what became of the tiles that were planned."""

    tiles: list[TileBoxes]
    tiles_planned: int
    tiles_blank: int
    tiles_failed: int
    coarsest_level: int
    content_mm2: float
    """Area of the finest sweep's tiles that are not blank, without their halos."""
    shown_megapixels: float
    """Shown to the detector, halos included, in 1e6 px of its scales."""


@dataclass(frozen=True)
class Lanes:
    """The threads that call the detector; more than one where copies to a device overlap with its work."""

    pool: ThreadPoolExecutor
    count: int


@dataclass(frozen=True)
class _Place:
    sweep: Sweep
    tile: Tile

    @property
    def shape(self) -> tuple[int, int, int]:
        window = self.tile.window
        return self.sweep.number, window.height, window.width

    @property
    def shown_px(self) -> int:
        return self.tile.window.width * self.tile.window.height

    @property
    def owned_mm2(self) -> float:
        return self.tile.core.width * self.tile.core.height * (self.sweep.um_per_px / 1000) ** 2


def look_over(
    slide: Slide,
    readers: ThreadPoolExecutor,
    *,
    detector: Detector,
    lanes: Lanes,
    config: RunConfig,
    name: str,
    progress: Callable[[float], None],
) -> Seen:
    """Every sweep of the detector over a slide, blank places left out.

    A window that cannot be read is tried again in ever smaller parts, so that little around a damage is lost.
    name: what errors call the slide. progress: told the share done, again and again.

    Raises:
        TooManyObjects: more boxes than slides.max_objects.
        TooMuchLost: a larger share of the area with content than the configuration allows cannot be read.
    """
    sweeps = plan_sweeps(slide.info, config.tiling, config.detector, detector.stride_px)
    content = find_content(slide, config.tiling)
    rounding = {"multiple_px": _SIDES_ON_DEVICE_PX} if lanes.count > 1 else {}
    plans = [plan_windows(sweep, units_with_content(sweep, content), **rounding) for sweep in sweeps]
    waiting = [_Place(sweep, tile) for sweep, plan in zip(sweeps, plans, strict=True) for tile in plan.tiles]
    blank = sum(len(plan.blank) for plan in plans)
    wanted_mm2 = sum(place.owned_mm2 for place in waiting)
    to_show_px = sum(place.shown_px for place in waiting)
    shown_px = boxed = 0
    found: list[TileBoxes] = []
    failed: list[_Place] = []
    numbered = len(waiting)
    while waiting:
        unreadable: list[_Place] = []
        for batch, answers in _detect(waiting, slide, readers, detector, lanes, config, unreadable):
            for place, boxes in zip(batch, answers, strict=True):
                found.append(TileBoxes(place.sweep, place.tile, boxes))
                boxed += len(boxes)
                shown_px += place.shown_px
            if boxed > config.slides.max_objects:
                raise TooManyObjects(
                    f"{name}: more than {config.slides.max_objects:,} boxes after {shown_px / to_show_px:.0%} of the "
                    "slide, as in noise; check the slide and the detector (detector.confidence, detector.classical), "
                    "or raise slides.max_objects"
                )
            progress(min(1.0, shown_px / to_show_px))
        waiting = []
        for place in unreadable:
            parts = quarter(place.sweep, place.tile)
            if not parts:
                failed.append(place)
            for part in parts:
                waiting.append(_Place(place.sweep, replace(part, index=numbered)))
                numbered += 1
    lost = sum(place.owned_mm2 for place in failed) / wanted_mm2 if failed else 0.0
    if lost > config.slides.max_lost_share:
        raise TooMuchLost(
            f"{name}: {lost:.1%} of the area with content ({len(failed)} of {len(found) + len(failed)} tiles) cannot "
            f"be read, more than slides.max_lost_share = {config.slides.max_lost_share:g}; copy the slide again or "
            "raise the limit"
        )
    planned = blank + len(found) + len(failed)
    return Seen(
        found,
        planned,
        blank,
        len(failed),
        max(sweep.level for sweep in sweeps),
        content_mm2=plans[0].owned_px * (sweeps[0].um_per_px / 1000) ** 2,
        shown_megapixels=shown_px / 1e6,
    )


def _detect(
    places: list[_Place],
    slide: Slide,
    readers: ThreadPoolExecutor,
    detector: Detector,
    lanes: Lanes,
    config: RunConfig,
    unreadable: list[_Place],
) -> Generator[tuple[list[_Place], list[Boxes]]]:
    """Batches with their answers, in the order of places; those that cannot be read end up in `unreadable`."""
    largest_bytes = max(place.shown_px for place in places) * 3
    # Each reader has a window in hand, whatever its size.
    ahead = max(_MOST_WAITING_BYTES // largest_bytes, config.slides.read_threads)

    def detect(batch: list[tuple[_Place, Image]]) -> tuple[list[_Place], list[Boxes]]:
        um_per_px = batch[0][0].sweep.um_per_px
        return (
            [place for place, _ in batch],
            detector.detect(np.stack([pixels for _, pixels in batch]), um_per_px=um_per_px),
        )

    with (
        closing(in_order(readers, lambda place: _read(slide, place), places, ahead=ahead)) as read,
        closing(_batches(zip(places, read, strict=True), config.detector.batch, unreadable)) as batches,
        closing(in_order(lanes.pool, detect, batches, ahead=lanes.count + 1)) as answers,
    ):
        yield from answers


def _batches(
    read: Iterable[tuple[_Place, Image | None]], size: int, unreadable: list[_Place]
) -> Generator[list[tuple[_Place, Image]]]:
    """So many neighbours of one shape at most."""
    batch: list[tuple[_Place, Image]] = []
    for place, pixels in read:
        if pixels is None:
            unreadable.append(place)
            continue
        if batch and (len(batch) == size or batch[0][0].shape != place.shape):
            yield batch
            batch = []
        batch.append((place, pixels))
    if batch:
        yield batch


def _read(slide: Slide, place: _Place) -> Image | None:
    try:
        return read_tile(slide, place.sweep, place.tile)
    except UnreadableRegion:
        return None  # read in parts, or counted as failed, by the caller
