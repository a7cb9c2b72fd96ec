"""A slide looked over: its tiles read ahead by threads while the detector works on those before them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.config import RunConfig
from fossilray.errors import TooMuchLost, UnreadableRegion
from fossilray.in_parts import in_order
from fossilray.merge import TileBoxes
from fossilray.records import Detector
from fossilray.slide import Slide
from fossilray.tiling import Sweep, Tile, find_blank, plan_sweeps, read_tile


@dataclass(frozen=True)
class Seen:
    """What the detector found in each tile, and what became of the tiles that were planned."""

    tiles: list[TileBoxes]
    tiles_planned: int
    tiles_blank: int
    tiles_failed: int
    coarsest_level: int


def look_over(
    slide: Slide,
    readers: ThreadPoolExecutor,
    *,
    detector: Detector,
    config: RunConfig,
    name: str,
    progress: Callable[[float], None],
) -> Seen:
    """Every sweep of the detector over a slide, blank tiles left out.

    name: what errors call the slide. progress: told the share done, again and again.

    Raises:
        TooMuchLost: a larger share of the tiles than the configuration allows cannot be read.
    """
    sweeps = plan_sweeps(slide.info, config.tiling, config.detector, detector.stride_px)
    blank = find_blank(slide, config.tiling, sweeps)
    wanted = [
        (sweep, tile)
        for sweep, is_blank in zip(sweeps, blank, strict=True)
        for tile in sweep
        if not is_blank[tile.index]
    ]
    found: list[TileBoxes] = []
    failed = 0
    batch: list[tuple[Sweep, Tile, NDArray[np.uint8]]] = []
    read = in_order(readers, lambda job: _read(slide, *job), wanted, ahead=2 * config.detector.batch)
    for done, ((sweep, tile), pixels) in enumerate(zip(wanted, read, strict=True)):
        if pixels is None:
            failed += 1
            continue
        if batch and batch[0][0] is not sweep:
            found += _detect(detector, batch)
            batch = []
        batch.append((sweep, tile, pixels))
        if len(batch) == config.detector.batch:
            found += _detect(detector, batch)
            batch = []
        progress(done / len(wanted))
    found += _detect(detector, batch)
    if failed and failed / len(wanted) > config.slides.max_lost_share:
        raise TooMuchLost(
            f"{name}: {failed} of {len(wanted)} tiles with content cannot be read, more than "
            f"slides.max_lost_share = {config.slides.max_lost_share:g}; copy the slide again or raise the limit"
        )
    planned = sum(len(sweep) for sweep in sweeps)
    return Seen(found, planned, planned - len(wanted), failed, max(sweep.level for sweep in sweeps))


def _detect(detector: Detector, batch: list[tuple[Sweep, Tile, NDArray[np.uint8]]]) -> list[TileBoxes]:
    if not batch:
        return []
    sweep = batch[0][0]
    answers = detector.detect(np.stack([pixels for _, _, pixels in batch]), um_per_px=sweep.um_per_px)
    return [TileBoxes(sweep, tile, boxes) for (_, tile, _), boxes in zip(batch, answers, strict=True)]


def _read(slide: Slide, sweep: Sweep, tile: Tile) -> NDArray[np.uint8] | None:
    try:
        return read_tile(slide, sweep, tile)
    except UnreadableRegion:
        return None  # counted by the caller as a failed tile
