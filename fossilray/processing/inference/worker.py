"""Inference on the stored crops of one slide, in one process: read, embed or classify, commit. No Ray."""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Protocol

import pyarrow as pa

from fossilray.core.config import RunConfig
from fossilray.core.errors import (
    ConditionalCreateUnsupported,
    FossilrayError,
    OutOfMemory,
    StoreOut,
    UsageError,
)
from fossilray.core.exception_summary import exception_message, is_out_of_memory
from fossilray.core.machine import resident_bytes
from fossilray.core.records import Failure, Outcome, WorkItem
from fossilray.core.worker import WorkerStatus
from fossilray.store import RunStore
from fossilray.store.derived.derived_store import DerivedStore
from fossilray.store.query.stored_slide import StoredSlide, read_slide
from fossilray.store.run.layout import DerivedKind, well_of

Progress = Callable[[str, float], None]
"""Called with the stage, and the fraction of it that is done (0..1)."""

ENDS_THE_JOB = (StoreOut, ConditionalCreateUnsupported, UsageError, KeyboardInterrupt, SystemExit)
"""Exceptions that are no item's failure: the store is out, the job is impossible, or the process ends."""


class InferenceTask(Protocol):
    """Computes one derived row per object, slide by slide."""

    def prepare(self) -> str:
        """Load models; return the device that they run on."""
        ...

    def run(self, slide: StoredSlide, progress: Progress) -> pa.Table:
        """Return one row per object of the slide, in the order of its objects."""
        ...


class StoredSlideWorker:
    """Base of workers that read committed slides: status and failures."""

    memory_setting: ClassVar[str]
    """The setting to lower where memory runs out, for the message."""
    _status: WorkerStatus | None = None

    def state(self) -> WorkerStatus | None:
        """Return the status with the memory of this process; None between two items."""
        status = self._status
        return None if status is None else replace(status, resident_bytes=resident_bytes())

    def close(self) -> None:
        """Do nothing: the worker keeps no files on its machine."""

    def _publish_status(self, key: str, stage: str, share: float) -> None:
        self._status = WorkerStatus(key, stage, share)

    def _failure(self, key: str, caught: BaseException) -> Failure:
        """Return an exception of any class as the failure of one slide or shard."""
        error = caught
        if is_out_of_memory(caught):
            message = exception_message(caught)[:400]
            error = OutOfMemory(f"memory ran out ({message}); lower {self.memory_setting}")
        return Failure.of(
            error,
            cause=caught,
            slide_id=key,
            stage=self._status.stage if self._status else "read",
            expected=FossilrayError,
        )


class InferenceWorker(StoredSlideWorker):
    """Runs an inference task on committed slides; an item's payload is the path of its objects file in the run."""

    memory_setting = "embedder.batch"

    def __init__(
        self,
        run_url: str,
        config: RunConfig,
        kind: DerivedKind,
        name: str,
        make_task: Callable[[RunStore, RunConfig], InferenceTask],
    ) -> None:
        self._store = RunStore.open(run_url, config.store)
        self._store.expect_run()
        self._derived = DerivedStore.open(self._store, kind, name)
        self._task = make_task(self._store, config)

    def prepare(self) -> str:
        """Load models; return host, process and device.

        Raises:
            WeightsError: weights cannot be loaded.
        """
        return f"{socket.gethostname()}/{os.getpid()}/{self._task.prepare()}"

    def process(self, item: WorkItem, upcoming: WorkItem | None = None) -> Outcome:
        """Commit the derived rows of a slide, or record its failure.

        Raises:
            StoreError: the run directory refuses or does not reply; nothing of the slide was written.
        """
        path: str = item.payload
        self._publish_status(item.key, "read", 0.0)
        try:
            slide = read_slide(self._store, item.key, path)
            table = self._task.run(slide, functools.partial(self._publish_status, item.key))
            won = self._derived.commit(item.key, well_of(path), table, source_attempt=slide.footer.attempt)
        except ENDS_THE_JOB:
            raise
        except BaseException as caught:  # noqa: BLE001  an exception of any class fails this slide only
            failure = self._failure(item.key, caught)
            self._derived.attempts.record_failure(failure)
            return Outcome(item.key, failure=failure)
        finally:
            self._status = None
        return Outcome(item.key, derived_rows=table.num_rows if won else None)
