"""This machine's rates, measured in some seconds on a small synthetic slide in a temporary folder."""

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
from fossilray.processing.crops.cut import ExtractedCrop, estimate_background, extract_crop, measure_crops
from fossilray.processing.crops.objects_table import round_outward
from fossilray.processing.detection.foreground import find_foreground, foreground_units
from fossilray.processing.detection.merge import TileBoxes, merge_tiles
from fossilray.processing.detection.passes import DetectionPass, Tile, plan_passes, read_tile
from fossilray.processing.detection.windows import plan_windows
from fossilray.processing.planning.model import Quantity, Rates
from fossilray.render.slide_overview import LONGEST_SIDE_PX, draw_boxes
from fossilray.slides.remote.scratch import Scratch
from fossilray.slides.slide import Slide, open_slide
from fossilray.store import RunStore
from fossilray.store.arrays.group import ArrayWriter
from fossilray.synthetic.archive import ARCHIVE_MPP, synthesise_archive

SIDE_PX = 3072
_FINER = 8
"""The overview of a slide so small is too quick to time; a finer one has as many pixels as a large slide's."""
_MOST_CROPS = 256
_ROUNDS = 3
_LONG_S = 0.6
"""Rounds that take so long together are enough."""

Answer = TypeVar("Answer")


def measure_rates(config: RunConfig) -> Rates:
    """What each part of the slide job does a second here: CPU work per core, networks on the GPU if there is one.

    CPU work is counted in CPU time, so that other work on the machine does not change it; a disk slower than its
    cache is not seen. Rates are medians of up to three rounds, with the slide opened anew for what is read, and say
    how far the rounds lay apart: what a slide so small and so short a time cannot tell is not in that.

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
        # Of a process that is killed meanwhile, the next one deletes it.
        with closing(Scratch(None)) as scratch:
            synthesise_archive(scratch.folder, slides=1, size_px=SIDE_PX, form="mrxs", seed=1)
            slide = next(scratch.folder.rglob("*.mrxs"))
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
        detected, found = _rounds(lambda: self._detect(tiles, pixels), self._network_clock)
        merged, boxes = _rounds(
            lambda: merge_tiles(found, info=info, merge=self._config.merge), time.process_time
        )
        fixed, _ = self._on_slide(lambda slide: self._draw(slide, boxes), opening=True)
        chosen = round_outward(boxes.xyxy, info)[:_MOST_CROPS]
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
        where = f"synthetic slide of {SIDE_PX} px"
        per_core = "objects/s per core"
        return Rates(
            fixed_s_per_slide=Quantity(
                fixed.seconds,
                "s/slide",
                "measured here",
                f"{where}; no object store's answers; {fixed.spread}",
            ),
            overview_mm2_per_s=overview.rate(
                mm2 * _FINER**2, "mm2/s per core", f"{where}, as many pixels as {_FINER**2} times its area"
            ),
            read_mp_per_s=read.rate(megapixels, "MP/s per core", where),
            detector_mp_per_s=detected.rate(megapixels, f"MP/s per {self._device}", where),
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

    def _on_slide(self, work: Callable[[Slide], Answer], *, opening: bool = False) -> tuple[_Timed, Answer]:
        """CPU time of work on a freshly opened slide, whose caches are empty; with or without opening.

        Opening includes a first look at each level, which the reader compares with OpenSlide's.
        """
        seconds: list[float] = []
        while len(seconds) < _ROUNDS and sum(seconds) < _LONG_S:
            before_s = time.process_time()
            with self._open() as slide:
                for level in range(len(slide.info.levels)):
                    slide.read(level, slide.info.bounds.x_min, slide.info.bounds.y_min, 1, 1)
                opened_s = time.process_time()
                answer = work(slide)
                seconds.append(time.process_time() - (before_s if opening else opened_s))
        return _Timed(tuple(seconds)), answer

    def _detect(
        self, tiles: Sequence[tuple[DetectionPass, Tile]], pixels: Sequence[Image]
    ) -> list[TileBoxes]:
        found: list[TileBoxes] = []
        for (detection_pass, tile), window in zip(tiles, pixels, strict=True):
            (boxes,) = self._detector.detect(window[None], um_per_px=detection_pass.um_per_px)
            found.append(TileBoxes(detection_pass, tile, boxes))
        return found

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
        """Embeddings a second, in batches as the worker forms them."""
        embedder = self._embedder
        if embedder is None:
            return None
        size = min(self._config.embedder.batch, len(stack))
        embedder.embed(stack[: min(8, size)])
        embedded, _ = _rounds(lambda: embedder.embed(stack[:size]), self._network_clock)
        return embedded.rate(size, f"crops/s per {self._device}", f"{embedder.name}, batches of {size}")


@dataclass(frozen=True)
class _Timed:
    """Seconds of some rounds of the same work."""

    rounds: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """Their median."""
        return max(median(self.rounds), 1e-6)

    @property
    def spread(self) -> str:
        """How far apart the rounds lay."""
        if len(self.rounds) == 1:
            return "one round"
        share = (max(self.rounds) - min(self.rounds)) / 2 / self.seconds
        return f"{len(self.rounds)} rounds, ± {share:.0%}"

    def rate(self, amount: float, unit: str, how: str) -> Quantity:
        return Quantity(amount / self.seconds, unit, "measured here", f"{how}; {self.spread}")


def _rounds(work: Callable[[], Answer], clock: Callable[[], float]) -> tuple[_Timed, Answer]:
    """Some rounds of work; fewer where they take long."""
    seconds: list[float] = []
    while len(seconds) < _ROUNDS and sum(seconds) < _LONG_S:
        before_s = clock()
        answer = work()
        seconds.append(clock() - before_s)
    return _Timed(tuple(seconds)), answer
