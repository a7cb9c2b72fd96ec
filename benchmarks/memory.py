"""Peak memory of one worker: on slides from small to huge, and on one large slide full of objects.

python benchmarks/memory.py curve [--keep DIR]    16,384 to 131,072 px a side, with as many objects on each, and with
                                                  as many for each mm2
python benchmarks/memory.py large [--keep DIR]    100,000 x 80,000 px, 50,000 objects, with the seconds of each stage

Slides are sparse as real ones are: objects lie in islands, the rest of the canvas was not scanned. They are
written to a folder first, and every slide is processed by a process of its own. `curve` ends with what a gigapixel
more adds, by a line through its rows. `large` prints beside it the memory that a plain loop would need which holds
all crops of the slide before it stores them, as the paper's procedure does.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from working_folder import working_folder

if TYPE_CHECKING:
    from fossilray.processing.worker import SlideWorker

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
out = Console(width=None if sys.stdout.isatty() else 140)
Keep = Annotated[Path | None, typer.Option(help="Folder for the slides, reused when they are there.")]
MPP = 0.25
ISLAND_PX = 4096
OBJECTS_AN_ISLAND = 350
CLEAR = (226, 222, 219)


class Islands:
    """Painted objects on a clear field, in islands; everything between was not scanned."""

    def __init__(self, width: int, height: int, objects: int, *, seed: int) -> None:
        from fossilray.synthetic.painters.palynomorphs import FOSSIL_KINDS, paint

        self.width, self.height = width, height
        rng = np.random.default_rng(seed)
        self._stamps = []
        for number in range(240):
            kind = FOSSIL_KINDS[number % len(FOSSIL_KINDS)]
            # Small, so that hundreds have room on an island.
            painted = paint(kind, size_um=float(rng.uniform(12, 28)), um_per_px=MPP, rng=rng)
            self._stamps.append(np.clip(painted.transmittance * 256, 0, 320).astype(np.uint16))
        columns, rows = width // ISLAND_PX, height // ISLAND_PX
        wanted = max(1, round(objects / OBJECTS_AN_ISLAND))
        chosen = rng.choice(columns * rows, size=min(wanted, columns * rows), replace=False)
        self._islands = {
            (int(cell) % columns, int(cell) // columns): number for number, cell in enumerate(chosen)
        }
        self.objects = objects
        self._each = -(-objects // len(self._islands))
        self._drawn: dict[tuple[int, int], NDArray[np.uint8]] = {}

    def is_scanned(self, x: int, y: int, width: int, height: int) -> bool:
        return any(True for _ in self._touched(x, y, width, height))

    def region(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        out = np.empty((height, width, 3), np.uint8)
        out[:] = CLEAR
        for column, row in self._touched(x, y, width, height):
            island = self._draw(column, row)
            left, top = column * ISLAND_PX, row * ISLAND_PX
            x0, x1 = max(x, left), min(x + width, left + ISLAND_PX)
            y0, y1 = max(y, top), min(y + height, top + ISLAND_PX)
            out[y0 - y : y1 - y, x0 - x : x1 - x] = island[y0 - top : y1 - top, x0 - left : x1 - left]
        return out

    def _touched(self, x: int, y: int, width: int, height: int) -> list[tuple[int, int]]:
        return [
            (column, row)
            for row in range(y // ISLAND_PX, (y + height - 1) // ISLAND_PX + 1)
            for column in range(x // ISLAND_PX, (x + width - 1) // ISLAND_PX + 1)
            if (column, row) in self._islands
        ]

    def _draw(self, column: int, row: int) -> NDArray[np.uint8]:
        if (column, row) not in self._drawn:
            while len(self._drawn) > 2 * (self.width // ISLAND_PX):
                del self._drawn[next(iter(self._drawn))]
            self._drawn[column, row] = self._paint_island(self._islands[column, row])
        return self._drawn[column, row]

    def _paint_island(self, number: int) -> NDArray[np.uint8]:
        rng = np.random.default_rng([7, number])
        light = np.empty((ISLAND_PX, ISLAND_PX, 3), np.uint16)
        light[:] = CLEAR
        for _ in range(self._each):
            stamp = self._stamps[int(rng.integers(len(self._stamps)))]
            height, width = stamp.shape[:2]
            x, y = int(rng.integers(0, ISLAND_PX - width)), int(rng.integers(0, ISLAND_PX - height))
            field = light[y : y + height, x : x + width]
            field[:] = (field.astype(np.uint32) * stamp >> 8).astype(np.uint16)
        light = np.clip(light, 0, 255) + rng.integers(0, 3, light.shape, dtype=np.uint16)
        return np.clip(light, 0, 255).astype(np.uint8)


def write(path: Path, width: int, height: int, objects: int) -> None:
    """The slide, as an overlapping-photo MIRAX."""
    from fossilray.synthetic.writers.mirax import write_mirax
    from fossilray.synthetic.writers.mirax_plan import MiraxOptions

    write_mirax(path, Islands(width, height, objects, seed=1), MiraxOptions(seed=1))


def process(path: Path, run: Path) -> dict[str, object]:
    """Process it in this very process; the summary and this process's peak memory, in MB, by stage."""
    from fossilray.core.config import RunConfig
    from fossilray.core.records import CatalogRow, WorkItem
    from fossilray.processing.worker import SlideWorker
    from fossilray.store import RunStore
    from fossilray.store.run.run_record import describe_run

    config = RunConfig()
    RunStore.open(str(run)).create_or_check(describe_run(config, {}))
    worker = SlideWorker(str(run), config)
    worker.prepare()
    before = peak_mb()
    stages: dict[str, float] = {}
    with watched(worker, stages):
        outcome = worker.process(WorkItem.of_slide(CatalogRow("large", str(path))))
    assert outcome.summary is not None, outcome.failure
    return {"models_mb": before, "peak_mb": peak_mb(), "stages": stages, **asdict(outcome.summary)}


