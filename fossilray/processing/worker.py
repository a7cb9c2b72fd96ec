"""One slide, whole, in one process: read, detect, merge, cut, measure, embed, write, commit. No Ray here."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from fossilray.core.config import RunConfig
from fossilray.core.errors import (
    AttemptExpired,
    ConditionalCreateUnsupported,
    OutOfMemory,
    SlideError,
    StoreError,
    StoreFull,
    StoreOut,
    TooManyUnreadableTiles,
    UnreadableRegion,
    UsageError,
)
from fossilray.core.exception_summary import exception_message, is_out_of_memory
from fossilray.core.machine import resident_bytes
from fossilray.core.parallel import MonitoredThreadPool
from fossilray.core.records import (
    UNASSIGNED_WELL,
    Attempt,
    CatalogRow,
    Failure,
    Outcome,
    SlideSummary,
    WorkerStatus,
    utc_now,
)
from fossilray.core.types import Boxes, Detector, Embedder, SlideInfo
from fossilray.processing.crops.extract import extract_crops
from fossilray.processing.crops.objects_table import StoredCrops, objects_table
from fossilray.processing.detection.detect import Detections, NetworkThreads, detect_objects
from fossilray.processing.detection.merge import Merged, merge_scanned
from fossilray.processing.threads import SlideThreads
from fossilray.render.slide_overview import LONGEST_SIDE_PX, draw_boxes
from fossilray.slides.access import as_slide_error
from fossilray.slides.neighbours import can_be_read, judge_failure
from fossilray.slides.remote.staging import Stager
from fossilray.slides.slide import Slide, open_slide
from fossilray.store import RunStore
from fossilray.store.arrays.group import ArrayWriter
from fossilray.store.files.base import is_remote


class SlideWorker:
    """The real worker: models and store are opened once, then slide after slide."""

    def __init__(self, store_url: str, config: RunConfig) -> None:
        self._config = config
        self._store = RunStore.open(store_url, config.store)
        self._store.expect_run()
        self._stager = Stager(config.slides, config.store)
        self._state: WorkerStatus | None = None
        self._threads: SlideThreads | None = None
        self._catalog: list[str] | None = None

    def prepare(self) -> str:
        """Load the detector and the embedder on a GPU if this process has one; the host, process and device.

        Raises:
            WeightsError: weights cannot be loaded.
        """
        import torch

        from fossilray.models.backbones.load import load_embedder
        from fossilray.models.detectors.load import load_detector
        from fossilray.models.device import precision_on

        torch.set_num_threads(self._config.workers.torch_threads)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._detector: Detector = load_detector(
            self._config.detector, device=device, precision=self._config.workers.precision
        )
        self._embedder: Embedder | None = load_embedder(
            self._config.embedder,
            device=device,
            precision=self._config.workers.precision,
            compiled=self._config.workers.compile,
        )
        name = torch.cuda.get_device_name() if device == "cuda" else device
        numbers = str(precision_on(device, self._config.workers.precision)).removeprefix("torch.")
        self._device = f"{name}/{numbers}"
        lanes = 2 if device == "cuda" else 1
        self._networks = MonitoredThreadPool(lanes, "network")
        self._lanes = NetworkThreads(self._networks, lanes)
        return f"{socket.gethostname()}/{os.getpid()}/{device}"

    def process(self, row: CatalogRow, upcoming: CatalogRow | None = None) -> Outcome:
        """The slide committed, or its failure recorded; `upcoming` is fetched meanwhile if it must be fetched.

        An exception of whatever class is the slide's failure, with its traceback on record.

        Raises:
            StoreError: the run directory refuses or does not answer; the slide is as if it had never begun.
        """
        attempt = self._store.begin_attempt(
            row.slide_id, deadline_s=self._config.workers.deadline_minutes * 60
        )
        fetched_before = self._stager.fetched_bytes
        self._threads = threads = SlideThreads(row.slide_id, self._config, self._networks)
        run = SlideAttempt(
            self._config,
            self._store,
            self._detector,
            self._lanes,
            self._embedder,
            self._device,
            row,
            attempt,
            self._show,
            threads,
        )
        try:
            with self._stager.local(row.path) as path:
                if upcoming is not None:
                    self._stager.prefetch(upcoming.path)
                outcome = run.execute(path)
        except (StoreOut, ConditionalCreateUnsupported, UsageError, KeyboardInterrupt, SystemExit) as caught:
            # The run's fault, or the end of this process; what a full disk holds of the attempt is in the way.
            if isinstance(caught, StoreFull):
                with suppress(StoreError):
                    self._store.sweep_attempt(row.slide_id, attempt.attempt)
            raise
        except BaseException as caught:  # noqa: BLE001  whatever it is, it is this slide's failure and no other's
            failure = self._describe(caught, row, attempt, run.stage)
            self._store.record_failure(failure)
            self._store.sweep_attempt(row.slide_id, attempt.attempt)
            outcome = Outcome(row.slide_id, failure=failure)
        finally:
            self._state = None
        usage = threads.finish(fetched_bytes=self._stager.fetched_bytes - fetched_before)
        if threads.timeline is not None:
            # A timeline more or less is no reason to lose what is committed.
            with suppress(StoreError):
                self._store.write_trace(row.slide_id, attempt.attempt, threads.timeline.to_json())
        return replace(outcome, usage=usage)

    def _describe(self, caught: BaseException, row: CatalogRow, attempt: Attempt, stage: str) -> Failure:
        """The failure that an exception is, judged beside the slide's neighbours where a share may be out."""
        error = _as_slide_error(caught, row)
        if error is not None:
            error = judge_failure(error, row.path, others=self._paths, is_readable=self._can_be_read)
        # What no rule expects may pass; the driver quarantines it after its last try.
        return Failure.of(
            error or caught, cause=caught, slide_id=row.slide_id, stage=stage, attempt=attempt.attempt
        )

    def _paths(self) -> Sequence[str]:
        """All slides of the catalog; only a worker that meets a slide it cannot read keeps them."""
        if self._catalog is None:
            self._catalog = [row.path for row in self._store.read_catalog()]
        return self._catalog

    def _can_be_read(self, path: str) -> bool:
        return self._stager.can_be_read(path) if is_remote(path) else can_be_read(path)

    def state(self) -> WorkerStatus | None:
        state = self._state
        if state is None or self._threads is None:
            return None
        return replace(
            state,
            resident_bytes=resident_bytes(),
            fetched_bytes=self._stager.fetched_bytes if state.stage == "fetch" else 0,
            waiting_reads=self._threads.readers.waiting,
            waiting_batches=self._threads.networks.waiting,
        )

    def close(self) -> None:
        self._stager.close()

    def _show(self, state: WorkerStatus) -> None:
        self._state = state


