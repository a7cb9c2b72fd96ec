"""A slide looked over: windows read ahead by threads while the detector works on those before them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config import RunConfig
from fossilray.core.errors import TooManyObjects, TooManyUnreadableTiles, UnreadableRegion
from fossilray.core.parallel import map_ordered
from fossilray.core.types import Boxes, Detector, Image
from fossilray.processing.detection.foreground import find_foreground, foreground_units, units_expected
from fossilray.processing.detection.merge import TileBoxes
from fossilray.processing.detection.passes import DetectionPass, Tile, plan_passes, read_tile_with_coverage
from fossilray.processing.detection.windows import plan_windows, scanned_in_tiles_mm2, split_tile
from fossilray.slides.slide import Slide

# Pixels that wait for the detector, whatever the size of windows.
_MOST_WAITING_BYTES = 48_000_000
# On a device a batch is quicker than its windows one by one, and wants windows of one shape.
_SIDES_ON_DEVICE_PX = 128
# Levels show the edges of photos a little apart; a unit that lacks so much of what it should show was lost.
_MISSING_SHARE = 0.5


@dataclass(frozen=True)
class Detections:
    """What the detector found in each tile, and what became of the tiles that were planned."""

    tiles: list[TileBoxes]
    tiles_planned: int
    tiles_blank: int
    tiles_failed: int
    coarsest_level: int
    content_mm2: float
    """Scanned area in the cores of the finest pass's tiles that are not blank."""
    passes: tuple[PassLoss, ...]
    """Fine to coarse."""
    shown_megapixels: float
    """Shown to the detector, halos included, in 1e6 px of its scales."""


@dataclass(frozen=True)
class PassLoss:
    """What one pass was to see and could not."""

    um_per_px: float
    foreground_mm2: float
    """Scanned area of the places that are not blank to this pass."""
    lost_mm2: float
    """Of these, the area in tiles that could not be read."""

    @property
    def lost_share(self) -> float:
        return self.lost_mm2 / self.foreground_mm2 if self.foreground_mm2 > 0 else 0.0


@dataclass(frozen=True)
class NetworkThreads:
    """The threads that call the detector; more than one where copies to a device overlap with its work."""

    pool: ThreadPoolExecutor
    count: int


