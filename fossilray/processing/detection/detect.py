"""Detection on one slide: threads read windows ahead while the detector computes."""

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
from fossilray.core.types import Boxes, Detector, Image, Rect
from fossilray.processing.detection.foreground import (
    Foreground,
    find_foreground,
    foreground_units,
    units_expected,
)
from fossilray.processing.detection.merge import TileBoxes
from fossilray.processing.detection.passes import DetectionPass, Tile, plan_passes, read_tile_with_coverage
from fossilray.processing.detection.windows import plan_windows, scanned_in_tiles_mm2, split_tile
from fossilray.slides.slide import Slide

# Pixels that wait for the detector, whatever the size of windows.
_MAX_WAITING_BYTES = 48_000_000
# On a device a batch is faster than its windows one by one, and needs windows of one shape.
_SIDES_ON_DEVICE_PX = 128
# Levels differ a little at the edges of photos; a unit that lacks this much of what it should show was lost.
_MISSING_SHARE = 0.5


@dataclass(frozen=True)
class Detections:
    """The boxes of each tile, and counts of the planned tiles."""

    tiles: list[TileBoxes]
    tiles_planned: int
    tiles_blank: int
    tiles_failed: int
    coarsest_level: int
    content_mm2: float
    """Scanned area in the cores of the finest pass's tiles with foreground."""
    passes: tuple[PassLoss, ...]
    """Fine to coarse."""
    shown_megapixels: float
    """Pixels that the detector was shown, halos included, in 1e6 px at the scales of the passes."""


@dataclass(frozen=True)
class PassLoss:
    """The foreground of one pass, and the part of it that could not be read."""

    um_per_px: float
    foreground_mm2: float
    """Scanned area of the foreground units."""
    lost_mm2: float
    """Scanned area of the foreground units whose pixels could not be read."""

    @property
    def lost_share(self) -> float:
        return self.lost_mm2 / self.foreground_mm2 if self.foreground_mm2 > 0 else 0.0


@dataclass(frozen=True)
class NetworkThreads:
    """The threads that call the detector; several where copies to a device overlap with its computation."""

    pool: ThreadPoolExecutor
    count: int


