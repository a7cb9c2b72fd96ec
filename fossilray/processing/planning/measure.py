"""Rates of this machine, measured within seconds on a small synthetic slide in a temporary folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config import RunConfig
from fossilray.core.types import Boxes, Detector, Embedder, Image
from fossilray.models.backbones.load import load_embedder
from fossilray.models.detectors.load import load_detector
from fossilray.processing.crops.cut import ExtractedCrop, extract_crop
from fossilray.processing.crops.measures import measure_crops
from fossilray.processing.crops.objects_table import round_outward
from fossilray.processing.detection.foreground import find_foreground, foreground_units
from fossilray.processing.detection.merge import TileBoxes, merge_tiles
from fossilray.processing.detection.passes import DetectionPass, Tile, plan_passes, read_tile
from fossilray.processing.detection.windows import plan_windows
from fossilray.processing.planning.model import Quantity, Rates
from fossilray.render.slide_overview import LONGEST_SIDE_PX, draw_boxes
from fossilray.slides.clear_field import estimate_background
from fossilray.slides.remote.scratch import Scratch
from fossilray.slides.slide import Slide, open_slide
from fossilray.store import RunStore
from fossilray.store.arrays.group import ArrayWriter
from fossilray.synthetic.archive import ARCHIVE_MPP, synthesise_archive

_SLIDE_PX = 3072
_FINER = 8
"""The overview of so small a slide is too fast to time; a finer one has as many pixels as a large slide's."""
_MAX_CROPS = 256
_ROUNDS = 3
_ENOUGH_S = 0.6
"""No further round is started after this time."""

_Result = TypeVar("_Result")


