"""One attempt at one slide, stage by stage: open, detect, merge, extract crops, write, commit. No Ray."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fossilray.core.config import RunConfig
from fossilray.core.errors import AttemptExpired, TooManyUnreadableTiles, UnreadableRegion
from fossilray.core.records import UNASSIGNED_WELL, Attempt, CatalogRow, Doubt, Outcome, SlideSummary, utc_now
from fossilray.core.types import Boxes, Detector, Embedder, SlideInfo
from fossilray.core.worker import WorkerStatus
from fossilray.processing.crops.extract import extract_crops
from fossilray.processing.crops.objects_table import StoredCrops, objects_table
from fossilray.processing.detection.detect import Detections, NetworkThreads, detect_objects
from fossilray.processing.detection.merge import Merged, merge_scanned
from fossilray.processing.detection.merge_planes import add_detections, merge_planes
from fossilray.processing.doubts import check_objects, longest_um_quartiles
from fossilray.processing.focus import FocusedSlide, open_focused
from fossilray.processing.threads import SlideThreads
from fossilray.render.slide_overview import LONGEST_SIDE_PX, draw_boxes
from fossilray.slides.doubts.before import check_slide
from fossilray.slides.doubts.strict import merge_doubts, refuse_doubts
from fossilray.slides.doubts.tiles import with_losses
from fossilray.slides.fields.sidecar import source_of_mpp
from fossilray.slides.identity import scan_id_of
from fossilray.slides.planes import count_planes
from fossilray.slides.slide import Slide, open_slide
from fossilray.store import RunStore
from fossilray.store.arrays.group import ArrayWriter


@dataclass(frozen=True)
class LoadedModels:
    """The networks of a worker, loaded once and used for all of its slides."""

    detector: Detector
    embedder: Embedder | None
    device: str
    """Device and precision, as in the slide's summary."""
    threads: NetworkThreads


@dataclass(frozen=True)
class AttemptContext:
    """The slide, the attempt and the store of a SlideAttempt."""

    config: RunConfig
    store: RunStore
    row: CatalogRow
    attempt: Attempt
    threads: SlideThreads
    show: Callable[[WorkerStatus], None]
    """Called with the status whenever it changes."""


