"""A slide's objects cut out, measured, embedded and stored, all at once by threads, in row order.

Readers take a few neighbouring objects at a time, so that the tiles these share are still at hand, and do all that
needs a crop's pixels while the cache holds them: cut, measure, encode. Their parts fill batches for the embedder.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.core.config import RunConfig
from fossilray.core.parallel import map_ordered
from fossilray.core.types import Boxes, Embedder
from fossilray.processing.crops.cut import Measures, estimate_background, extract_crop, measure_crops
from fossilray.processing.crops.objects_table import StoredCrops, round_outward
from fossilray.processing.detection.detect import NetworkThreads
from fossilray.slides.slide import Slide
from fossilray.store.arrays.group import ArrayWriter

_PART = 8
"""Objects that one thread cuts in one go: neighbours, few enough that a batch occupies many threads."""


@dataclass(frozen=True)
class ExtractedCrops:
    """What was stored, and the seconds in which the embedder was busy."""

    crops: StoredCrops
    embed_s: float


def extract_crops(
    slide: Slide,
    readers: ThreadPoolExecutor,
    objects: Boxes,
    *,
    writer: ArrayWriter,
    writers: ThreadPoolExecutor,
    embedder: Embedder | None,
    network_threads: NetworkThreads,
    config: RunConfig,
    coarsest_level: int,
    progress: Callable[[float], None],
) -> ExtractedCrops:
    """Crops in row order: while one batch is embedded, the next are cut and the last is stored.

    A crop shows the whole pixels of its row's box. Crops of network_threads.count + 4 batches are in memory at most.
    writers: one thread, which stores. coarsest_level: the coarsest that stands in for an unreadable one.
    progress: told the share done.
    """
    background = estimate_background(slide)
    busy = BusyTime()

    def cut(part: _Part) -> _Cut:
        crops = [
            extract_crop(
                slide,
                box,
                config=config.crops,
                coarsest_level=coarsest_level,
                background_rgb=background,
            )
            for box in part.boxes
        ]
        for place, crop in zip(part.pixels, crops, strict=True):
            place[:] = crop.pixels
        failed = np.array([crop.failed for crop in crops], np.bool_)
        return _Cut(
            part,
            measure_crops(part.pixels, background, failed, contents=[crop.content for crop in crops]),
            sum(crop.coarser for crop in crops),
            writer.encode(part.pixels),
        )

    def embed(batch: _Batch) -> tuple[_Batch, NDArray[np.float16] | None]:
        if embedder is None:
            return batch, None
        with busy.one_more():
            return batch, embedder.embed(batch.pixels)

    boxes = round_outward(objects.xyxy, slide.info)
    size = config.embedder.batch
    parts = _parts(boxes, size, side_px=config.crops.size_px)
    # A batch that fills up while another is cut, or as many parts as keep all threads busy.
    ahead = max(-(-size // _PART), 2 * config.slides.read_threads)
    measures: list[Measures] = []
    coarser = 0
    with (
        closing(map_ordered(readers, cut, parts, ahead=ahead)) as cuts,
        closing(
            map_ordered(network_threads.pool, embed, _batches(cuts), ahead=network_threads.count + 1)
        ) as embedded,
    ):
        written: Future[None] | None = None
        for batch, vectors in embedded:
            if written is not None:
                written.result()
            encoded = [crop for cut in batch.cuts for crop in cut.encoded]
            written = writers.submit(writer.write_encoded, batch.first, encoded, vectors)
            measures += [cut.measures for cut in batch.cuts]
            coarser += sum(cut.coarser for cut in batch.cuts)
            progress((batch.first + len(batch.pixels)) / len(boxes))
        if written is not None:
            written.result()
    return ExtractedCrops(StoredCrops(writer.finish(), Measures.concatenate(measures), coarser), busy.seconds)


@dataclass(frozen=True, eq=False)
class _Part:
    """Neighbouring objects: boxes (k, 4), and where in the pixels of their batch, from row `first` on, theirs go."""

    boxes: NDArray[np.int32]
    pixels: NDArray[np.uint8]
    first: int
    batch: NDArray[np.uint8]
    is_last: bool


@dataclass(frozen=True, eq=False)
class _Cut:
    part: _Part
    measures: Measures
    coarser: int
    encoded: list[bytes]


@dataclass(frozen=True, eq=False)
class _Batch:
    first: int
    pixels: NDArray[np.uint8]
    cuts: list[_Cut]


def _parts(boxes: NDArray[np.int32], size: int, *, side_px: int) -> Iterator[_Part]:
    """All boxes in turn; memory for a batch is asked for with its first part."""
    for first in range(0, len(boxes), size):
        batch = np.empty((min(size, len(boxes) - first), side_px, side_px, 3), np.uint8)
        for begin in range(0, len(batch), _PART):
            pixels = batch[begin : begin + _PART]
            end = begin + len(pixels)
            yield _Part(boxes[first + begin : first + end], pixels, first, batch, end == len(batch))


def _batches(cuts: Iterable[_Cut]) -> Generator[_Batch]:
    gathered: list[_Cut] = []
    for cut in cuts:
        gathered.append(cut)
        if cut.part.is_last:
            yield _Batch(cut.part.first, cut.part.batch, gathered)
            gathered = []


class BusyTime:
    """Seconds during which at least one thread was at it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._lock = threading.Lock()
        self._count = 0
        self._since_s = 0.0

    @contextmanager
    def one_more(self) -> Iterator[None]:
        with self._lock:
            if self._count == 0:
                self._since_s = time.monotonic()
            self._count += 1
        try:
            yield
        finally:
            with self._lock:
                self._count -= 1
                if self._count == 0:
                    self.seconds += time.monotonic() - self._since_s
