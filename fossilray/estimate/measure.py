"""This machine's rates, measured in half a minute on a small synthetic slide in a temporary folder."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fossilray.config import RunConfig
from fossilray.crops import CutCrop, cut_crop, estimate_background, measure_crops
from fossilray.detect.loading import load_detector
from fossilray.embed.loading import load_embedder
from fossilray.estimate.model import Quantity, Rates
from fossilray.merge import TileBoxes, merge_tiles
from fossilray.objects_table import outward_px
from fossilray.pictures import LONGEST_SIDE_PX, draw_boxes
from fossilray.records import Boxes, Detector, Embedder, Image
from fossilray.slide import Slide, open_slide
from fossilray.store import RunStore
from fossilray.store.arrays import ArrayWriter
from fossilray.synthetic.archive import ARCHIVE_MPP, synthesise_archive
from fossilray.tiling import Sweep, Tile, find_blank, plan_sweeps, read_tile

SIDE_PX = 4096
_FINER = 8
"""The overview of a slide so small is too quick to time; a finer one has as many pixels as a large slide's."""
_MOST_CROPS = 256
_ROUNDS = 3
_LONG_S = 2.0

Answer = TypeVar("Answer")


def measure_rates(config: RunConfig) -> Rates:
    """What each part of the slide job does a second here: CPU work per core, networks on the GPU if there is one.

    CPU work is counted in CPU time, so that other work on the machine does not change it; a disk slower than its
    cache is not seen. Rates are medians of up to three rounds, with the slide opened anew for what is read.

    Raises:
        WeightsError: weights cannot be loaded.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        detector = load_detector(config.detector, device=device)
        embedder = load_embedder(config.embedder, device=device)
        with tempfile.TemporaryDirectory(prefix="fossilray-estimate-") as folder:
            synthesise_archive(Path(folder), slides=1, size_px=SIDE_PX, form="mrxs", seed=1)
            slide = next(Path(folder).rglob("*.mrxs"))
            return _Measurement(config, slide, detector, embedder, on_gpu=device == "cuda").rates()
    finally:
        torch.set_num_threads(threads)


class _Measurement:
    """The parts of the slide job, each timed alone on one slide."""

    def __init__(
        self, config: RunConfig, path: Path, detector: Detector, embedder: Embedder | None, *, on_gpu: bool
    ) -> None:
        self._config = config
        self._path = path
        self._detector = detector
        self._embedder = embedder
        self._on_gpu = on_gpu
        # A GPU works while the CPU's clock stands.
        self._network_clock = time.perf_counter if on_gpu else time.process_time

    def rates(self) -> Rates:
        with self._open() as slide:
            info = slide.info
            sweeps = plan_sweeps(info, self._config.tiling, self._config.detector, self._detector.stride_px)
            background = estimate_background(slide)
        tiles = [(sweep, tile) for sweep in sweeps for tile in sweep]
        megapixels = sum(sweep.window_px**2 for sweep, _ in tiles) / 1e6
        mm2 = info.bounds.width * info.bounds.height * (info.mpp / 1000) ** 2

        tiling = self._config.tiling
        fine = tiling.model_copy(update={"blank_um_per_px": tiling.blank_um_per_px / _FINER})
        overview_s, _ = self._on_slide(lambda slide: find_blank(slide, fine, sweeps))
        read_s, pixels = self._on_slide(
            lambda slide: [read_tile(slide, sweep, tile) for sweep, tile in tiles]
        )
        detect_s, found = _rounds(lambda: self._detect(tiles, pixels), self._network_clock)
        merge_s, boxes = _rounds(
            lambda: merge_tiles(found, info=info, merge=self._config.merge), time.process_time
        )
        fixed_s, _ = self._on_slide(lambda slide: self._draw(slide, boxes), opening=True)
        chosen = outward_px(boxes.xyxy, info)[:_MOST_CROPS]
        if not len(chosen):
            chosen = np.array([[64, 64, 224, 224]] * 16, np.int32)
        coarsest = max(sweep.level for sweep in sweeps)
        cut_s, crops = self._on_slide(
            lambda slide: [
                cut_crop(
                    slide,
                    box,
                    config=self._config.crops,
                    coarsest_level=coarsest,
                    background_rgb=background,
                )
                for box in chosen
            ]
        )
        stack = np.stack([crop.pixels for crop in crops])
        measure_s, _ = _rounds(lambda: self._measure(stack, background, crops), time.process_time)
        encode_s, _ = _rounds(lambda: self._encode(stack), time.process_time)
        count = len(crops)
        where = f"synthetic slide of {SIDE_PX} px"
        return Rates(
            fixed_s_per_slide=_measured(fixed_s, "s/slide", f"{where}; no object store's answers"),
            overview_mm2_per_s=_measured(
                mm2 * _FINER**2 / overview_s,
                "mm2/s per core",
                f"{where}, as many pixels as {_FINER**2} times its area",
            ),
            read_mp_per_s=_measured(megapixels / read_s, "MP/s per core", where),
            detector_mp_per_s=_measured(megapixels / detect_s, f"MP/s per {self._device}", where),
            merged_objects_per_s=_measured(
                max(1, len(boxes)) / merge_s, "objects/s per core", f"{len(boxes)} objects"
            ),
            cut_objects_per_s=_measured(count / cut_s, "objects/s per core", f"{count} crops"),
            measured_objects_per_s=_measured(count / measure_s, "objects/s per core", f"{count} crops"),
            encoded_objects_per_s=_measured(
                count / encode_s, "objects/s per core", f"{count} crops, to a disk"
            ),
            embedded_objects_per_s=self._embed(stack),
            on_gpu=self._on_gpu,
        )

    def _open(self) -> Slide:
        return open_slide(self._path, mpp=ARCHIVE_MPP, reader=self._config.slides.reader)

    @property
    def _device(self) -> str:
        return "GPU" if self._on_gpu else "core"

    def _on_slide(self, work: Callable[[Slide], Answer], *, opening: bool = False) -> tuple[float, Answer]:
        """Median CPU seconds of work on a freshly opened slide, whose caches are empty; with or without opening."""
        seconds: list[float] = []
        for _ in range(_ROUNDS):
            before_s = time.process_time()
            with self._open() as slide:
                opened_s = time.process_time()
                answer = work(slide)
                seconds.append(time.process_time() - (before_s if opening else opened_s))
        return max(median(seconds), 1e-6), answer

    def _detect(self, tiles: Sequence[tuple[Sweep, Tile]], pixels: Sequence[Image]) -> list[TileBoxes]:
        found: list[TileBoxes] = []
        batch = self._config.detector.batch
        for sweep in {id(sweep): sweep for sweep, _ in tiles}.values():
            mine = [number for number, (of, _) in enumerate(tiles) if of is sweep]
            for first in range(0, len(mine), batch):
                part = mine[first : first + batch]
                answers = self._detector.detect(
                    np.stack([pixels[number] for number in part]), um_per_px=sweep.um_per_px
                )
                found += [
                    TileBoxes(sweep, tiles[number][1], boxes)
                    for number, boxes in zip(part, answers, strict=True)
                ]
        return found

    def _draw(self, slide: Slide, boxes: Boxes) -> bytes:
        picture, shown = slide.thumbnail(LONGEST_SIDE_PX)
        return draw_boxes(picture, rect=shown, boxes=boxes, mpp=slide.info.mpp)

    def _measure(
        self, stack: NDArray[np.uint8], background: NDArray[np.float32], crops: Sequence[CutCrop]
    ) -> None:
        failed = np.array([crop.failed for crop in crops], np.bool_)
        measure_crops(stack, background, failed, contents=[crop.content for crop in crops])

    def _encode(self, stack: NDArray[np.uint8]) -> None:
        with tempfile.TemporaryDirectory(prefix="fossilray-estimate-") as folder:
            writer = ArrayWriter(
                RunStore.open(folder),
                "slide",
                "estimate",
                count=len(stack),
                crops=self._config.crops,
                dimension=None,
            )
            writer.write(0, stack, None)
            writer.finish()

    def _embed(self, stack: NDArray[np.uint8]) -> Quantity | None:
        """Embeddings a second, in batches as the worker forms them."""
        embedder = self._embedder
        if embedder is None:
            return None
        size = min(self._config.embedder.batch, len(stack))
        embedder.embed(stack[: min(8, size)])
        embed_s, _ = _rounds(lambda: embedder.embed(stack[:size]), self._network_clock)
        return _measured(size / embed_s, f"crops/s per {self._device}", f"{embedder.name}, batches of {size}")


def _rounds(work: Callable[[], Answer], clock: Callable[[], float]) -> tuple[float, Answer]:
    """Median seconds of some rounds; of one where that takes long already."""
    seconds: list[float] = []
    while len(seconds) < _ROUNDS and sum(seconds) < _LONG_S:
        before_s = clock()
        answer = work()
        seconds.append(clock() - before_s)
    return max(median(seconds), 1e-6), answer


def _measured(value: float, unit: str, how: str) -> Quantity:
    return Quantity(value, unit, "measured here", how)