class SlideAttempt:
    """One attempt at one slide."""

    def __init__(self, models: LoadedModels, context: AttemptContext) -> None:
        self.stage = "fetch"
        self._models = models
        self._context = context
        self._config = context.config
        self._store = context.store
        self._row = context.row
        self._seconds: dict[str, float] = {}
        self._embed_s = 0.0
        self._started_s = self._stage_s = time.monotonic()
        self._progress(0.0)

    def execute(self, path: Path) -> Outcome:
        """Run the stages in order; the commit is the last step. path: the slide on a local disk."""
        self._enter("open")
        slides = self._config.slides
        with (
            open_slide(
                path,
                mpp=slides.mpp,
                catalog_mpp=self._row.mpp,
                mpp_override=slides.mpp_override,
                max_gigapixels=slides.max_gigapixels,
                reader=slides.reader,
            ) as slide,
            open_focused(slide, self._config) as focused,
            self._context.threads,  # end before the slide is closed
        ):
            before = merge_doubts(self._row, check_slide(slide, mpp=slide.info.mpp, planes=slides.planes))
            refuse_doubts(self._row.path, before, slides.strict_doubts)
            self._enter("detect")
            try:
                by_plane = self._detect(focused)
            except TooManyUnreadableTiles:
                focused.check_losses()
                raise
            self._enter("merge")
            detections, merged = add_detections(by_plane), self._merge(by_plane, slide.info)
            boxes = merged.boxes
            self._enter("crops")
            crops = self._extract(slide, focused, boxes, coarsest_level=detections.coarsest_level)
            try:
                self._check_crops(crops, objects=len(boxes))
            except TooManyUnreadableTiles:
                focused.check_losses()
                raise
            self._enter("write")
            self._write_picture(focused.shown, boxes)
            focused.check_losses()
            tile_doubts = with_losses(
                before,
                slide,
                tiles_failed=detections.tiles_failed,
                crops_coarser=crops.coarser,
                crops_failed=int(crops.measures.missing.sum()),
            )
            info = slide.info
            doubts = (*tile_doubts, *check_objects(info, boxes, crops.measures, self._config.crops))
            refuse_doubts(self._row.path, doubts, slides.strict_doubts)
        table = objects_table(self._row, info, boxes, crops, self._config.merge.isolated_overlap)
        self._enter("commit")
        summary = self._summarise(slide, detections, merged, crops, doubts, planes_read=focused.planes)
        if self._store.single_writer:
            self._store.submit_slide(table, summary, crops.files, attempt=self._context.attempt)
            return Outcome(self._row.slide_id, summary=summary, submitted=True)
        won = self._store.commit_slide(table, summary, crops.files, attempt=self._context.attempt)
        return Outcome(self._row.slide_id, summary=summary if won else None)

    def _detect(self, focused: FocusedSlide) -> list[Detections]:
        """Detect objects in each plane that is to be searched."""
        return [
            detect_objects(
                plane,
                self._context.threads.readers,
                detector=self._models.detector,
                network_threads=self._models.threads,
                config=self._config,
                name=self._row.path,
                progress=partial(self._progress_of_part, number, len(focused.detected)),
            )
            for number, plane in enumerate(focused.detected)
        ]

    def _merge(self, by_plane: list[Detections], info: SlideInfo) -> Merged:
        merge = self._config.merge
        merged = [merge_scanned(detections.tiles, info=info, merge=merge) for detections in by_plane]
        return merge_planes(merged, same_iou=merge.same_object_iou)

    def _extract(
        self, slide: Slide, focused: FocusedSlide, boxes: Boxes, *, coarsest_level: int
    ) -> StoredCrops:
        embedder = self._models.embedder
        writer = ArrayWriter(
            self._store,
            self._row.slide_id,
            self._context.attempt.attempt,
            count=len(boxes),
            crops=self._config.crops,
            dimension=embedder.dimension if embedder else None,
            backbone=embedder.name if embedder else None,
        )
        extracted = extract_crops(
            slide,
            self._context.threads.readers,
            boxes,
            writer=writer,
            writers=self._context.threads.writers,
            embedder=embedder,
            network_threads=self._models.threads,
            config=self._config,
            coarsest_level=coarsest_level,
            progress=self._progress,
            source=focused.crop_source,
        )
        self._embed_s = extracted.embed_s
        return extracted.crops

    def _check_crops(self, crops: StoredCrops, *, objects: int) -> None:
        failed = int(crops.measures.missing.sum())
        limit = self._config.slides.max_lost_share
        if objects and (failed + crops.coarser) / objects > limit:
            raise TooManyUnreadableTiles(
                f"{self._row.path}: of {objects:,} crops {crops.coarser:,} would come from a coarser level than they "
                f"should and {failed:,} cannot be read at all, a larger share than slides.max_lost_share = "
                f"{limit:g}; copy the slide again or raise the limit"
            )

    def _write_picture(self, slide: Slide, boxes: Boxes) -> None:
        try:
            picture, shown = slide.thumbnail(LONGEST_SIDE_PX)
        except UnreadableRegion:
            return  # only the picture is lost; the report states that it is missing
        self._store.write_picture(
            self._row.slide_id, draw_boxes(picture, rect=shown, boxes=boxes, mpp=slide.info.mpp)
        )

    def _summarise(
        self,
        slide: Slide,
        detections: Detections,
        merged: Merged,
        crops: StoredCrops,
        doubts: tuple[Doubt, ...],
        *,
        planes_read: int,
    ) -> SlideSummary:
        info = slide.info
        bounds = info.bounds
        scanned_mm2 = bounds.width * bounds.height * info.mpp**2 / 1e6
        spent = self._seconds
        return SlideSummary(
            slide_id=self._row.slide_id,
            path=self._row.path,
            well=self._row.well or UNASSIGNED_WELL,
            measured_depth_m=self._row.measured_depth_m,
            vendor=info.vendor,
            width=info.width,
            height=info.height,
            mpp=info.mpp,
            bounds_x=bounds.x_min,
            bounds_y=bounds.y_min,
            bounds_width=bounds.width,
            bounds_height=bounds.height,
            scanned_mm2=scanned_mm2,
            tiles_planned=detections.tiles_planned,
            tiles_blank=detections.tiles_blank,
            tiles_read=detections.tiles_planned - detections.tiles_blank - detections.tiles_failed,
            tiles_failed=detections.tiles_failed,
            content_mm2=min(detections.content_mm2, scanned_mm2),  # they differ in the last digit
            detector_megapixels=detections.shown_megapixels,
            device=self._models.device,
            objects=len(merged.boxes),
            crops_coarser=crops.coarser,
            crops_failed=int(crops.measures.missing.sum()),
            array_bytes=crops.files.total_bytes,
            seconds_fetch=spent["fetch"],
            seconds_open=spent["open"],
            seconds_detect=spent["detect"],
            seconds_merge=spent["merge"],
            seconds_crops=spent["crops"],
            seconds_embed=self._embed_s,
            seconds_write=spent["write"],
            seconds_total=time.monotonic() - self._started_s,
            attempt=self._context.attempt.attempt,
            host=self._context.attempt.host,
            finished_at=utc_now(),
            boxes_outside=merged.outside,
            lost_share=max(loss.lost_share for loss in detections.passes),
            pass_um_per_px=tuple(loss.um_per_px for loss in detections.passes),
            pass_foreground_mm2=tuple(loss.foreground_mm2 for loss in detections.passes),
            pass_lost_mm2=tuple(loss.lost_mm2 for loss in detections.passes),
            mpp_from=source_of_mpp(info.mpp_from, self._row.mpp_from),
            planes=count_planes(info.properties, slide.tiff_format),
            scan_id=scan_id_of(info),
            doubts=doubts,
            longest_um_quartiles=longest_um_quartiles(info, merged.boxes),
            extra=self._row.extra,
            planes_read=planes_read,
            # A sample of one depth has equal ends.
            top_depth_m=self._row.measured_depth_m
            if self._row.top_depth_m is None
            else self._row.top_depth_m,
            base_depth_m=self._row.measured_depth_m
            if self._row.base_depth_m is None
            else self._row.base_depth_m,
            depth_unit=self._row.depth_unit,
            sample_type=self._row.sample_type,
            preparation=self._row.preparation,
        )

    def _enter(self, stage: str) -> None:
        now = time.monotonic()
        self._seconds[self.stage] = self._seconds.get(self.stage, 0.0) + now - self._stage_s
        self.stage, self._stage_s = stage, now
        self._context.threads.enter(stage)
        self._progress(0.0)

    def _progress(self, share: float) -> None:
        self._check_deadline()
        self._context.show(WorkerStatus(self._row.slide_id, self.stage, share))

    def _progress_of_part(self, number: int, count: int, share: float) -> None:
        self._progress((number + share) / count)

    def _check_deadline(self) -> None:
        limit_s = self._config.workers.deadline_minutes * 60
        if time.monotonic() - self._started_s > limit_s:
            raise AttemptExpired(
                f"{self._row.path}: not finished after workers.deadline_minutes = {limit_s / 60:g}; "
                "raise it for such slides"
            )
