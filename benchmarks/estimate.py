"""Core-seconds that `fossilray estimate` foretells for a slide, beside those that a worker takes for it.

python benchmarks/estimate.py [--size 4096 --slides 2 --rounds 3]

Rates are measured on one synthetic slide, others of the same kind are then processed whole, without Ray, by the
default configuration. Both sides are CPU time, which other work on the machine changes little.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import typer

from fossilray.core.config import RunConfig
from fossilray.core.records import CatalogRow, WorkItem
from fossilray.processing.planning.dry_run import crop_bytes
from fossilray.processing.planning.machines import local_instance, machine_of_instance
from fossilray.processing.planning.measure import measure_rates
from fossilray.processing.planning.model import Quantity, estimate
from fossilray.processing.planning.workload import assumed_statistics, workload_of_rows
from fossilray.processing.worker import SlideWorker
from fossilray.slides.catalog import find_slides
from fossilray.store import RunStore
from fossilray.store.run.run_record import describe_run
from fossilray.synthetic.archive import synthesise_archive


def main(size: int = 4096, slides: int = 2, rounds: int = 3) -> None:
    """Measure and print."""
    config = RunConfig()
    with tempfile.TemporaryDirectory(prefix="fossilray-estimate-") as scratch:
        folder = Path(scratch)
        synthesise_archive(folder / "slides", slides=slides, size_px=size, form="mrxs", seed=7)
        rows = find_slides(str(folder / "slides")).rows
        RunStore.open(str(folder / "run")).create_or_check(describe_run(config, {}))
        worker = SlideWorker(str(folder / "run"), config)
        worker.prepare()
        rates = measure_rates(config)
        machine = machine_of_instance(local_instance(), config)
        print(f"{'slide':40} {'objects':>8} {'foretold':>9} {'taken':>7} {'ratio':>6}  core-seconds")
        for row in rows:
            objects, taken_s = process(worker, row, rounds)
            workload = workload_of_rows([row], config, assumed_statistics(crop_bytes(config)))
            # The number of objects is no part of what is tested.
            quantity = Quantity(max(1, objects), "objects", "computed")
            archive_estimate = estimate(replace(workload, objects=quantity), rates, machine)
            foretold_s = archive_estimate.limits["cores"] * machine.cores
            print(
                f"{row.slide_id:40} {objects:8,} {foretold_s:9.2f} {taken_s:7.2f} {taken_s / foretold_s:6.2f}"
            )


def process(worker: SlideWorker, row: CatalogRow, rounds: int) -> tuple[int, float]:
    """Objects found, and the median CPU seconds of processing the slide whole."""
    seconds = []
    objects = 0
    for number in range(rounds):
        before_s = time.process_time()
        outcome = worker.process(WorkItem.of_slide(replace(row, slide_id=f"{row.slide_id}-{number}")))
        seconds.append(time.process_time() - before_s)
        assert outcome.summary is not None, outcome.failure
        objects = outcome.summary.objects
    return objects, median(seconds)


if __name__ == "__main__":
    typer.run(main)
