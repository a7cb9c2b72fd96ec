"""The worker of the slide job: one slide at a time, from the scan to committed rows, in one process. No Ray."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from fossilray.core.config import RunConfig
from fossilray.core.errors import (
    ConditionalCreateUnsupported,
    OutOfMemory,
    SlideError,
    StoreError,
    StoreFull,
    StoreOut,
    UsageError,
)
from fossilray.core.exception_summary import exception_message, is_out_of_memory
from fossilray.core.machine import resident_bytes
from fossilray.core.parallel import MonitoredThreadPool
from fossilray.core.records import Attempt, CatalogRow, Failure, Outcome, WorkItem
from fossilray.core.worker import WorkerStatus
from fossilray.processing.detection.detect import NetworkThreads
from fossilray.processing.slide_attempt import AttemptContext, LoadedModels, SlideAttempt
from fossilray.processing.threads import SlideThreads
from fossilray.slides.access import as_slide_error
from fossilray.slides.neighbours import can_be_read, classify_failure
from fossilray.slides.remote.staging import Stager
from fossilray.store import RunStore
from fossilray.store.files.base import is_remote


class SlideWorker:
    """The worker of the slide job; it opens the store and loads the models once. An item's payload is a CatalogRow."""

    _models: LoadedModels
    _networks: MonitoredThreadPool

    def __init__(self, store_url: str, config: RunConfig) -> None:
        self._config = config
        self._store = RunStore.open(store_url, config.store)
        self._store.expect_run()
        self._stager = Stager(config.slides, config.store)
        self._status: WorkerStatus | None = None
        self._threads: SlideThreads | None = None
        self._catalog: list[str] | None = None

    def prepare(self) -> str:
        """Load detector and embedder, on a GPU if this process has one; return host, process and device.

        Raises:
            WeightsError: weights cannot be loaded.
        """
        import torch

        from fossilray.models.backbones.load import load_embedder
        from fossilray.models.detectors.load import load_detector
        from fossilray.models.device import precision_on

        workers = self._config.workers
        torch.set_num_threads(workers.torch_threads)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        name = torch.cuda.get_device_name() if device == "cuda" else device
        precision = str(precision_on(device, workers.precision)).removeprefix("torch.")
        # On a GPU a second thread copies a batch to the device while the first one computes.
        count = 2 if device == "cuda" else 1
        self._networks = MonitoredThreadPool(count, "network")
        self._models = LoadedModels(
            detector=load_detector(self._config.detector, device=device, precision=workers.precision),
            embedder=load_embedder(
                self._config.embedder, device=device, precision=workers.precision, compiled=workers.compile
            ),
            device=f"{name}/{precision}",
            threads=NetworkThreads(self._networks, count),
        )
        return f"{socket.gethostname()}/{os.getpid()}/{device}"

    def process(self, item: WorkItem, upcoming: WorkItem | None = None) -> Outcome:
        """Commit the slide, or record its failure; `upcoming` is downloaded meanwhile where it is remote.

        An exception of any class is the slide's failure, recorded with its traceback.

        Raises:
            StoreError: the run directory refuses or does not reply; nothing of the slide was written.
        """
        row: CatalogRow = item.payload
        attempt = self._store.attempts.start(
            row.slide_id, deadline_s=self._config.workers.deadline_minutes * 60
        )
        fetched_before = self._stager.fetched_bytes
        self._threads = threads = SlideThreads(row.slide_id, self._config, self._networks)
        context = AttemptContext(self._config, self._store, row, attempt, threads, self._publish_status)
        run = SlideAttempt(self._models, context)
        try:
            with self._stager.local(row.path) as path:
                if upcoming is not None:
                    self._stager.prefetch(upcoming.source)
                outcome = run.execute(path)
        except (StoreOut, ConditionalCreateUnsupported, UsageError, KeyboardInterrupt, SystemExit) as caught:
            # The run's fault, or the end of this process. On a full disk the attempt's files would take up space.
            if isinstance(caught, StoreFull):
                with suppress(StoreError):
                    self._store.delete_attempt(row.slide_id, attempt.attempt)
            raise
        except BaseException as caught:  # noqa: BLE001  an exception of any class fails this slide only
            failure = self._failure(caught, row, attempt, run.stage)
            self._store.attempts.record_failure(failure)
            self._store.delete_attempt(row.slide_id, attempt.attempt)
            outcome = Outcome(row.slide_id, failure=failure)
        finally:
            self._status = None
        usage = threads.finish(fetched_bytes=self._stager.fetched_bytes - fetched_before)
        if threads.timeline is not None:
            # The commit counts, with or without its trace.
            with suppress(StoreError):
                self._store.write_trace(row.slide_id, attempt.attempt, threads.timeline.to_json())
        return replace(outcome, usage=usage)

    def state(self) -> WorkerStatus | None:
        """Return the stage and progress of the current slide, with memory and queues; None between two slides."""
        status = self._status
        if status is None or self._threads is None:
            return None
        return replace(
            status,
            resident_bytes=resident_bytes(),
            fetched_bytes=self._stager.fetched_bytes if status.stage == "fetch" else 0,
            waiting_reads=self._threads.readers.waiting,
            waiting_batches=self._threads.networks.waiting,
        )

    def close(self) -> None:
        """Delete staged slides."""
        self._stager.close()

    def _failure(self, caught: BaseException, row: CatalogRow, attempt: Attempt, stage: str) -> Failure:
        """Return an exception as the slide's failure, or as an outage where its neighbours cannot be read either."""
        error = _as_slide_error(caught, row)
        if error is not None:
            error = classify_failure(error, row.path, others=self._paths, is_readable=self._can_be_read)
        # An unexpected exception may be transient; the driver quarantines the slide after its last try.
        return Failure.of(
            error or caught, cause=caught, slide_id=row.slide_id, stage=stage, attempt=attempt.attempt
        )

    def _paths(self) -> Sequence[str]:
        """Paths of all slides of the catalog, read when a slide first cannot be read."""
        if self._catalog is None:
            self._catalog = [row.path for row in self._store.read_catalog()]
        return self._catalog

    def _can_be_read(self, path: str) -> bool:
        return self._stager.can_be_read(path) if is_remote(path) else can_be_read(path)

    def _publish_status(self, status: WorkerStatus) -> None:
        self._status = status


def _as_slide_error(caught: BaseException, row: CatalogRow) -> SlideError | None:
    """Return the exception as a SlideError; None for an unexpected one."""
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
