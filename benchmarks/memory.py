"""Peak memory and stage times of one worker on one large slide: 100,000 x 80,000 px, 50,000 objects.

python benchmarks/memory.py [--width 100000 --height 80000 --objects 50000] [--keep DIR]

The slide is sparse as real ones are: objects lie in islands, the rest of the canvas was not scanned. It is
written to a temporary folder first (in another process, so that its memory does not count). Printed: what
/usr/bin/time would say of the worker's process, beside the memory that a plain loop would need which holds
all crops of the slide before it stores them, as the paper's procedure does.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

MPP = 0.25
ISLAND_PX = 4096
OBJECTS_AN_ISLAND = 350
CLEAR = (226, 222, 219)


class Islands:
    """Painted objects on a clear field, in islands; everything between was not scanned."""

    def __init__(self, width: int, height: int, objects: int, *, seed: int) -> None:
        from fossilray.synthetic.palynomorphs import FOSSIL_KINDS, paint

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
            (int(one) % columns, int(one) // columns): number for number, one in enumerate(chosen)
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
    from fossilray.synthetic.mirax import write_mirax
    from fossilray.synthetic.mirax_plan import MiraxOptions

    write_mirax(path, Islands(width, height, objects, seed=1), MiraxOptions(seed=1))


def process(path: Path, run: Path) -> dict[str, object]:
    """Process it in this very process; the summary and this process's peak memory."""
    from fossilray.config import RunConfig
    from fossilray.records import CatalogRow
    from fossilray.store import RunStore
    from fossilray.store.run_record import describe_run
    from fossilray.worker import SlideWorker

    config = RunConfig()
    RunStore.open(str(run)).create_or_check(describe_run(config, {}))
    worker = SlideWorker(str(run), config)
    worker.prepare()
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = worker.process(CatalogRow("large", str(path)))
    assert outcome.summary is not None, outcome.failure
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"models_kb": before_kb, "peak_kb": peak_kb, **asdict(outcome.summary)}


def main(
    width: int = 100_000,
    height: int = 80_000,
    objects: int = 50_000,
    keep: Annotated[Path | None, typer.Option(help="Folder for the slide, reused when it is there.")] = None,
) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="fossilray-memory-") as scratch:
        folder = keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        slide = folder / f"large-{width}x{height}-{objects}.mrxs"
        if not slide.exists():
            alone(f"write(Path({str(slide)!r}), {width}, {height}, {objects})")
        stated = json.loads(
            alone(f"print(json.dumps(process(Path({str(slide)!r}), Path({scratch!r}) / 'run')))")
        )
    found = int(stated["objects"])
    print(f"slide              {width} x {height} px, {objects} objects painted, {found} found")
    print(f"models loaded      {stated['models_kb'] / 1e6:.2f} GB")
    print(f"peak, fossilray    {stated['peak_kb'] / 1e6:.2f} GB")
    all_crops_gb = found * 224 * 224 * 3 / 1e9
    print(
        f"all crops at once  {stated['models_kb'] / 1e6 + all_crops_gb:.2f} GB (models and {found} crops of 224 px)"
    )
    for stage in ("open", "detect", "merge", "crops", "embed", "write", "total"):
        print(f"seconds {stage:10} {stated[f'seconds_{stage}']:.1f}")
    print(f"bytes per object   {stated['array_bytes'] / max(found, 1):.0f} in Zarr")


def alone(code: str) -> str:
    """What a fresh interpreter prints last when it runs a line of this file."""
    program = (
        f"import json, sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from pathlib import Path; "
    )
    program += f"from memory import process, write; {code}"
    answer = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True)
    return answer.stdout.strip().splitlines()[-1] if answer.stdout.strip() else ""


if __name__ == "__main__":
    typer.run(main)
