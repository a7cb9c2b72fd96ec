"""A worker that rests over each slide and says where it was put; for tests of who gets which machine."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import ray
from ray import cloudpickle
from support.run_fixtures import a_summary

from fossilray.core.records import Outcome, WorkItem
from fossilray.core.worker import WorkerStatus


class RestingWorker:
    """Leaves a file `<process>.<node>` that holds the GPUs it sees, and one `<slide_id>.slide` for each try."""

    def __init__(self, marks: Path, pause_s: float, together: int = 1) -> None:
        """together: number of workers that must have started before any slide is finished."""
        self._marks, self._pause_s, self._together = marks, pause_s, together

    def prepare(self) -> str:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
        (self._marks / f"{os.getpid()}.{ray.get_runtime_context().get_node_id()}").write_text(seen)
        return f"resting/{os.getpid()}/cuda"

    def process(self, item: WorkItem, upcoming: WorkItem | None = None) -> Outcome:
        deadline_s = time.monotonic() + 60
        while len(gpus_seen(self._marks)) < self._together and time.monotonic() < deadline_s:
            time.sleep(0.05)
        time.sleep(self._pause_s)
        with (self._marks / f"{item.key}.slide").open("a") as tries:
            tries.write(f"{os.getpid()}\n")
        return Outcome(item.key, summary=a_summary(item.key, "0" * 16))

    def state(self) -> WorkerStatus | None:
        return None

    def close(self) -> None: ...


@contextlib.contextmanager
def resting_by_value() -> Iterator[None]:
    """Workers cannot import modules of tests by name."""
    modules = [sys.modules[__name__], sys.modules["support.run_fixtures"]]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def gpus_seen(marks: Path) -> list[str]:
    """What each worker had in CUDA_VISIBLE_DEVICES."""
    return [mark.read_text() for mark in marks.iterdir() if mark.suffix != ".slide"]


def nodes_used(marks: Path) -> set[str]:
    """Nodes that workers were on."""
    return {mark.suffix[1:] for mark in marks.iterdir() if mark.suffix != ".slide"}
