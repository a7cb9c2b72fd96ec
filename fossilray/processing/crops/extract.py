"""Crops of all objects of a slide: extracted, measured, embedded and stored by threads, in row order.

A reader takes a few neighbouring objects at a time, so that the tiles that they share are still cached, and extracts,
measures and encodes them while the pixels are in the CPU's cache. These chunks fill batches for the embedder.
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

from fossilray.core.config import CropsConfig, RunConfig
from fossilray.core.parallel import map_ordered
from fossilray.core.types import Boxes, Embedder
from fossilray.processing.crops.cut import extract_crop
from fossilray.processing.crops.measures import Measures, measure_crops
from fossilray.processing.crops.objects_table import StoredCrops, round_outward
from fossilray.processing.detection.detect import NetworkThreads
from fossilray.processing.focus import PlaneChoice
from fossilray.slides.clear_field import estimate_background
from fossilray.slides.slide import Slide
from fossilray.store.arrays.group import ArrayWriter

_NO_PLANES = np.zeros(0, np.float32)
_CHUNK = 8
"""Objects per task of a reader: few enough that a batch occupies many threads."""


@dataclass(frozen=True)
class ExtractedCrops:
    """The stored crops, and the seconds in which the embedder was busy."""

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
    source: PlaneChoice | None = None,
) -> ExtractedCrops:
    """Extract, measure, embed and store the crops of boxes (level-0 px), in row order.

    A crop shows the whole pixels of its row's box. Crops of network_threads.count + 4 batches are in memory at most.
    writers: one thread, which stores. coarsest_level: the coarsest level that may replace an unreadable one.
    progress: called with the fraction that is done. source: chooses the focus plane of each crop; None: the slide.
    """
    background = estimate_background(slide)
    busy = BusyTime()

    choose = source or (lambda _: (slide, _NO_PLANES))

    def extract(chunk: _Chunk) -> _ExtractedChunk:
        measures, coarser = _fill_chunk(
            chunk, choose, config=config.crops, coarsest_level=coarsest_level, background=background
        )
        return _ExtractedChunk(chunk, measures, coarser, writer.encode(chunk.pixels))

    def embed(batch: _Batch) -> tuple[_Batch, NDArray[np.float16] | None]:
        if embedder is None:
            return batch, None
        with busy.measure():
            return batch, embedder.embed(batch.pixels)

    boxes = round_outward(objects.xyxy, slide.info)
    size = config.embedder.batch
    chunks = _chunks(boxes, size, side_px=config.crops.size_px)
    # Chunks of the batch that fills up while another is embedded, or as many as keep all threads busy.
    ahead = max(-(-size // _CHUNK), 2 * config.slides.read_threads)
    measures: list[Measures] = []
    coarser = 0
    with (
        closing(map_ordered(readers, extract, chunks, ahead=ahead)) as extracted,
        closing(
            map_ordered(network_threads.pool, embed, _batches(extracted), ahead=network_threads.count + 1)
        ) as embedded,
    ):
        written: Future[None] | None = None
        for batch, vectors in embedded:
            if written is not None:
                written.result()
            encoded = [crop for chunk in batch.chunks for crop in chunk.encoded]
            written = writers.submit(writer.write_encoded, batch.first, encoded, vectors)
            measures += [chunk.measures for chunk in batch.chunks]
            coarser += sum(chunk.coarser for chunk in batch.chunks)
            progress((batch.first + len(batch.pixels)) / len(boxes))
        if written is not None:
            written.result()
    return ExtractedCrops(StoredCrops(writer.finish(), Measures.concatenate(measures), coarser), busy.seconds)


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Neighbouring objects: boxes (k, 4), and a view of the pixels of their batch, which begins at row `first`."""

    boxes: NDArray[np.int32]
    pixels: NDArray[np.uint8]
    first: int
    batch: NDArray[np.uint8]
    is_last: bool


@dataclass(frozen=True, eq=False)
class _ExtractedChunk:
    chunk: _Chunk
    measures: Measures
    coarser: int
    encoded: list[bytes]


@dataclass(frozen=True, eq=False)
class _Batch:
    first: int
    pixels: NDArray[np.uint8]
    chunks: list[_ExtractedChunk]


def _fill_chunk(
    chunk: _Chunk,
    choose: PlaneChoice,
    *,
    config: CropsConfig,
    coarsest_level: int,
    background: NDArray[np.float32],
) -> tuple[Measures, int]:
    """Write the crops of a chunk into its pixels; return their measures and the number from a coarser level."""
    crops, sharpness = [], []
    for target, box in zip(chunk.pixels, chunk.boxes, strict=True):
        plane, by_plane = choose(box)
        crop = extract_crop(
            plane, box, config=config, coarsest_level=coarsest_level, background_rgb=background
        )
        target[:] = crop.pixels
        crops.append(crop)
        sharpness.append(by_plane)
    measures = measure_crops(
        chunk.pixels,
        background,
        np.array([crop.failed for crop in crops], np.bool_),
        contents=[crop.content for crop in crops],
        plane_sharpness=np.stack(sharpness),
    )
    return measures, sum(crop.coarser for crop in crops)


def _chunks(boxes: NDArray[np.int32], size: int, *, side_px: int) -> Iterator[_Chunk]:
    """Yield all boxes in order; memory for a batch is allocated with its first chunk."""
    for first in range(0, len(boxes), size):
        batch = np.empty((min(size, len(boxes) - first), side_px, side_px, 3), np.uint8)
        for begin in range(0, len(batch), _CHUNK):
            pixels = batch[begin : begin + _CHUNK]
            end = begin + len(pixels)
            yield _Chunk(boxes[first + begin : first + end], pixels, first, batch, end == len(batch))


def _batches(chunks: Iterable[_ExtractedChunk]) -> Generator[_Batch]:
    gathered: list[_ExtractedChunk] = []
    for extracted in chunks:
        gathered.append(extracted)
        if extracted.chunk.is_last:
            yield _Batch(extracted.chunk.first, extracted.chunk.batch, gathered)
            gathered = []


class BusyTime:
    """Seconds during which at least one thread was inside `measure`."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._lock = threading.Lock()
        self._count = 0
        self._since_s = 0.0

    @contextmanager
    def measure(self) -> Iterator[None]:
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