def measure_rates(config: RunConfig) -> Rates:
    """Measure the rate of each part of the slide job: CPU work per core, networks on the GPU if there is one.

    CPU work is measured in CPU time, so that other work on the machine does not change it; a disk slower than its
    cache is not measured. Rates are medians of up to three rounds, with the slide opened again for each round that
    reads, and state the spread of the rounds, which is not the error for other slides.

    Raises:
        WeightsError: weights cannot be loaded.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        detector = load_detector(config.detector, device=device, precision=config.workers.precision)
        embedder = load_embedder(
            config.embedder,
            device=device,
            precision=config.workers.precision,
            compiled=config.workers.compile,
        )
        # If this process is killed meanwhile, the next one deletes the folder.
        with closing(Scratch(None)) as scratch:
            synthesise_archive(scratch.folder, slides=1, size_px=_SLIDE_PX, form="mrxs", seed=1)
            slide = next(scratch.folder.rglob("*.mrxs"))
            return _Measurement(config, slide, detector, embedder, on_gpu=device == "cuda").rates()
    finally:
        torch.set_num_threads(threads)


class _Measurement:
    """The parts of the slide job, each timed separately on one slide."""

    def __init__(
        self, config: RunConfig, path: Path, detector: Detector, embedder: Embedder | None, *, on_gpu: bool
    ) -> None:
        self._config = config
        self._path = path
        self._detector = detector
        self._embedder = embedder
        self._on_gpu = on_gpu
        # CPU time does not count the time that the GPU computes.
        self._network_clock = time.perf_counter if on_gpu else time.process_time

    def rates(self) -> Rates:
        with self._open() as slide:
            info = slide.info
            passes = plan_passes(info, self._config.tiling, self._config.detector, self._detector.stride_px)
            background = estimate_background(slide)
        plans = [
            plan_windows(detection_pass, foreground_units(detection_pass, None)) for detection_pass in passes
        ]
        tiles = [
            (detection_pass, tile)
            for detection_pass, plan in zip(passes, plans, strict=True)
            for tile in plan.tiles
        ]
        megapixels = sum(plan.megapixels for plan in plans)
        mm2 = info.bounds.width * info.bounds.height * (info.mpp / 1000) ** 2

        tiling = self._config.tiling
        fine = tiling.model_copy(update={"blank_um_per_px": tiling.blank_um_per_px / _FINER})
        overview, _ = self._on_slide(lambda slide: find_foreground(slide, fine))
        read, pixels = self._on_slide(
            lambda slide: [read_tile(slide, detection_pass, tile) for detection_pass, tile in tiles]
        )
        self._detect(tiles, pixels)  # a network prepares for each new shape of window
        detection, tile_boxes = _rounds(lambda: self._detect(tiles, pixels), self._network_clock)
        merged, boxes = _rounds(
            lambda: merge_tiles(tile_boxes, info=info, merge=self._config.merge), time.process_time
        )
        fixed, _ = self._on_slide(lambda slide: self._draw(slide, boxes), opening=True)
        chosen = round_outward(boxes.xyxy, info)[:_MAX_CROPS]
        if not len(chosen):
            chosen = np.array([[64, 64, 224, 224]] * 16, np.int32)
        coarsest = max(detection_pass.level for detection_pass in passes)
        cut, crops = self._on_slide(
            lambda slide: [
                extract_crop(
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
        measured, _ = _rounds(lambda: self._measure(stack, background, crops), time.process_time)
        encoded, _ = _rounds(lambda: self._encode(stack), time.process_time)
        count = len(crops)
        where = f"synthetic slide of {_SLIDE_PX} px"
        per_core = "objects/s per core"
        return Rates(
            fixed_s_per_slide=Quantity(
                fixed.seconds,
                "s/slide",
                "measured here",
                f"{where}; without requests to an object store; {fixed.spread}",
            ),
            overview_mm2_per_s=overview.rate(
                mm2 * _FINER**2, "mm2/s per core", f"{where}, as many pixels as {_FINER**2} times its area"
            ),
            read_mp_per_s=read.rate(megapixels, "MP/s per core", where),
            detector_mp_per_s=detection.rate(megapixels, f"MP/s per {self._device}", where),
            merged_objects_per_s=merged.rate(max(1, len(boxes)), per_core, f"{len(boxes)} objects"),
            cut_objects_per_s=cut.rate(count, per_core, f"{count} crops"),
            measured_objects_per_s=measured.rate(count, per_core, f"{count} crops"),
            encoded_objects_per_s=encoded.rate(count, per_core, f"{count} crops, to a disk"),
            embedded_objects_per_s=self._embed(stack),
            on_gpu=self._on_gpu,
        )

    def _open(self) -> Slide:
        return open_slide(self._path, mpp=ARCHIVE_MPP, reader=self._config.slides.reader)

    @property
    def _device(self) -> str:
        return "GPU" if self._on_gpu else "core"

    def _on_slide(self, work: Callable[[Slide], _Result], *, opening: bool = False) -> tuple[_Timed, _Result]:
        """Time work on a freshly opened slide, whose caches are empty, in CPU time; with or without opening.

        Opening includes a first read of each level, which the reader compares with OpenSlide's.
        """
        seconds: list[float] = []
        while len(seconds) < _ROUNDS and sum(seconds) < _ENOUGH_S:
            before_s = time.process_time()
            with self._open() as slide:
                for level in range(len(slide.info.levels)):
                    slide.read(level, slide.info.bounds.x_min, slide.info.bounds.y_min, 1, 1)
                opened_s = time.process_time()
                result = work(slide)
                seconds.append(time.process_time() - (before_s if opening else opened_s))
        return _Timed(tuple(seconds)), result

    def _detect(
        self, tiles: Sequence[tuple[DetectionPass, Tile]], pixels: Sequence[Image]
    ) -> list[TileBoxes]:
        detected: list[TileBoxes] = []
        for (detection_pass, tile), window in zip(tiles, pixels, strict=True):
            (boxes,) = self._detector.detect(window[None], um_per_px=detection_pass.um_per_px)
            detected.append(TileBoxes(detection_pass, tile, boxes))
        return detected

    def _draw(self, slide: Slide, boxes: Boxes) -> bytes:
        picture, shown = slide.thumbnail(LONGEST_SIDE_PX)
        return draw_boxes(picture, rect=shown, boxes=boxes, mpp=slide.info.mpp)

    def _measure(
        self, stack: NDArray[np.uint8], background: NDArray[np.float32], crops: Sequence[ExtractedCrop]
    ) -> None:
        failed = np.array([crop.failed for crop in crops], np.bool_)
        measure_crops(stack, background, failed, contents=[crop.content for crop in crops])

    def _encode(self, stack: NDArray[np.uint8]) -> None:
        with closing(Scratch(None)) as scratch:
            writer = ArrayWriter(
                RunStore.open(str(scratch.folder)),
                "slide",
                "estimate",
                count=len(stack),
                crops=self._config.crops,
                dimension=None,
            )
            writer.write(0, stack, None)
            writer.finish()

    def _embed(self, stack: NDArray[np.uint8]) -> Quantity | None:
        """Embeddings per second, in the worker's batches."""
        embedder = self._embedder
        if embedder is None:
            return None
        size = min(self._config.embedder.batch, len(stack))
        embedder.embed(stack[: min(8, size)])
        embedded, _ = _rounds(lambda: embedder.embed(stack[:size]), self._network_clock)
        return embedded.rate(size, f"crops/s per {self._device}", f"{embedder.name}, batches of {size}")


@dataclass(frozen=True)
class _Timed:
    """Seconds of several rounds of the same work."""

    rounds: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """The median of the rounds."""
        return max(median(self.rounds), 1e-6)

    @property
    def spread(self) -> str:
        """The spread of the rounds, for messages."""
        if len(self.rounds) == 1:
            return "one round"
        share = (max(self.rounds) - min(self.rounds)) / 2 / self.seconds
        return f"{len(self.rounds)} rounds, ± {share:.0%}"

    def rate(self, amount: float, unit: str, how: str) -> Quantity:
        return Quantity(amount / self.seconds, unit, "measured here", f"{how}; {self.spread}")


def _rounds(work: Callable[[], _Result], clock: Callable[[], float]) -> tuple[_Timed, _Result]:
    """Time several rounds of work; fewer where they take long."""
    seconds: list[float] = []
    while len(seconds) < _ROUNDS and sum(seconds) < _ENOUGH_S:
        before_s = clock()
        result = work()
        seconds.append(clock() - before_s)
    return _Timed(tuple(seconds)), result