@dataclass(frozen=True, eq=False)
class _Ground:
    """One pass over its lattice; arrays are (rows, columns) of its units.

    foreground: what is not blank. expected: the share of each unit that its level should show as scanned; None where
    that is not known. lost: filled as tiles fail.
    """

    sweep: DetectionPass
    foreground: NDArray[np.bool_]
    expected: NDArray[np.float32] | None
    lost: NDArray[np.bool_]

    def lacks(self, tile: Tile, coverage: NDArray[np.float32] | None) -> bool:
        """Whether most of a unit of the tile's core is missing from its level; coverage: of the window's units."""
        if coverage is None or self.expected is None:
            return False
        unit, window = self.sweep.unit_px, tile.window
        left, top = window.x_min // unit, window.y_min // unit
        rows, columns = self.sweep.units_in(tile.core)
        # A window may leave out parts of the core where nothing is.
        rows = slice(max(rows.start, top), min(rows.stop, top + coverage.shape[0], self.sweep.rows))
        columns = slice(
            max(columns.start, left), min(columns.stop, left + coverage.shape[1], self.sweep.columns)
        )
        seen = coverage[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        missing = self.expected[rows, columns] - seen > _MISSING_SHARE
        return bool((missing & self.foreground[rows, columns]).any())

    def loss(self) -> PassLoss:
        areas = self.sweep.unit_areas_mm2()
        if self.expected is not None:
            # Units at the rim of what is there show little of it; glass beside it can be neither seen nor lost.
            areas = np.minimum(areas, self.expected * areas.max(initial=0))
        return PassLoss(
            self.sweep.um_per_px,
            float(areas[self.foreground].sum()),
            float(areas[self.foreground & self.lost].sum()),
        )


@dataclass(frozen=True)
class _TileTask:
    ground: _Ground
    tile: Tile

    @property
    def sweep(self) -> DetectionPass:
        return self.ground.sweep

    @property
    def shape(self) -> tuple[int, int, int]:
        window = self.tile.window
        return self.sweep.number, window.height, window.width

    @property
    def shown_px(self) -> int:
        return self.tile.window.width * self.tile.window.height


def detect_objects(
    slide: Slide,
    readers: ThreadPoolExecutor,
    *,
    detector: Detector,
    lanes: NetworkThreads,
    config: RunConfig,
    name: str,
    progress: Callable[[float], None],
) -> Detections:
    """Every sweep of the detector over a slide, blank places left out.

    A window that cannot be read is tried again in ever smaller parts, so that little around a damage is lost.
    name: what errors call the slide. progress: told the share done, again and again.

    Raises:
        TooManyObjects: more boxes than slides.max_objects.
        TooManyUnreadableTiles: more of one pass's foreground cannot be read than slides.max_lost_share allows.
    """
    sweeps = plan_passes(slide.info, config.tiling, config.detector, detector.stride_px)
    content = find_foreground(slide, config.tiling)
    rounding = {"multiple_px": _SIDES_ON_DEVICE_PX} if lanes.count > 1 else {}
    grounds = [
        _Ground(
            sweep,
            foreground := foreground_units(sweep, content),
            units_expected(sweep, content, slide.listed),
            np.zeros_like(foreground),
        )
        for sweep in sweeps
    ]
    if slide.listed is not None and slide.listed.is_void if content is None else content.is_void:
        raise TooManyUnreadableTiles(
            f"{name}: none of its stored tiles can be found, so nothing of it would be read; copy the slide again"
        )
    plans = [plan_windows(ground.sweep, ground.foreground, **rounding) for ground in grounds]
    waiting = [
        _TileTask(ground, tile) for ground, plan in zip(grounds, plans, strict=True) for tile in plan.tiles
    ]
    blank = sum(len(plan.blank) for plan in plans)
    to_show_px = sum(place.shown_px for place in waiting)
    shown_px = boxed = 0
    found: list[TileBoxes] = []
    failed: list[_TileTask] = []
    numbered = len(waiting)
    while waiting:
        unreadable: list[_TileTask] = []
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
            parts = split_tile(place.sweep, place.tile)
            if not parts:
                failed.append(place)
                place.ground.lost[place.sweep.units_in(place.tile.core)] = True
            for part in parts:
                waiting.append(_TileTask(place.ground, replace(part, index=numbered)))
                numbered += 1
    losses = tuple(ground.loss() for ground in grounds)
    _check_losses(losses, config.slides.max_lost_share, name)
    planned = blank + len(found) + len(failed)
    return Detections(
        found,
        planned,
        blank,
        len(failed),
        max(sweep.level for sweep in sweeps),
        content_mm2=scanned_in_tiles_mm2(sweeps[0], plans[0].tiles),
        passes=losses,
        shown_megapixels=shown_px / 1e6,
    )


def _check_losses(losses: Sequence[PassLoss], most_lost: float, name: str) -> None:
    worst = max(losses, key=lambda one: one.lost_share)
    if worst.lost_share > most_lost:
        raise TooManyUnreadableTiles(
            f"{name}: at {worst.um_per_px:.3g} um per px {worst.lost_share:.1%} of the foreground "
            f"({worst.lost_mm2:.3g} of {worst.foreground_mm2:.3g} mm2) cannot be read, more than "
            f"slides.max_lost_share = {most_lost:g}; copy the slide again or raise the limit"
        )


def _detect(
    places: list[_TileTask],
    slide: Slide,
    readers: ThreadPoolExecutor,
    detector: Detector,
    lanes: NetworkThreads,
    config: RunConfig,
    unreadable: list[_TileTask],
) -> Generator[tuple[list[_TileTask], list[Boxes]]]:
    """Batches with their answers, in the order of places; those that cannot be read end up in `unreadable`."""
    largest_bytes = max(place.shown_px for place in places) * 3
    # Each reader has a window in hand, whatever its size.
    ahead = max(_MOST_WAITING_BYTES // largest_bytes, config.slides.read_threads)

    def detect(batch: list[tuple[_TileTask, Image]]) -> tuple[list[_TileTask], list[Boxes]]:
        um_per_px = batch[0][0].sweep.um_per_px
        return (
            [place for place, _ in batch],
            detector.detect(np.stack([pixels for _, pixels in batch]), um_per_px=um_per_px),
        )

    with (
        closing(map_ordered(readers, lambda place: _read(slide, place), places, ahead=ahead)) as read,
        closing(_batches(zip(places, read, strict=True), config.detector.batch, unreadable)) as batches,
        closing(map_ordered(lanes.pool, detect, batches, ahead=lanes.count + 1)) as answers,
    ):
        yield from answers


def _batches(
    read: Iterable[tuple[_TileTask, Image | None]], size: int, unreadable: list[_TileTask]
) -> Generator[list[tuple[_TileTask, Image]]]:
    """So many neighbours of one shape at most."""
    batch: list[tuple[_TileTask, Image]] = []
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


def _read(slide: Slide, place: _TileTask) -> Image | None:
    try:
        pixels, coverage = read_tile_with_coverage(slide, place.sweep, place.tile)
    except UnreadableRegion:
        return None  # read in parts, or counted as failed, by the caller
    return None if place.ground.lacks(place.tile, coverage) else pixels
