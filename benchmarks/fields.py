"""Time, bytes and files of fields of view, beside the same area scanned as one slide.

A scene is painted once and stored as photographs and as a tiled TIFF; both are processed in this process by one worker,
after one slide that warms it up. The stages are those of the table `slides`.

    python benchmarks/fields.py --fields 100 --folder /tmp/fields
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2

from fossilray.core.config import load_config
from fossilray.core.records import CatalogRow, SlideSummary, WorkItem
from fossilray.processing.worker import SlideWorker
from fossilray.slides.catalog import find_slides
from fossilray.store import RunStore
from fossilray.store.run.run_record import describe_run
from fossilray.synthetic.assemblage import Column
from fossilray.synthetic.scene import Scene
from fossilray.synthetic.writers.tiff import TiffOptions, write_pyramidal_tiff

MPP = 0.25
WIDTH, HEIGHT = 2048, 1536
_STAGES = ("fetch", "open", "detect", "merge", "crops", "embed", "write", "total")
_PER_MM2 = 52.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fields", type=int, default=100)
    parser.add_argument("--folder", type=Path, required=True, help="new folder for the images and the runs")
    given = parser.parse_args()
    across = max(1, round(given.fields**0.5))
    down = -(-given.fields // across)
    fields, slide = _paint(given.folder, across, down, count=given.fields)
    for name, target in (("fields", fields), ("slide", slide)):
        _measure(name, target, given.folder / f"run-{name}")


def _paint(folder: Path, across: int, down: int, *, count: int) -> tuple[Path, Path]:
    fields, slide = folder / "fields", folder / "slide.tiff"
    if slide.exists():
        return fields, slide
    fields.mkdir(parents=True)
    column = Column(1)
    (sample,) = column.samples(1)
    scene = Scene(
        replace(column.assemblage(sample, slide=0, slides=1), density_per_mm2=_PER_MM2),
        width=across * WIDTH,
        height=down * HEIGHT,
        um_per_px=MPP,
        seed=[1, 5, 0],
    )
    for number in range(count):
        row, left = divmod(number, across)
        pixels = scene.region(left * WIDTH, row * HEIGHT, WIDTH, HEIGHT)
        cv2.imwrite(str(fields / f"field-{number:03}.jpg"), pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    write_pyramidal_tiff(
        slide, scene, TiffOptions(mpp=MPP, jpeg_quality=92, background_rgb=scene.background_rgb)
    )
    return fields, slide


def _measure(name: str, target: Path, run: Path) -> None:
    config = load_config(None, [f"slides.mpp={MPP}"])
    begun_s = time.monotonic()
    rows = find_slides(str(target)).rows
    found_s = time.monotonic() - begun_s
    store = RunStore.open(str(run), config.store)
    store.create_or_check(describe_run(config, {}))
    rows = store.freeze_catalog(rows)
    worker = SlideWorker(str(run), config)
    worker.prepare()
    summaries, wall_s, cpu_s = _process(worker, rows)
    files = [file for file in run.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    area_mm2 = sum(summary.scanned_mm2 for summary in summaries)
    count = len(summaries)
    print(
        f"{name}: {count} of {area_mm2:.1f} mm2, {sum(summary.objects for summary in summaries):,} objects; listed in "
        f"{found_s:.1f} s; wall {wall_s / count:.3f} s and CPU {cpu_s / count:.3f} s each, {wall_s / area_mm2:.2f} s "
        f"per mm2; {size / count / 1e3:,.0f} kB and {len(files) / count:.1f} files each"
    )
    for stage in _STAGES:
        seconds = sum(getattr(summary, f"seconds_{stage}") for summary in summaries)
        print(f"  {stage}: {seconds / count * 1000:,.0f} ms each")


def _process(worker: SlideWorker, rows: Sequence[CatalogRow]) -> tuple[list[SlideSummary], float, float]:
    items = [WorkItem.of_slide(row) for row in rows]
    begun_s, cpu_s = time.monotonic(), time.process_time()
    summaries = []
    for number, item in enumerate(items):
        outcome = worker.process(item)
        if outcome.summary is None:
            raise SystemExit(f"{item.key}: {outcome.failure}")
        summaries.append(outcome.summary)
        if number == 0 and len(items) > 1:
            summaries.clear()
            begun_s, cpu_s = time.monotonic(), time.process_time()
    return summaries, time.monotonic() - begun_s, time.process_time() - cpu_s


if __name__ == "__main__":
    main()