@dataclass(frozen=True, eq=False)
class _PassUnits:
    """One pass and its lattice; arrays are (rows, columns) of its units.

    expected: the share of each unit that its level should show as scanned; None where that is unknown. lost: set
    for units of tiles that fail.
    """

    detection_pass: DetectionPass
    foreground: NDArray[np.bool_]
    expected: NDArray[np.float32] | None
    lost: NDArray[np.bool_]

    def lacks(self, tile: Tile, coverage: NDArray[np.float32] | None) -> bool:
        """Return whether most of a unit of the tile's core is missing from its level. coverage: of window units."""
        if coverage is None or self.expected is None:
            return False
        unit, window = self.detection_pass.unit_px, tile.window
        left, top = window.x_min // unit, window.y_min // unit
        rows, columns = self.detection_pass.units_in(tile.core)
        # A window may leave out background parts of the core.
        rows = slice(max(rows.start, top), min(rows.stop, top + coverage.shape[0], self.detection_pass.rows))
        columns = slice(
            max(columns.start, left), min(columns.stop, left + coverage.shape[1], self.detection_pass.columns)
        )
        shown = coverage[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        missing = self.expected[rows, columns] - shown > _MISSING_SHARE
        return bool((missing & self.foreground[rows, columns]).any())

    def loss(self) -> PassLoss:
        areas = self.detection_pass.unit_areas_mm2()
        if self.expected is not None:
            # Units at the edge of the scan show little of it; glass beside it can be neither read nor lost.
            areas = np.minimum(areas, self.expected * areas.max(initial=0))
        return PassLoss(
            self.detection_pass.um_per_px,
            float(areas[self.foreground].sum()),
            float(areas[self.foreground & self.lost].sum()),
        )


@dataclass(frozen=True)
class _TileTask:
    units: _PassUnits
    tile: Tile

    @property
    def detection_pass(self) -> DetectionPass:
        return self.units.detection_pass

    @property
    def shape(self) -> tuple[int, int, int]:
        window = self.tile.window
        return self.detection_pass.number, window.height, window.width

    @property
    def pixels(self) -> int:
        return self.tile.window.width * self.tile.window.height


def detect_objects(
    slide: Slide,
    readers: ThreadPoolExecutor,
    *,
    detector: Detector,
    network_threads: NetworkThreads,
    config: RunConfig,
    name: str,
    progress: Callable[[float], None],
) -> Detections:
    """Run every pass of the detector over the foreground of a slide.

    A window that cannot be read is split into ever smaller tiles, and the smallest ones do without the unreadable
    part of their halo, so that little around a damage is lost. name: the slide's name in errors. progress: called
    repeatedly with the fraction that is done.

    Raises:
        TooManyObjects: more boxes than slides.max_objects.
        TooManyUnreadableTiles: more of one pass's foreground cannot be read than slides.max_lost_share allows.
    """
    passes = plan_passes(slide.info, config.tiling, config.detector, detector.stride_px)
    foreground = find_foreground(slide, config.tiling)
    if _is_void(slide, foreground):
        raise TooManyUnreadableTiles(
            f"{name}: none of its stored tiles can be found, so nothing of it would be read; copy the slide again"
        )
    units = [_units_of(detection_pass, foreground, slide) for detection_pass in passes]
    rounding = {"multiple_px": _SIDES_ON_DEVICE_PX} if network_threads.count > 1 else {}
    plans = [plan_windows(each.detection_pass, each.foreground, **rounding) for each in units]
    waiting = [_TileTask(each, tile) for each, plan in zip(units, plans, strict=True) for tile in plan.tiles]
    blank = sum(len(plan.blank) for plan in plans)
    planned_px = sum(task.pixels for task in waiting)
    shown_px = boxed = failed = 0
    detected: list[TileBoxes] = []
    next_index = len(waiting)
    while waiting:
        unreadable: list[_TileTask] = []
        for batch, boxes_of_batch in _detect(
            waiting, slide, readers, detector, network_threads, config, unreadable
        ):
            for task, boxes in zip(batch, boxes_of_batch, strict=True):
                detected.append(TileBoxes(task.detection_pass, task.tile, boxes))
                boxed += len(boxes)
                shown_px += task.pixels
            if boxed > config.slides.max_objects:
                raise TooManyObjects(
                    f"{name}: more than {config.slides.max_objects:,} boxes after {shown_px / planned_px:.0%} of the "
                    "slide, as in noise; check the slide and the detector (detector.confidence, detector.classical), "
                    "or raise slides.max_objects"
                )
            progress(min(1.0, shown_px / planned_px))
        waiting = []
        for task in unreadable:
            parts = split_tile(task.detection_pass, task.tile)
            if not parts:
                failed += 1
                task.units.lost[task.detection_pass.units_in(task.tile.core)] = True
            for part in parts:
                waiting.append(_TileTask(task.units, replace(part, index=next_index)))
                next_index += 1
    losses = tuple(each.loss() for each in units)
    _check_losses(losses, config.slides.max_lost_share, name)
    return Detections(
        detected,
        blank + len(detected) + failed,
        blank,
        failed,
        max(detection_pass.level for detection_pass in passes),
        content_mm2=scanned_in_tiles_mm2(passes[0], plans[0].tiles),
        passes=losses,
        shown_megapixels=shown_px / 1e6,
    )


def _is_void(slide: Slide, foreground: Foreground | None) -> bool:
    """Return whether the slide's index lists no tile, and its overview shows none."""
    if foreground is None:
        return slide.listed is not None and slide.listed.is_void
    return foreground.is_void


def _units_of(detection_pass: DetectionPass, foreground: Foreground | None, slide: Slide) -> _PassUnits:
    mask = foreground_units(detection_pass, foreground)
    expected = units_expected(detection_pass, foreground, slide.listed)
    return _PassUnits(detection_pass, mask, expected, np.zeros_like(mask))


def _check_losses(losses: Sequence[PassLoss], max_lost_share: float, name: str) -> None:
    worst = max(losses, key=lambda loss: loss.lost_share)
    if worst.lost_share > max_lost_share:
        raise TooManyUnreadableTiles(
            f"{name}: at {worst.um_per_px:.3g} um per px {worst.lost_share:.1%} of the foreground "
            f"({worst.lost_mm2:.3g} of {worst.foreground_mm2:.3g} mm2) cannot be read, more than "
            f"slides.max_lost_share = {max_lost_share:g}; copy the slide again or raise the limit"
        )


def _detect(
    tasks: list[_TileTask],
    slide: Slide,
    readers: ThreadPoolExecutor,
    detector: Detector,
    network_threads: NetworkThreads,
    config: RunConfig,
    unreadable: list[_TileTask],
) -> Generator[tuple[list[_TileTask], list[Boxes]]]:
    """Yield batches with their boxes, in the order of tasks; append tasks that cannot be read to `unreadable`."""
    largest_bytes = max(task.pixels for task in tasks) * 3
    # Each reader holds one window, whatever its size.
    ahead = max(_MAX_WAITING_BYTES // largest_bytes, config.slides.read_threads)

    def detect(batch: list[tuple[_TileTask, Image]]) -> tuple[list[_TileTask], list[Boxes]]:
        um_per_px = batch[0][0].detection_pass.um_per_px
        return (
            [task for task, _ in batch],
            detector.detect(np.stack([image for _, image in batch]), um_per_px=um_per_px),
        )

    with (
        closing(map_ordered(readers, lambda task: _read(slide, task), tasks, ahead=ahead)) as read,
        closing(_batches(read, config.detector.batch, unreadable)) as batches,
        closing(map_ordered(network_threads.pool, detect, batches, ahead=network_threads.count + 1)) as boxes,
    ):
        yield from boxes


def _batches(
    read: Iterable[tuple[_TileTask, Image | None]], size: int, unreadable: list[_TileTask]
) -> Generator[list[tuple[_TileTask, Image]]]:
    """Yield up to `size` neighbours of one shape at a time."""
    batch: list[tuple[_TileTask, Image]] = []
    for task, image in read:
        if image is None:
            unreadable.append(task)
            continue
        if batch and (len(batch) == size or batch[0][0].shape != task.shape):
            yield batch
            batch = []
        batch.append((task, image))
    if batch:
        yield batch


def _read(slide: Slide, task: _TileTask) -> tuple[_TileTask, Image | None]:
    """Return the task, its window made smaller where it has to be, and the window's pixels.

    None in place of pixels: the caller splits the tile, or counts it as failed.
    """
    image = _read_window(slide, task)
    if image is not None or split_tile(task.detection_pass, task.tile):
        return task, image
    core, window = task.tile.core, task.tile.window
    shown = Rect(
        max(core.x_min, window.x_min),
        max(core.y_min, window.y_min),
        min(core.x_max, window.x_max),
        min(core.y_max, window.y_max),
    )
    if shown.width <= 0 or shown.height <= 0:
        return task, None  # the window shows nothing of the core, which is background
    readable = _with_window(task, shown)
    image = _read_window(slide, readable)
    if image is None:
        return task, None
    for side in ("x_min", "y_min", "x_max", "y_max"):
        shown = replace(readable.tile.window, **{side: getattr(window, side)})
        wider = _with_window(task, shown)
        wider_image = _read_window(slide, wider)
        if wider_image is not None:
            readable, image = wider, wider_image
    return readable, image


def _with_window(task: _TileTask, window: Rect) -> _TileTask:
    return replace(task, tile=replace(task.tile, window=window))


def _read_window(slide: Slide, task: _TileTask) -> Image | None:
    try:
        image, coverage = read_tile_with_coverage(slide, task.detection_pass, task.tile)
    except UnreadableRegion:
        return None
    return None if task.units.lacks(task.tile, coverage) else image
