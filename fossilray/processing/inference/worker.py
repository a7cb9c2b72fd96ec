"""Answers about one slide's stored crops, in one process: read, embed or classify, commit. No Ray, no slide here."""

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
from fossilray.core.records import CatalogRow, Failure, Outcome, WorkerStatus
from fossilray.store import RunStore
from fossilray.store.derived.derived_store import DerivedStore
from fossilray.store.query.stored_slide import StoredSlide, read_slide
from fossilray.store.run.layout import DerivedKind

Progress = Callable[[str, float], None]
"""Told the stage and the share of it that is done."""


class InferenceTask(Protocol):
    """Answers about the objects of one slide after the other."""

    def prepare(self) -> str:
        """Load what it needs; what it runs on."""
        ...

    def answer(self, slide: StoredSlide, progress: Progress) -> pa.Table:
        """One row per object, in their order."""
        ...


class StoredSlideWorker:
    """The part of a `records.Worker` that is the same whatever is made of stored crops and vectors."""

    lower: ClassVar[str]
    """The setting to lower where memory ran out."""
    _state: WorkerStatus | None = None

    def state(self) -> WorkerStatus | None:
        """What it does at the moment, with the memory that it holds; None between two rows."""
        state = self._state
        return None if state is None else replace(state, resident_bytes=resident_bytes())

    def close(self) -> None:
        """It holds nothing on its machine."""

    def _show(self, slide_id: str, stage: str, share: float) -> None:
        self._state = WorkerStatus(slide_id, stage, share)

    def _failure(self, row: CatalogRow, caught: BaseException) -> Failure:
        """The failure of one slide or shard that an exception of whatever class is."""
        error = caught
        if is_out_of_memory(caught):
            message = exception_message(caught)[:400]
            error = OutOfMemory(f"memory ran out ({message}); lower {self.lower}")
        return Failure.of(
            error,
            cause=caught,
            slide_id=row.slide_id,
            stage=self._state.stage if self._state else "read",
            expected=FossilrayError,
        )


class InferenceWorker(StoredSlideWorker):
    """A worker of the scheduler that answers about committed slides; rows name their objects files as `path`."""

    lower = "embedder.batch"

    def __init__(
        self,
        run_url: str,
        config: RunConfig,
        kind: DerivedKind,
        name: str,
        make_answerer: Callable[[RunStore, RunConfig], InferenceTask],
    ) -> None:
        self._store = RunStore.open(run_url, config.store)
        self._store.expect_run()
        self._answers = DerivedStore.open(self._store, kind, name)
        self._answerer = make_answerer(self._store, config)

    def prepare(self) -> str:
        """The host, process and device, once models are loaded.

        Raises:
            WeightsError: they cannot be.
        """
        return f"{socket.gethostname()}/{os.getpid()}/{self._answerer.prepare()}"

    def process(self, row: CatalogRow, upcoming: CatalogRow | None = None) -> Outcome:
        """The slide's answers committed, or why there are none recorded.

        Raises:
            StoreError: the run directory refuses or does not answer; the slide is as if it had never begun.
        """
        self._show(row.slide_id, "read", 0.0)
        try:
            slide = read_slide(self._store, row)
            table = self._answerer.answer(slide, functools.partial(self._show, row.slide_id))
            won = self._answers.commit(row.slide_id, row.well, table, source_attempt=slide.footer.attempt)
        except ENDS_THE_JOB:
            raise
        except BaseException as caught:  # noqa: BLE001  whatever it is, it is this slide's failure and no other's
            failure = self._failure(row, caught)
            self._answers.tries.record_failure(failure)
            return Outcome(row.slide_id, failure=failure)
        finally:
            self._state = None
        return Outcome(row.slide_id, answered=table.num_rows if won else None)


ENDS_THE_JOB = (StoreOut, ConditionalCreateUnsupported, UsageError, KeyboardInterrupt, SystemExit)
"""What is not one slide's failure, nor one shard's: the store is out, the job is not possible, the process ends."""
