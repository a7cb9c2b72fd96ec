"""A trace of one slide, processed in this process without a run, to see where its time goes."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from fossilray.core.atomic_files import write_atomically
from fossilray.core.config import RunConfig, StoreConfig
from fossilray.core.errors import CatalogError
from fossilray.core.records import Failure, ResourceUsage, SlideSummary, WorkItem
from fossilray.processing.worker import SlideWorker
from fossilray.slides.catalog import find_slides
from fossilray.slides.remote.scratch import Scratch
from fossilray.store import RunStore
from fossilray.store.run.run_record import describe_run


@dataclass(frozen=True)
class TracedSlide:
    """The result of a traced slide; `path` is the trace."""

    path: Path
    slide_id: str
    summary: SlideSummary | None
    failure: Failure | None
    usage: ResourceUsage | None


def trace_slide(target: str, config: RunConfig, out: Path) -> TracedSlide:
    """Process a slide in this process, as a worker with this configuration does, and write its trace to a file.

    target: one slide, on a disk or s3://…. All other results are discarded.

    Raises:
        CatalogError: target is not exactly one slide.
        UsageError: the file cannot be written.
        WeightsError: the networks cannot be loaded.
    """
    catalog = find_slides(
        target, access=config.slides.access or config.store, name_pattern=config.slides.name_pattern
    )
    if len(catalog.rows) != 1:
        raise CatalogError(f"{target} names {len(catalog.rows):,} slides; name one")
    row = catalog.rows[0]
    watched = config.model_copy(
        update={
            "watch": config.watch.model_copy(update={"trace": (row.slide_id,)}),
            # The slide keeps its access settings; the folder of this run is on a disk.
            "slides": config.slides.model_copy(update={"access": config.slides.access or config.store}),
            "store": StoreConfig(),
        }
    )
    with closing(Scratch(None)) as scratch:
        folder = str(scratch.folder / "run")
        store = RunStore.open(folder)
        store.create_or_check(describe_run(watched, {}))
        worker = SlideWorker(folder, watched)
        worker.prepare()
        try:
            outcome = worker.process(WorkItem.of_slide(row))
        finally:
            worker.close()
        (written,) = store.files.find("traces")
        write_atomically(out, store.files.read(written))
    return TracedSlide(out, row.slide_id, outcome.summary, outcome.failure, outcome.usage)