@contextmanager
def watched(worker: SlideWorker, stages: dict[str, float]) -> Iterator[None]:
    """While it lasts, the most MB seen in each stage of the worker is noted, 50 times a second."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            state = worker.state()
            if state is not None:
                stages[state.stage] = max(stages.get(state.stage, 0.0), state.resident_bytes / 1e6)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def peak_mb() -> float:
    """Most memory that this process ever held; without the memory of the parent process, which ru_maxrss includes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1e3


@app.command()
def curve(
    sides: str = "16384,32768,65536,131072",
    objects: Annotated[int, typer.Option(help="On each slide of the first half.")] = 2100,
    per_mm2: Annotated[
        float, typer.Option(help="Objects for each mm2 of the canvas in the second half; 0: no second half.")
    ] = 5.0,
    keep: Keep = None,
) -> None:
    """Peak memory against the size of the slide."""
    sizes = [int(side) for side in sides.split(",")]
    with working_folder(keep, name="memory") as folder:
        measured = _rows(folder, [(side, objects) for side in sizes])
        out.print(_table(f"about {objects:,} objects on each", measured))
        out.print(_summary(measured))
        if per_mm2:
            counts = [(side, round(per_mm2 * (side * MPP / 1000) ** 2)) for side in sizes]
            measured = _rows(folder, counts)
            out.print(_table(f"about {per_mm2:g} objects for each mm2", measured))
            out.print(_summary(measured))


@app.command()
def large(width: int = 100_000, height: int = 80_000, objects: int = 50_000, keep: Keep = None) -> None:
    """Peak memory and stage times on one large slide."""
    with working_folder(keep, name="memory") as folder:
        stated = _measure(folder, width, height, objects)
    detected = int(stated["objects"])
    print(f"slide              {width} x {height} px, {objects} objects painted, {detected} found")
    print(f"models loaded      {stated['models_mb'] / 1e3:.2f} GB")
    print(f"peak, fossilray    {stated['peak_mb'] / 1e3:.2f} GB")
    all_crops_gb = detected * 224 * 224 * 3 / 1e9
    at_once_gb = stated["models_mb"] / 1e3 + all_crops_gb
    print(f"all crops at once  {at_once_gb:.2f} GB (models and {detected} crops of 224 px)")
    for stage in ("open", "detect", "merge", "crops", "embed", "write", "total"):
        print(f"seconds {stage:10} {stated[f'seconds_{stage}']:.1f}")
    print(f"bytes per object   {stated['array_bytes'] / max(detected, 1):.0f} in Zarr")


def _rows(folder: Path, sizes: list[tuple[int, int]]) -> list[tuple[int, dict[str, Any]]]:
    return [(side, _measure(folder, side, side, objects)) for side, objects in sizes]


def _measure(folder: Path, width: int, height: int, objects: int) -> dict[str, Any]:
    """Return the summary of `process` for such a slide, which is written first if it is missing."""
    slide = folder / f"large-{width}x{height}-{objects}.mrxs"
    if not slide.exists():
        alone(f"write(Path({str(slide)!r}), {width}, {height}, {objects})")
    with tempfile.TemporaryDirectory(prefix="fossilray-memory-run-") as run:
        began_s = time.monotonic()
        stated: dict[str, Any] = json.loads(
            alone(f"print(json.dumps(process(Path({str(slide)!r}), Path({run!r}) / 'run')))")
        )
    print(f"  {slide.stem}: {time.monotonic() - began_s:.0f} s", file=sys.stderr, flush=True)
    return stated


def _table(title: str, measured: list[tuple[int, dict[str, Any]]]) -> Table:
    table = Table(title=title, title_justify="left")
    stages = ("open", "detect", "merge", "crops", "write")
    for name in (
        "side, px",
        "GP",
        "objects found",
        "models, MB",
        "peak, MB",
        *stages,
        "above the models, MB",
    ):
        table.add_column(name, justify="right")
    for side, stated in measured:
        seen = [stated["stages"].get(stage) for stage in stages]
        table.add_row(
            f"{side:,}",
            f"{side**2 / 1e9:.1f}",
            f"{stated['objects']:,}",
            f"{stated['models_mb']:,.0f}",
            f"{stated['peak_mb']:,.0f}",
            *("" if mb is None else f"{mb:,.0f}" for mb in seen),
            f"{stated['peak_mb'] - stated['models_mb']:,.0f}",
        )
    return table


def _summary(measured: list[tuple[int, dict[str, Any]]]) -> str:
    gigapixels = np.array([side**2 / 1e9 for side, _ in measured])
    peaks = np.array([stated["peak_mb"] for _, stated in measured])
    if len(peaks) < 2:
        return "one size makes no curve"
    slope = float(np.polyfit(gigapixels, peaks, 1)[0])
    return (
        f"a gigapixel more adds {slope:.1f} MB; the largest slide takes {peaks[-1] / peaks[0]:.2f} times the "
        f"smallest's memory for {gigapixels[-1] / gigapixels[0]:.0f} times its pixels"
    )


def alone(code: str) -> str:
    """What a fresh interpreter prints last when it runs a line of this file."""
    program = (
        f"import json, sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from pathlib import Path; "
    )
    program += f"from memory import process, write; {code}"
    result = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True)
    return result.stdout.strip().splitlines()[-1] if result.stdout.strip() else ""


if __name__ == "__main__":
    app()
