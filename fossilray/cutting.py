"""A slide's objects cut out, measured, embedded and stored, a batch at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.config import RunConfig
from fossilray.crops import Measures, cut_crop, estimate_background, measure_crops
from fossilray.in_parts import batches, in_order
from fossilray.objects_table import StoredCrops
from fossilray.records import Boxes, Embedder
from fossilray.slide import Slide
from fossilray.store.arrays import ArrayWriter


@dataclass(frozen=True)
class CutObjects:
    """What was stored, and the seconds of it that went into embedding."""

    crops: StoredCrops
    embed_s: float


def cut_objects(
    slide: Slide,
    readers: ThreadPoolExecutor,
    objects: Boxes,
    *,
    writer: ArrayWriter,
    embedder: Embedder | None,
    config: RunConfig,
    coarsest_level: int,
    progress: Callable[[float], None],
) -> CutObjects:
    """Crops in row order: while one batch is embedded, the next are cut and the last is encoded.

    coarsest_level: the coarsest that stands in for an unreadable one. progress: told the share done.
    """
    boxes = objects.xyxy
    background = estimate_background(slide)
    cut = in_order(
        readers,
        lambda box: cut_crop(
            slide,
            box,
            config=config.crops,
            coarsest_level=coarsest_level,
            background_rgb=background,
        ),
        boxes,
        ahead=2 * config.embedder.batch,
    )
    measures: list[Measures] = []
    coarser = 0
    embed_s = 0.0
    with ThreadPoolExecutor(1, thread_name_prefix="write") as writers:
        written: Future[None] | None = None
        for first, batch in batches(cut, config.embedder.batch):
            pixels = np.stack([crop.pixels for crop in batch])
            failed = np.array([crop.failed for crop in batch], bool)
            vectors: NDArray[np.float16] | None = None
            if embedder is not None:
                began_s = time.monotonic()
                vectors = embedder.embed(pixels)
                embed_s += time.monotonic() - began_s
            if written is not None:
                written.result()
            written = writers.submit(writer.write, first, pixels, vectors)
            measures.append(
                measure_crops(pixels, background, failed, contents=[crop.content for crop in batch])
            )
            coarser += sum(crop.coarser for crop in batch)
            progress((first + len(batch)) / len(boxes))
        if written is not None:
            written.result()
    return CutObjects(StoredCrops(writer.finish(), Measures.concatenate(measures), coarser), embed_s)
