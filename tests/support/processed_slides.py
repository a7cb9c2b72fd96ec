"""One slide through the real worker, in this process."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fossilray.core.config import RunConfig, load_config
from fossilray.core.records import CatalogRow, Outcome, WorkItem
from fossilray.processing.worker import SlideWorker
from fossilray.store import RunStore
from fossilray.store.run.run_record import describe_run

CLASSICAL = ("detector.kind=classical", "detector.classical.min_area_um2=100")


def run_one(
    slide: Path, folder: Path, *settings: str, row: CatalogRow | None = None
) -> tuple[RunStore, Outcome]:
    config: RunConfig = load_config(None, [*CLASSICAL, *settings])
    store = RunStore.open(str(folder / "run"))
    store.create_or_check(describe_run(config, {}))
    worker = SlideWorker(str(folder / "run"), config)
    worker.prepare()
    return store, worker.process(WorkItem.of_slide(row or CatalogRow(slide.stem, str(slide))))


def objects(store: RunStore) -> pa.Table:
    (path,) = store.committed_files().values()
    return pq.ParquetFile(Path(store.root) / path).read()
