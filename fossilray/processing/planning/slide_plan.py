"""What one slide would cost: opened on a disk, or told from a few kB of it in an object store."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config import RunConfig
from fossilray.core.errors import MissingResolution, SlideError
from fossilray.core.records import CatalogRow, RejectedFile
from fossilray.core.types import Rect, SlideInfo
from fossilray.processing.detection.foreground import find_foreground, foreground_units, units_overlapping
from fossilray.processing.detection.passes import DetectionPass, plan_passes
from fossilray.processing.detection.windows import plan_windows, scanned_in_tiles_mm2
from fossilray.slides.limits import check_size
from fossilray.slides.remote.metadata import SlideMetadata, read_metadata, read_scanned_area
from fossilray.slides.remote.slide_files import list_slide_files
from fossilray.slides.remote.source import SlideSource, open_source
from fossilray.slides.remote.staging import check_fits
from fossilray.slides.slide import open_slide
from fossilray.store.files.base import is_remote

STRIDE_PX = 32


@dataclass(frozen=True)
class SlidePlan:
    """What one slide would cost; None where only the whole slide would tell."""

    row: CatalogRow
    committed: bool
    tiles: int | None
    blank: int | None
    detection_megapixels: float
    """Pixels at detection scale that the detector would see, blank tiles left out."""
    covered_mm2: float
    """Scanned area in the cores of the finest pass's tiles that are not blank."""
    fetched_bytes: int = 0
    """Bytes to bring from an object store."""


class SlidePlanner:
    """Plans slide after slide, in several threads."""

    def __init__(self, config: RunConfig, committed: Collection[str]) -> None:
        self._config = config
        self._committed = committed
        self._sources: dict[str, SlideSource] = {}

    def plan(self, row: CatalogRow) -> SlidePlan | RejectedFile:
        """What the slide would cost, or why it cannot be processed."""
        try:
            return self._plan_remote(row) if is_remote(row.path) else self._plan_local(row)
        except SlideError as error:
            return RejectedFile(row.slide_id, row.path, str(error))

    def _plan_local(self, row: CatalogRow) -> SlidePlan:
        slides = self._config.slides
        with open_slide(
            Path(row.path),
            mpp=row.mpp or slides.mpp,
            mpp_override=slides.mpp_override,
            max_gigapixels=slides.max_gigapixels,
            reader=slides.reader,
        ) as slide:
            passes = self._passes(slide.info)
            content = find_foreground(slide, self._config.tiling)
        return self._summed(
            row, passes, [foreground_units(detection_pass, content) for detection_pass in passes]
        )

    def _plan_remote(self, row: CatalogRow) -> SlidePlan:
        slides = self._config.slides
        source = self._source(row.path)
        bundle = list_slide_files(source, row.path)
        check_fits(row.path, bundle.bytes, scratch_gb=slides.scratch_gb)
        facts = read_metadata(source, bundle, shown=bundle.name, max_gigapixels=slides.max_gigapixels)
        row = _completed(row, facts)
        if not facts.levels:
            return SlidePlan(row, row.slide_id in self._committed, None, None, 0.0, 0.0, bundle.bytes)
        mpp = slides.mpp_override or facts.mpp or row.mpp or slides.mpp
        if mpp is None:
            raise MissingResolution(
                f"{bundle.name} states no um per pixel; set slides.mpp or add an mpp column to the catalog"
            )
        cells = read_scanned_area(source, bundle)
        canvas = Rect(0, 0, facts.levels[0].width, facts.levels[0].height)
        info = SlideInfo(
            path=row.path,
            vendor=facts.vendor or "unknown",
            width=canvas.width,
            height=canvas.height,
            mpp=mpp,
            levels=facts.levels,
            bounds=_around(cells, canvas) if cells else canvas,
            background_rgb=(255, 255, 255),
        )
        check_size(info, max_gigapixels=slides.max_gigapixels)
        passes = self._passes(info)
        content = [
            foreground_units(detection_pass, None)
            if cells is None
            else units_overlapping(detection_pass, cells)
            for detection_pass in passes
        ]
        plan = self._summed(row, passes, content)
        return replace(plan, blank=None if cells is None else plan.blank, fetched_bytes=bundle.bytes)

    def _source(self, path: str) -> SlideSource:
        protocol = path.partition("://")[0]
        if protocol not in self._sources:
            self._sources[protocol] = open_source(path, self._config.slides.access or self._config.store)
        return self._sources[protocol]

    def _passes(self, info: SlideInfo) -> tuple[DetectionPass, ...]:
        return plan_passes(info, self._config.tiling, self._config.detector, STRIDE_PX)

    def _summed(
        self, row: CatalogRow, passes: Sequence[DetectionPass], content: Sequence[NDArray[np.bool_]]
    ) -> SlidePlan:
        plans = [
            plan_windows(detection_pass, units) for detection_pass, units in zip(passes, content, strict=True)
        ]
        blank = sum(len(plan.blank) for plan in plans)
        return SlidePlan(
            row=row,
            committed=row.slide_id in self._committed,
            tiles=sum(len(plan.tiles) for plan in plans) + blank,
            blank=blank,
            detection_megapixels=sum(plan.megapixels for plan in plans),
            covered_mm2=scanned_in_tiles_mm2(passes[0], plans[0].tiles),
        )


def _completed(row: CatalogRow, facts: SlideMetadata) -> CatalogRow:
    """The row with what the slide itself says, for a catalog that says less."""
    if not facts.levels:
        return row
    finest = facts.levels[0]
    return replace(row, width=finest.width, height=finest.height, mpp=facts.mpp or row.mpp)


def _around(cells: Sequence[Rect], canvas: Rect) -> Rect:
    return Rect(
        max(min(cell.x_min for cell in cells), canvas.x_min),
        max(min(cell.y_min for cell in cells), canvas.y_min),
        min(max(cell.x_max for cell in cells), canvas.x_max),
        min(max(cell.y_max for cell in cells), canvas.y_max),
    )
