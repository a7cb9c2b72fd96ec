"""Crops to batches: images a second of the stream, beside the same crops had in three other ways.

python benchmarks/crop_stream.py [--run RUN] [--crops 8192 --side-px 112] [--ray-data] [--slides 500] [--rows 100000000]

- loose files, PIL: a torch DataLoader over one JPEG file a crop, decoded and resized by PIL, as is usual; with
  no worker and with two.
- zarr[i]: Zarr's own indexing, crop by crop in random order.
- Ray Data (--ray-data, needs pandas): pieces of shards read and decoded by map_batches, shuffled by iter_batches.

Without --run a run is painted: synthetic palynomorphs, as JPEG in shards of 2,048. Files are in the page cache on all
sides. Ways take turns; printed are the best images a second and the least CPU time a crop over the rounds, for other
work on the machine only adds. --slides: how fast a table is opened. --rows: how large the order
of an epoch is, and how long it takes, at archive scale.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import zarr
from compact import some_objects, summarise, write_run
from numpy.typing import NDArray
from PIL import Image as Pillow

from fossilray.core.config import CropsConfig, RunConfig, StoreConfig
from fossilray.core.images import resize_to
from fossilray.store import RunStore
from fossilray.store.arrays.crops import read_encoded_crops
from fossilray.store.arrays.group import ArrayWriter, open_array_group
from fossilray.store.dataset.compact import compact_run
from fossilray.store.run.run_record import describe_run
from fossilray.synthetic.painters.palynomorphs import FOSSIL_KINDS, paint
from fossilray.training.crops.fetch import BLOCK_ROWS, CropUnits
from fossilray.training.crops.order import CropOrder
from fossilray.training.crops.stream import CropStream
from fossilray.training.crops.table import CropTable, open_crops

BATCH = 128
PAINTED = 96
"""Different crops in a painted run."""


def main(
    run: Annotated[Path | None, typer.Option(help="A run to read instead of a painted one.")] = None,
    crops: Annotated[int, typer.Option(help="Crops of the painted run, over four slides.")] = 8192,
    side_px: int = 112,
    rounds: int = 3,
    ray_data: bool = False,
    slides: Annotated[
        int, typer.Option(help="Slides of 2,000 objects to open as a run and as a dataset; 0: leave out.")
    ] = 0,
    rows: Annotated[int, typer.Option(help="Rows of a table for the order at scale; 0: leave out.")] = 0,
) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="fossilray-crop-stream-") as scratch:
        store = RunStore.open(str(run)) if run else paint_run(Path(scratch) / "run", crops)
        began = time.perf_counter()
        table = open_crops([store.url])
        state = table.unit.nbytes + table.object_id.nbytes + table.log_aspect.nbytes
        print(
            f"{len(table):,} crops opened in {time.perf_counter() - began:.2f} s, {state / len(table):.0f} bytes each"
        )
        compare(table, store, Path(scratch), side_px=side_px, rounds=rounds, ray_data=ray_data)
        resume(table, side_px=side_px)
        if slides:
            opening(Path(scratch), slides)
    if rows:
        order_at_scale(rows)


def compare(
    table: CropTable, store: RunStore, scratch: Path, *, side_px: int, rounds: int, ray_data: bool
) -> None:
    """Whole passes over the crops in each way, in turns."""
    files = write_loose_files(table, store, scratch / "files")
    ways: dict[str, Callable[[], int]] = {
        "stream, 1 thread": lambda: stream(table, side_px, threads=1),
        "stream, 2 threads": lambda: stream(table, side_px, threads=2),
        "loose files, PIL, no worker": lambda: loose_files(files, side_px, workers=0),
        "loose files, PIL, 2 workers": lambda: loose_files(files, side_px, workers=2),
        "zarr[i], 512 crops": lambda: one_by_one(table, store, side_px, count=512),
    }
    if ray_data:
        ways["Ray Data, 2 CPUs"] = lambda: through_ray_data(table, side_px)
    best: dict[str, tuple[float, float]] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            began, cpu = time.perf_counter(), cpu_s()
            count = way()
            taken = ((time.perf_counter() - began) / count, (cpu_s() - cpu) / count)
            known = best.get(name, taken)
            best[name] = (min(known[0], taken[0]), min(known[1], taken[1]))
    print(f"\n{f'to {side_px} px':30} {'images/s':>10} {'CPU ms each':>12} {'times':>7}")
    unit = best["loose files, PIL, 2 workers"][0]
    for name, (wall, cpu) in best.items():
        shown = "other processes" if name.startswith("Ray") else f"{cpu * 1e3:.2f}"
        print(f"{name:30} {1 / wall:10,.0f} {shown:>12} {unit / wall:7.1f}")


def stream(table: CropTable, side_px: int, *, threads: int) -> int:
    batches = CropStream(table, batch=BATCH, seed=0, side_px=side_px, threads=threads).epoch(0)
    return sum(len(batch.row) for batch in batches)


def loose_files(files: list[Path], side_px: int, *, workers: int) -> int:
    from torch.utils.data import DataLoader

    loader: DataLoader[Any] = DataLoader(
        LooseFiles(files, side_px),
        batch_size=BATCH,
        shuffle=True,
        num_workers=workers,  # type: ignore[arg-type]
    )
    return sum(len(batch) for batch in loader)


class LooseFiles:
    """One JPEG file a crop."""

    def __init__(self, files: list[Path], side_px: int) -> None:
        self.files, self.side_px = files, side_px

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        with Pillow.open(self.files[index]) as file:
            return np.array(file.convert("RGB").resize((self.side_px, self.side_px)))


def one_by_one(table: CropTable, store: RunStore, side_px: int, *, count: int) -> int:
    opened = {path: open_array_group(store, path)["crops"] for path in table.units.path}
    for row in np.random.default_rng(0).permutation(len(table))[:count].tolist():
        crops = opened[table.units.path[int(table.unit[row])]]
        assert isinstance(crops, zarr.Array)
        resize_to(np.asarray(crops[int(table.object_id[row])]), size_px=side_px)
    return min(count, len(table))


def through_ray_data(table: CropTable, side_px: int) -> int:
    # Ray would write a token below the home folder.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray

    if not ray.is_initialized():
        ray.init(address="local", num_cpus=2, log_to_driver=False, include_dashboard=False)
        ray.data.DataContext.get_current().enable_progress_bars = False

    def read(pieces: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[np.generic]]:
        rows = np.concatenate(
            [np.arange(first, min(first + BLOCK_ROWS, len(table))) for first in pieces["first"].tolist()]
        )
        return {"pixels": table.fetch(rows, side_px=side_px, threads=1).pixels, "row": rows}

    firsts = np.random.default_rng(0).permutation(np.arange(0, len(table), BLOCK_ROWS))
    data = ray.data.from_items([{"first": int(first)} for first in firsts]).map_batches(read, batch_size=1)
    batches = data.iter_batches(batch_size=BATCH, local_shuffle_buffer_size=min(8192, len(table) // 2))
    return sum(len(batch["row"]) for batch in batches)


def resume(table: CropTable, *, side_px: int) -> None:
    """How long the first batch takes at the start of an epoch and in its middle."""
    crops = CropStream(table, batch=BATCH, seed=0, side_px=side_px, threads=2)
    for start in (0, crops.batches_per_epoch // 2):
        began = time.perf_counter()
        next(iter(crops.epoch(0, start=start)))
        print(f"first batch from batch {start} on: {time.perf_counter() - began:.2f} s")


def opening(scratch: Path, slides: int) -> None:
    """How fast the rows of a run and of its compacted dataset become a table."""
    store = write_run(scratch / "objects", slides=slides, objects=2000, wells=12)
    compact_run(store, str(scratch / "dataset"), access=StoreConfig())
    for name, url in (("a run", store.url), ("its dataset", str(scratch / "dataset"))):
        for where in (None, "isolated AND sharpness > 0.9"):
            began = time.perf_counter()
            count = len(open_crops([url], where=where))
            taken = time.perf_counter() - began
            print(
                f"{name} of {slides:,} slides, where {where}: {count:,} crops opened in {taken:.2f} s "
                f"({slides * 2000 / taken / 1e6:.1f} M objects/s)"
            )


def order_at_scale(rows: int) -> None:
    """An archive's table, 20,000 crops a slide, and what its order takes."""
    slides = rows // 20_000
    before = peak_gb()
    table = CropTable(
        sources=(),
        units=CropUnits(np.zeros(slides, np.int32), (), (), np.zeros(slides, np.int32), ("w",)),
        unit=np.repeat(np.arange(slides, dtype=np.int32), 20_000),
        object_id=np.tile(np.arange(20_000, dtype=np.int32), slides),
        log_aspect=np.zeros(slides * 20_000, np.float16),
        classes=(),
        known_label=None,
        known_weight=None,
        without_pixels=0,
    )
    held = peak_gb()
    began = time.perf_counter()
    order = CropOrder(table, batch=BATCH, buffer=8192, seed=0, rank=3, world=8, weighted=False)
    made = time.perf_counter()
    next(iter(order.windows(1, start=order.batches_per_epoch // 2)))
    print(
        f"\n{len(table):,} crops: table {held - before:.2f} GB; order made in {made - began:.1f} s, an epoch drawn and "
        f"its middle found in {time.perf_counter() - made:.1f} s, with {peak_gb() - held:.2f} GB more at the peak"
    )


def write_loose_files(table: CropTable, store: RunStore, folder: Path) -> list[Path]:
    """The stored JPEGs of all crops as files."""
    files = []
    for number, path in enumerate(table.units.path):
        target = folder / str(number)
        target.mkdir(parents=True)
        object_id = table.object_id[table.unit == number]
        for object_number, content in zip(
            object_id.tolist(), read_encoded_crops(store, path, object_id), strict=True
        ):
            files.append(target / f"{object_number}.jpg")
            files[-1].write_bytes(content)
    return files


def paint_run(folder: Path, crops: int) -> RunStore:
    """A run of four slides whose crops are painted palynomorphs at 224 px, each many times over."""
    store = RunStore.open(str(folder))
    store.create_or_check(describe_run(RunConfig(), {}))
    painted = np.stack(list(paint_crops(PAINTED)))
    count = crops // 4
    for number in range(4):
        slide_id, attempt = f"slide-{number}", f"{number:016x}"
        writer = ArrayWriter(store, slide_id, attempt, count=count, crops=CropsConfig(), dimension=None)
        encoded = writer.encode(painted)
        writer.write_encoded(0, [encoded[i % PAINTED] for i in range(count)], None)
        arrays = writer.finish()
        objects = some_objects(slide_id, arrays.path, count, np.random.default_rng(number))
        summary = summarise(slide_id, attempt, well=f"6407/{number}-1", objects=count)
        assert store.commit_slide(objects, summary, arrays)
    return store


def paint_crops(count: int) -> Iterator[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    for number in range(count):
        kind = FOSSIL_KINDS[number % len(FOSSIL_KINDS)]
        seen = paint(kind, size_um=60.0, um_per_px=0.25, rng=rng).transmittance * np.array([226, 222, 219])
        noisy = seen + rng.normal(0, 3, seen.shape)
        yield resize_to(np.clip(noisy, 0, 255).astype(np.uint8), size_px=224)


def cpu_s() -> float:
    """CPU time of this process and of the children that have ended."""
    return sum(os.times()[:4])


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    typer.run(main)
