"""A job that classifies a run slowly, and whose worker may be killed once: as a process of its own, or called."""

from __future__ import annotations

import functools
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from ray import cloudpickle
from rich.console import Console

from fossilray.core.config import RunConfig, WorkersConfig
from fossilray.jobs.inference import run_inference
from fossilray.jobs.progress import choose_display
from fossilray.jobs.run_items import JobResult
from fossilray.models.heads import BackboneReference, save_head, train_head
from fossilray.processing.inference.tasks import ClassifyTask
from fossilray.processing.inference.worker import Progress
from fossilray.store import RunStore
from fossilray.store.derived.derived_store import DerivedRecord, DerivedStore
from fossilray.store.query.connection import load_embeddings, run_query
from fossilray.store.query.stored_slide import StoredSlide

CONFIG = RunConfig(workers=WorkersConfig(count=1, cpus_per_worker=0.4, retry_after_s=0.1))
BACKBONE = BackboneReference(name="net", sha256="cd" * 32)


class SlowClassifying(ClassifyTask):
    """Takes its time over each slide; at one of them its process is killed, the first time."""

    def __init__(
        self, store: RunStore, config: RunConfig, *, head: Path, pause_s: float, die_at: str, mark: Path
    ) -> None:
        super().__init__(store, config, head=head, embeddings=None)
        self._pause_s, self._die_at, self._mark = pause_s, die_at, mark

    def run(self, slide: StoredSlide, progress: Progress) -> pa.Table:
        time.sleep(self._pause_s)
        if slide.slide_id == self._die_at and not self._mark.exists():
            self._mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(slide, progress)


def fit_head(run: RunStore, file: Path, *, classes: tuple[str, ...]) -> Path:
    """A head for the run's own vectors, fitted on classes that are assigned in turn."""
    rows = run_query(run, "SELECT arrays, object_id FROM objects ORDER BY slide_id, object_id LIMIT 40")
    numbers = np.arange(rows.num_rows) % len(classes)
    save_head(
        file,
        train_head(load_embeddings(run, rows), numbers, classes, kind="logistic", backbone=BACKBONE),
    )
    return file


def classify_slowly(
    run_url: str, name: str, head: Path, address: str, *, pause_s: float = 0.0, die_at: str = ""
) -> JobResult:
    """Predictions of this name by the head."""
    store = RunStore.open(run_url)
    record = DerivedRecord(
        kind="predictions",
        run_digest=store.read_run().digest,
        backbone={"name": BACKBONE.name, "sha256": BACKBONE.sha256, "dimension": 12},
        head={"sha256": str(head), "kind": "logistic", "classes": []},
    )
    derived = DerivedStore.create(store, "predictions", name, record)
    mark = Path(f"{head}.{name}.killed")
    make = functools.partial(SlowClassifying, head=head, pause_s=pause_s, die_at=die_at, mark=mark)
    display = choose_display(Console(file=io.StringIO()))
    module = sys.modules[__name__]
    # Workers cannot import modules of tests by name.
    cloudpickle.register_pickle_by_value(module)
    try:
        return run_inference(store, derived, CONFIG, make, address=address, display=display)
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def start(run_url: str, name: str, head: Path, address: str, *, pause_s: float) -> subprocess.Popen[str]:
    """The same in a process of its own, which prints its counts at the end."""
    return subprocess.Popen(
        [sys.executable, __file__, run_url, name, str(head), address, str(pause_s)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def main() -> None:
    run_url, name, head, address, pause_s = sys.argv[1:]
    result = classify_slowly(run_url, name, Path(head), address, pause_s=float(pause_s))
    tally = result.tally
    report = {"committed": tally.committed, "objects": tally.objects, "failed": len(result.failures)}
    print(json.dumps({**report, "exit_code": result.exit_code}))


if __name__ == "__main__":
    main()
