"""Reading one MIRAX slide with overlapping photos, or a TIFF: openslide-python, our two readers, and bare libjpeg.

python benchmarks/reading.py [--form tiff] [--side 16384 --crops 1000 --rounds 3] [--keep DIR]

Five ways over the same regions in turns: openslide-python as its users do it (read_region, the transparent mixed with
the background, an array of RGB), our Slide by OpenSlide, our Slide by its own reader in one thread and in two, and
libjpeg alone over the stored tiles that the regions touch, each tile once. The slide is painted into a temporary
folder first. Every round opens the slide again, so that caches are cold and the self-check of the direct reader counts;
its files are in the page cache. A TIFF whose side is no multiple of 8 has levels that are not whole times as coarse,
as most real ones, and is interpolated there (--form tiff --side 16391). Printed: the median over the rounds, in seconds
of CPU and on the clock, and megapixels delivered a second of CPU.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
import openslide
import simplejpeg
import typer
from memory import ISLAND_PX, OBJECTS_AN_ISLAND, Islands, write
from PIL import Image

from fossilray.core.config import RunConfig
from fossilray.core.types import SlideInfo
from fossilray.slides.direct.reader import LAYOUTS
from fossilray.slides.slide import level_for, open_slide
from fossilray.synthetic.writers.tiff import TiffOptions, write_pyramidal_tiff

Region = tuple[int, int, int, int, int]
"""Level, x and y in level-0 px, width and height in px of the level."""

WINDOW_PX = 2048
CROP_PX = 224


def main(
    side: int = 16_384,
    crops: int = 1000,
    rounds: int = 3,
    form: Literal["mirax", "tiff"] = "mirax",
    keep: Annotated[Path | None, typer.Option(help="Folder for the slide, reused when it is there.")] = None,
) -> None:
    """Measure and print."""
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(prefix="fossilray-reading-") as scratch:
        folder = keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"reading-{side}.{'mrxs' if form == 'mirax' else 'tif'}"
        if not path.exists():
            objects = (side // ISLAND_PX) ** 2 * OBJECTS_AN_ISLAND
            (write if form == "mirax" else write_tiff)(path, side, side, objects)
        with open_slide(path) as slide:
            jobs = plan(slide.info, crops=crops)
        ways: dict[str, Callable[[list[Region]], None]] = {
            "openslide-python": lambda regions: with_openslide_python(path, regions),
            "Slide, OpenSlide": lambda regions: with_slide(path, regions, "openslide"),
            "Slide, direct": lambda regions: with_slide(path, regions, "auto"),
            "the same, 2 threads": lambda regions: with_slide(path, regions, "auto", threads=2),
            "bare libjpeg": lambda regions: with_libjpeg(path, regions),
        }
        for job, regions in jobs.items():
            pixels = sum(width * height for *_, width, height in regions)
            print(f"\n{job}: {len(regions)} regions, {pixels / 1e6:.0f} MP")
            taken = measure(ways, regions, rounds=rounds)
            first = taken["openslide-python"][0]
            for way, (cpu_s, wall_s) in taken.items():
                print(
                    f"  {way:19} {cpu_s:8.2f} s CPU {wall_s:8.2f} s clock {pixels / cpu_s / 1e6:8.1f} MP/s "
                    f"{first / cpu_s:6.1f} times"
                )


def plan(info: SlideInfo, *, crops: int) -> dict[str, list[Region]]:
    """Return what is read: passes over level 0, the detector's levels and the overview's, and crops at random."""
    config = RunConfig()
    rng = np.random.default_rng(0)
    bounds = info.bounds
    corners = rng.integers(
        (bounds.x_min, bounds.y_min), (bounds.x_max - CROP_PX, bounds.y_max - CROP_PX), (crops, 2)
    )
    # In the order in which a worker cuts them: top to bottom, left to right.
    ordered = sorted(corners.tolist(), key=lambda corner: (corner[1] // WINDOW_PX, corner[0]))
    scales = {"level 0": info.mpp}
    for detection_pass in config.detector.passes:
        scales[f"the detector's level for {detection_pass.um_per_px:g} um per px"] = detection_pass.um_per_px
    scales["the overview's level"] = config.tiling.blank_um_per_px
    return {
        f"pass over {what} in windows of {WINDOW_PX} px": pass_over(info, level_for(info, um_per_px))
        for what, um_per_px in scales.items()
    } | {
        f"crops of {CROP_PX} px at level 0": [(0, x, y, CROP_PX, CROP_PX) for x, y in ordered],
    }


def pass_over(info: SlideInfo, level: int) -> list[Region]:
    downsample, bounds = info.levels[level].downsample, info.bounds
    step = round(WINDOW_PX * downsample)
    return [
        (
            level,
            x,
            y,
            min(WINDOW_PX, int((bounds.x_max - x) / downsample)),
            min(WINDOW_PX, int((bounds.y_max - y) / downsample)),
        )
        for y in range(bounds.y_min, bounds.y_max, step)
        for x in range(bounds.x_min, bounds.x_max, step)
    ]


def measure(
    ways: dict[str, Callable[[list[Region]], None]], regions: list[Region], *, rounds: int
) -> dict[str, tuple[float, float]]:
    """Median seconds of CPU and on the clock of each way."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            cpu_s, wall_s = time.process_time(), time.perf_counter()
            way(regions)
            taken[name].append((time.process_time() - cpu_s, time.perf_counter() - wall_s))
    return {
        name: (statistics.median(cpu for cpu, _ in pairs), statistics.median(wall for _, wall in pairs))
        for name, pairs in taken.items()
    }


def with_openslide_python(path: Path, regions: list[Region]) -> None:
    with openslide.OpenSlide(path) as slide:
        ground = "#" + slide.properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "FFFFFF")
        for level, x, y, width, height in regions:
            region = slide.read_region((x, y), level, (width, height))
            shown = Image.new("RGB", region.size, ground)
            shown.paste(region, None, region)
            np.asarray(shown)


def with_slide(
    path: Path, regions: list[Region], reader: Literal["auto", "openslide"], threads: int = 1
) -> None:
    with open_slide(path, reader=reader) as slide, ThreadPoolExecutor(threads) as pool:
        # What it gives is let go at once, as by a worker that is done with it.
        list(pool.map(lambda region: slide.read(*region).size, regions))
        assert slide.regions_read_directly == (len(regions) if reader == "auto" else 0)


def with_libjpeg(path: Path, regions: list[Region]) -> None:
    """Decode each stored tile that a region touches, once, into nothing."""
    with open_slide(path) as slide:
        layout = LAYOUTS[slide.info.vendor](slide.info)
    number = regions[0][0]
    level = layout.levels[number]
    assert level is not None
    touched = {
        piece
        for _, x, y, width, height in regions
        for piece in level.touching(x / level.downsample, y / level.downsample, width, height)
    }
    tiles = level.tiles
    files = [os.open(file, os.O_RDONLY) for file in layout.files]
    try:
        for tile in sorted({int(level.pieces.tile[piece]) for piece in touched}):
            content = os.pread(files[tiles.file[tile]], int(tiles.length[tile]), int(tiles.offset[tile]))
            whole = content if tiles.as_jpeg is None else tiles.as_jpeg(content)
            simplejpeg.decode_jpeg(whole, "RGB")
    finally:
        for file in files:
            os.close(file)


def write_tiff(path: Path, width: int, height: int, objects: int) -> None:
    """The same scene as a tiled TIFF."""
    write_pyramidal_tiff(path, Islands(width, height, objects, seed=1), TiffOptions())


if __name__ == "__main__":
    typer.run(main)
