"""Plan of one slide: from the opened slide on a disk, or from a few kB of it in an object store."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config import RunConfig
from fossilray.core.errors import MissingResolution, SlideError
from fossilray.core.records import CatalogRow, Doubt, RejectedFile
from fossilray.core.types import Rect, SlideInfo
from fossilray.processing.detection.foreground import find_foreground, foreground_units, units_overlapping
from fossilray.processing.detection.passes import DetectionPass, plan_passes
from fossilray.processing.detection.windows import plan_windows, scanned_in_tiles_mm2
from fossilray.slides.doubts.before import check_metadata, check_slide
from fossilray.slides.doubts.strict import merge_doubts, refuse_doubts
from fossilray.slides.fields.sidecar import source_of_mpp
from fossilray.slides.limits import check_size
from fossilray.slides.properties import choose_mpp, missing_mpp
from fossilray.slides.remote.metadata import SlideMetadata, read_metadata, read_scanned_area
from fossilray.slides.remote.slide_files import list_slide_files
from fossilray.slides.remote.source import SlideSource, open_source
from fossilray.slides.remote.staging import check_fits
from fossilray.slides.slide import open_slide
from fossilray.store.files.base import is_remote

STRIDE_PX = 32


@dataclass(frozen=True)
class SlidePlan:
    """Tiles, pixels and bytes of one slide; None where they are known only after its download."""

    row: CatalogRow
    committed: bool
    tiles: int | None
    blank: int | None
    detection_megapixels: float
    """Pixels at detection scale that the detector would be shown, background tiles left out."""
    covered_mm2: float
    """Scanned area in the cores of the finest pass's tiles with foreground."""
    fetched_bytes: int = 0
    """Bytes to download from an object store."""


class SlidePlanner:
    """Plans slides; `plan` may be called from several threads."""

    def __init__(self, config: RunConfig, committed: Collection[str]) -> None:
        self._config = config
        self._committed = committed
        self._sources: dict[str, SlideSource] = {}

    def plan(self, row: CatalogRow) -> SlidePlan | RejectedFile:
        """Return the plan of the slide, or the slide with the reason why it cannot be processed."""
        try:
            return self._plan_remote(row) if is_remote(row.path) else self._plan_local(row)
        except SlideError as error:
            return RejectedFile(row.slide_id, row.path, str(error), type(error).__name__)

    def _plan_local(self, row: CatalogRow) -> SlidePlan:
        slides = self._config.slides
        with open_slide(
            Path(row.path),
            mpp=slides.mpp,
            catalog_mpp=row.mpp,
            mpp_override=slides.mpp_override,
            max_gigapixels=slides.max_gigapixels,
            reader=slides.reader,
        ) as slide:
            row = self._with_doubts(row, check_slide(slide, mpp=slide.info.mpp, planes=slides.planes))
            passes = self._passes(slide.info)
            foreground = find_foreground(slide, self._config.tiling)
            info = slide.info
        row = replace(row, width=info.width, height=info.height, mpp=info.mpp, mpp_from=info.mpp_from)
        return self._sum(
            row, passes, [foreground_units(detection_pass, foreground) for detection_pass in passes]
        )

    def _plan_remote(self, row: CatalogRow) -> SlidePlan:
        slides = self._config.slides
        source = self._source(row.path)
        files = list_slide_files(source, row.path)
        check_fits(row.path, files.bytes, scratch_gb=slides.scratch_gb)
        metadata = read_metadata(source, files, shown=files.name, max_gigapixels=slides.max_gigapixels)
        row = _completed(row, metadata)
        if not metadata.levels:
            return SlidePlan(row, row.slide_id in self._committed, None, None, 0.0, 0.0, files.bytes)
        mpp, mpp_from = choose_mpp(
            metadata.stated,
            shown=files.name,
            mpp=slides.mpp,
            catalog_mpp=row.mpp,
            mpp_override=slides.mpp_override,
        )
        mpp_from = source_of_mpp(mpp_from, row.mpp_from)
        if mpp is None:
            raise MissingResolution(missing_mpp(metadata.properties, files.name))
        row = replace(row, mpp=mpp, mpp_from=mpp_from)
        cells = read_scanned_area(source, files)
        canvas = Rect(0, 0, metadata.levels[0].width, metadata.levels[0].height)
        bounds = _bounding_rect(cells, canvas) if cells else canvas
        info = metadata.info(row.path, mpp=mpp, mpp_from=mpp_from, bounds=bounds)
        row = self._with_doubts(row, check_metadata(info, mpp=mpp, tiff=metadata.tiff, planes=slides.planes))
        check_size(info, max_gigapixels=slides.max_gigapixels)
        passes = self._passes(info)
        units = [
            foreground_units(detection_pass, None)
            if cells is None
            else units_overlapping(detection_pass, cells)
            for detection_pass in passes
        ]
        plan = self._sum(row, passes, units)
        return replace(plan, blank=None if cells is None else plan.blank, fetched_bytes=files.bytes)

    def _with_doubts(self, row: CatalogRow, doubts: tuple[Doubt, ...]) -> CatalogRow:
        doubts = merge_doubts(row, doubts)
        refuse_doubts(row.path, doubts, self._config.slides.strict_doubts)
        return replace(row, doubts=doubts)

    def _source(self, path: str) -> SlideSource:
        protocol = path.partition("://")[0]
        if protocol not in self._sources:
            self._sources[protocol] = open_source(path, self._config.slides.access or self._config.store)
        return self._sources[protocol]

    def _passes(self, info: SlideInfo) -> tuple[DetectionPass, ...]:
        return plan_passes(info, self._config.tiling, self._config.detector, STRIDE_PX)

    def _sum(
        self, row: CatalogRow, passes: Sequence[DetectionPass], foreground: Sequence[NDArray[np.bool_]]
    ) -> SlidePlan:
        plans = [
            plan_windows(detection_pass, units)
            for detection_pass, units in zip(passes, foreground, strict=True)
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


def _completed(row: CatalogRow, metadata: SlideMetadata) -> CatalogRow:
    """Complete the row of a catalog by the slide's own metadata."""
    if not metadata.levels:
        return row
    finest = metadata.levels[0]
    return replace(row, width=finest.width, height=finest.height, mpp=row.mpp or metadata.mpp)


def _bounding_rect(cells: Sequence[Rect], canvas: Rect) -> Rect:
    return Rect(
        max(min(cell.x_min for cell in cells), canvas.x_min),
        max(min(cell.y_min for cell in cells), canvas.y_min),
        min(max(cell.x_max for cell in cells), canvas.x_max),
        min(max(cell.y_max for cell in cells), canvas.y_max),
    )
