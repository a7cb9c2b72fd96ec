"""Answers about one slide's stored crops, in one process: read, embed or classify, commit. No Ray, no slide here."""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from fossilray.core.config import RunConfig
from fossilray.core.errors import StoreError
from fossilray.core.records import CatalogRow, Outcome
from fossilray.processing.inference.worker_stored_worker import ENDS_THE_JOB, StoredSlideWorker
from fossilray.store import RunStore
from fossilray.store.derived.derived_store import DerivedStore
from fossilray.store.run.layout import DerivedKind
from fossilray.store.run.objects_file import Footer, decode_objects, parse_tail

Progress = Callable[[str, float], None]
"""Told the stage and the share of it that is done."""


@dataclass(frozen=True)
class StoredSlide:
    """The objects of one committed slide, and where their crops are."""

    slide_id: str
    objects: pa.Table
    footer: Footer


class InferenceTask(Protocol):
    """Answers about the objects of one slide after the other."""

    def prepare(self) -> str:
        """Load what it needs; what it runs on."""
        ...

    def answer(self, slide: StoredSlide, progress: Progress) -> pa.Table:
        """One row per object, in their order."""
        ...


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


def read_slide(store: RunStore, row: CatalogRow) -> StoredSlide:
    """The objects of a committed slide.

    Raises:
        StoreError: its objects file is gone, damaged or another slide's.
    """
    name = f"{store.url}/{row.path}"
    try:
        content = store.files.read(row.path)
    except FileNotFoundError:
        raise StoreError(f"{name} is gone although its slide was committed; see `fossilray verify`") from None
    footer, _ = parse_tail(content, name=name)
    if footer.summary.slide_id != row.slide_id:
        raise StoreError(
            f"{name} is of slide {footer.summary.slide_id}; see what else is with `fossilray verify`"
        )
    return StoredSlide(row.slide_id, decode_objects(content, name=name), footer)
