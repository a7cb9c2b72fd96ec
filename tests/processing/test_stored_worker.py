"""Workers of later jobs over one bad slide or shard: it fails, and nothing else does."""

from __future__ import annotations

import functools
from pathlib import Path

import pyarrow as pa
import pytest
from support.small_run import write_small_run

from fossilray.core.config import RunConfig
from fossilray.core.errors import StoreUnreachable
from fossilray.core.records import Failure, WorkItem
from fossilray.processing.inference.worker import InferenceWorker, Progress
from fossilray.store import RunStore
from fossilray.store.derived.derived_store import DerivedRecord, DerivedStore
from fossilray.store.query.stored_slide import StoredSlide


class Raising:
    """A task that raises an error."""

    def __init__(self, _store: RunStore, _config: RunConfig, *, error: BaseException) -> None:
        self._error = error

    def prepare(self) -> str:
        return "cpu"

    def run(self, slide: StoredSlide, progress: Progress) -> pa.Table:
        raise self._error


class Odd(BaseException):
    """Of no class that a rule expects."""


@pytest.mark.parametrize(
    "error",
    [
        ValueError("missing crop"),
        RecursionError(),
        OSError(5, "Input/output error"),
        Odd("odd"),
        KeyError("x" * 9999),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_of_any_class_is_one_slides_failure(error: BaseException, tmp_path: Path) -> None:
    failure, derived = process(tmp_path, error)
    assert failure is not None
    assert (failure.error, failure.transient, failure.quarantined) == (type(error).__name__, True, False)
    assert failure.place is not None
    assert failure.place.startswith("fossilray/processing/inference/worker.py:")
    assert "raise self._error" in (failure.traceback or "")
    assert len(failure.message) <= 2_000
    assert derived.attempts.failures() == [failure]


def test_memory_that_runs_out_names_the_setting_to_lower(tmp_path: Path) -> None:
    failure, _ = process(tmp_path, MemoryError())
    assert failure is not None
    assert (failure.error, failure.transient, failure.place) == ("OutOfMemory", True, None)
    assert "lower embedder.batch" in failure.message
    assert failure.traceback


def test_a_store_that_is_out_and_the_end_of_the_process_are_no_slides_failure(tmp_path: Path) -> None:
    for number, error in enumerate((StoreUnreachable("no reply"), KeyboardInterrupt(), SystemExit(1))):
        with pytest.raises(type(error)):
            process(tmp_path / str(number), error)


def process(folder: Path, error: BaseException) -> tuple[Failure | None, DerivedStore]:
    run = write_small_run(folder / "run")
    record = DerivedRecord(kind="predictions", run_digest=run.read_run().digest, backbone={}, head={})
    derived = DerivedStore.create(run, "predictions", "x", record)
    make = functools.partial(Raising, error=error)
    worker = InferenceWorker(run.url, RunConfig(), "predictions", "x", make)
    slide_id, path = sorted(run.committed_files().items())[0]
    return worker.process(WorkItem(slide_id, payload=path)).failure, derived