class SlideAttempt:
    """One attempt at one slide."""

    def __init__(
        self,
        config: RunConfig,
        store: RunStore,
        detector: Detector,
        lanes: NetworkThreads,
        embedder: Embedder | None,
        device: str,
        row: CatalogRow,
        attempt: Attempt,
        show: Callable[[WorkerStatus], None],
        threads: SlideThreads,
    ) -> None:
        self.stage = "fetch"
        self._config = config
        self._store = store
        self._detector = detector
        self._lanes = lanes
        self._embedder = embedder
        self._device = device
        self._row = row
        self._attempt = attempt
        self._show = show
        self._threads = threads
        self._seconds: dict[str, float] = {}
        self._embed_s = 0.0
        self._started_s = self._stage_s = time.monotonic()
        self._progress(0.0)

    def execute(self, path: Path) -> Outcome:
        """Run the stages in order; the commit is the last thing that happens. path: the slide on a local disk."""
        self._enter("open")
        slides = self._config.slides
        mpp = self._row.mpp or slides.mpp
        with (
            open_slide(
                path,
                mpp=mpp,
                mpp_override=slides.mpp_override,
                max_gigapixels=slides.max_gigapixels,
                reader=slides.reader,
            ) as slide,
            self._threads,  # left before the slide is closed
        ):
            self._enter("detect")
            try:
                seen = self._find(slide)
            except TooManyUnreadableTiles:
                slide.check_losses()
                raise
            self._enter("merge")
            merged = merge_scanned(seen.tiles, info=slide.info, merge=self._config.merge)
            boxes = merged.boxes
            self._enter("crops")
            crops = self._cut(slide, boxes, coarsest_level=seen.coarsest_level)
            try:
                self._check_crops(crops, objects=len(boxes))
            except TooManyUnreadableTiles:
                slide.check_losses()
                raise
            self._enter("write")
            self._draw(slide, boxes)
            slide.check_losses()
            info = slide.info
        table = objects_table(self._row, info, boxes, crops, self._config.merge.isolated_overlap)
        self._enter("commit")
        summary = self._summarise(info, seen, merged, crops)
        if self._store.single_writer:
            self._store.submit_slide(table, summary, crops.files, attempt=self._attempt)
            return Outcome(self._row.slide_id, summary=summary, submitted=True)
        won = self._store.commit_slide(table, summary, crops.files, attempt=self._attempt)
        return Outcome(self._row.slide_id, summary=summary if won else None)

    def _find(self, slide: Slide) -> Detections:
        return detect_objects(
            slide,
            self._threads.readers,
            detector=self._detector,
            lanes=self._lanes,
            config=self._config,
            name=self._row.path,
            progress=self._progress,
        )

    def _cut(self, slide: Slide, boxes: Boxes, *, coarsest_level: int) -> StoredCrops:
        embedder = self._embedder
        writer = ArrayWriter(
            self._store,
            self._row.slide_id,
            self._attempt.attempt,
            count=len(boxes),
            crops=self._config.crops,
            dimension=embedder.dimension if embedder else None,
            backbone=embedder.name if embedder else None,
        )
        cut = extract_crops(
            slide,
            self._threads.readers,
            boxes,
            writer=writer,
            writers=self._threads.writers,
            embedder=embedder,
            lanes=self._lanes,
            config=self._config,
            coarsest_level=coarsest_level,
            progress=self._progress,
        )
        self._embed_s = cut.embed_s
        return cut.crops

    def _check_crops(self, crops: StoredCrops, *, objects: int) -> None:
        failed = int(crops.measures.missing.sum())
        limit = self._config.slides.max_lost_share
        if objects and (failed + crops.coarser) / objects > limit:
            raise TooManyUnreadableTiles(
                f"{self._row.path}: of {objects:,} crops {crops.coarser:,} would come from a coarser level than they "
                f"should and {failed:,} cannot be read at all, a larger share than slides.max_lost_share = "
                f"{limit:g}; copy the slide again or raise the limit"
            )

    def _draw(self, slide: Slide, boxes: Boxes) -> None:
        try:
            picture, shown = slide.thumbnail(LONGEST_SIDE_PX)
        except UnreadableRegion:
            return  # the picture is the only thing lost; the report says that there is none
        self._store.write_picture(
            self._row.slide_id, draw_boxes(picture, rect=shown, boxes=boxes, mpp=slide.info.mpp)
        )

    def _summarise(
        self, info: SlideInfo, seen: Detections, merged: Merged, crops: StoredCrops
    ) -> SlideSummary:
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
            tiles_planned=seen.tiles_planned,
            tiles_blank=seen.tiles_blank,
            tiles_read=seen.tiles_planned - seen.tiles_blank - seen.tiles_failed,
            tiles_failed=seen.tiles_failed,
            content_mm2=min(seen.content_mm2, scanned_mm2),  # they differ in the last digit
            detector_megapixels=seen.shown_megapixels,
            device=self._device,
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
            attempt=self._attempt.attempt,
            host=self._attempt.host,
            finished_at=utc_now(),
            boxes_outside=merged.outside,
            lost_share=max(one.lost_share for one in seen.passes),
            pass_um_per_px=tuple(one.um_per_px for one in seen.passes),
            pass_foreground_mm2=tuple(one.foreground_mm2 for one in seen.passes),
            pass_lost_mm2=tuple(one.lost_mm2 for one in seen.passes),
        )

    def _enter(self, stage: str) -> None:
        now = time.monotonic()
        self._seconds[self.stage] = self._seconds.get(self.stage, 0.0) + now - self._stage_s
        self.stage, self._stage_s = stage, now
        self._threads.enter(stage)
        self._progress(0.0)

    def _progress(self, share: float) -> None:
        self._check_deadline()
        self._show(WorkerStatus(self._row.slide_id, self.stage, share))

    def _check_deadline(self) -> None:
        limit_s = self._config.workers.deadline_minutes * 60
        if time.monotonic() - self._started_s > limit_s:
            raise AttemptExpired(
                f"{self._row.path}: not done after workers.deadline_minutes = {limit_s / 60:g}; "
                "raise it for such slides"
            )


def _as_slide_error(caught: BaseException, row: CatalogRow) -> SlideError | None:
    """The exception as one of the slide's own; None for one that no rule expects."""
    if isinstance(caught, SlideError):
        return caught
    if is_out_of_memory(caught):
        return OutOfMemory(
            f"{row.path}: memory ran out ({exception_message(caught)[:200]}); give workers more memory, or fewer of "
            "them a machine, or lower detector.batch and embedder.batch"
        )
    if isinstance(caught, OSError) and str(caught.filename or row.path).startswith(
        row.path.rpartition(".")[0]
    ):
        return as_slide_error(caught, caught.filename or row.path)
    return None
