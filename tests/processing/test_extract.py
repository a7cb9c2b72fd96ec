"""Objects cut, embedded and stored by threads, against a plain loop over the same slide."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow

from fossilray.core.config import RunConfig, load_config
from fossilray.core.errors import StoreError
from fossilray.core.types import Boxes, Embedder
from fossilray.processing.crops.cut import extract_crop
from fossilray.processing.crops.extract import ExtractedCrops, extract_crops
from fossilray.processing.crops.measures import measure_crops
from fossilray.processing.crops.objects_table import round_outward
from fossilray.processing.detection.detect import NetworkThreads
from fossilray.slides.clear_field import estimate_background
from fossilray.slides.slide import Slide, open_slide
from fossilray.store import RunStore
from fossilray.store.arrays.group import ArrayWriter, open_array_group
from fossilray.store.arrays.jpeg_codec import encode_crop
from fossilray.synthetic.writers.mirax import write_mirax
from fossilray.synthetic.writers.mirax_plan import MiraxOptions
from fossilray.synthetic.writers.pixels import ArrayPixels

BATCH = 20
OBJECTS = 3 * BATCH + 13


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slide]:
    coarse = np.random.default_rng(0).integers(0, 256, (160, 160, 3), dtype=np.uint8)
    image = np.asarray(Pillow.fromarray(coarse).resize((1600, 1600), Pillow.Resampling.BICUBIC))
    path = tmp_path_factory.mktemp("cutting") / "slide.mrxs"
    write_mirax(path, ArrayPixels(image=image), MiraxOptions(margin_photos=1, levels=3, data_files=2))
    with open_slide(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def objects(slide: Slide) -> Boxes:
    """At fractions of a pixel, from small to larger than the crop; some reach out of the scanned area."""
    rng = np.random.default_rng(1)
    bounds = slide.info.bounds
    corners = rng.uniform(
        (bounds.x_min - 30, bounds.y_min - 30), (bounds.x_max - 40, bounds.y_max - 40), (OBJECTS, 2)
    )
    sides = rng.uniform(20, 240, (OBJECTS, 2))
    sides[::15] *= 3
    return Boxes(np.hstack([corners, corners + sides]), np.ones(OBJECTS, np.float32))


class MeanColours:
    """An Embedder whose vectors are mean colours; it notes its threads and reports its crops."""

    name, dimension = "mean-colours", 3

    def __init__(self, on_crops: Callable[[NDArray[np.uint8]], None] = lambda crops: None) -> None:
        self.threads: set[int] = set()
        self._on_crops = on_crops

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float16]:
        self.threads.add(threading.get_ident())
        self._on_crops(crops)
        return crops.mean(axis=(1, 2)).astype(np.float16)


def cut(
    slide: Slide,
    objects: Boxes,
    store: RunStore,
    *,
    embedder: Embedder | None,
    threads: int = 2,
    lanes: int = 1,
) -> ExtractedCrops:
    config = settings(threads)
    writer = ArrayWriter(
        store,
        "A",
        "0011223344556677",
        count=len(objects),
        crops=config.crops,
        dimension=embedder.dimension if embedder else None,
    )
    with (
        ThreadPoolExecutor(threads) as readers,
        ThreadPoolExecutor(lanes) as pool,
        ThreadPoolExecutor(1) as writers,
    ):
        return extract_crops(
            slide,
            readers,
            objects,
            writer=writer,
            writers=writers,
            embedder=embedder,
            network_threads=NetworkThreads(pool, lanes),
            config=config,
            coarsest_level=2,
            progress=lambda share: None,
        )


def settings(threads: int = 2) -> RunConfig:
    return load_config(None, [f"embedder.batch={BATCH}", f"slides.read_threads={threads}"])


@pytest.mark.parametrize(("threads", "lanes"), [(1, 1), (3, 2)])
def test_what_is_stored_is_what_a_plain_loop_gives(
    slide: Slide, objects: Boxes, tmp_path: Path, threads: int, lanes: int
) -> None:
    config = settings()
    background = estimate_background(slide)
    crops = [
        extract_crop(slide, box, config=config.crops, coarsest_level=2, background_rgb=background)
        for box in round_outward(objects.xyxy, slide.info)
    ]
    pixels = np.stack([crop.pixels for crop in crops])
    expected = measure_crops(pixels, background, np.zeros(OBJECTS, bool))
    assert len({crop.level for crop in crops}) > 1

    store = RunStore.open(str(tmp_path / "run"))
    found = cut(slide, objects, store, embedder=MeanColours(), threads=threads, lanes=lanes).crops

    assert found.coarser == 0
    for name in ("opacity", "sharpness", "mean_rgb", "missing"):
        np.testing.assert_array_equal(getattr(found.measures, name), getattr(expected, name))
    shard = store.files.read(f"{found.files.path}/crops/c/0/0/0/0")
    jpegs = b"".join(encode_crop(crop, quality=config.crops.jpeg_quality) for crop in pixels)
    assert shard.startswith(jpegs)
    vectors = open_array_group(store, found.files.path)["embeddings"]
    np.testing.assert_array_equal(vectors, pixels.mean(axis=(1, 2)).astype(np.float16))


def test_crop_shows_the_whole_pixels_of_its_rows_box(slide: Slide, objects: Boxes, tmp_path: Path) -> None:
    seen: list[NDArray[np.uint8]] = []
    store = RunStore.open(str(tmp_path / "run"))
    cut(slide, objects, store, embedder=MeanColours(lambda crops: seen.append(crops.copy())))
    compared = 0
    for crop, box in zip(np.concatenate(seen), round_outward(objects.xyxy, slide.info), strict=True):
        x, y, width, height = int(box[0]), int(box[1]), int(box[2] - box[0]), int(box[3] - box[1])
        if min(width, height) < 2 * 224:  # larger ones come from coarser levels
            window = Pillow.fromarray(slide.read(0, x, y, width, height))
            expected = np.asarray(window.resize((224, 224), Pillow.Resampling.BICUBIC))
            assert np.abs(crop.astype(int) - expected).max() <= 3
            compared += 1
    assert compared > 0.8 * OBJECTS


def test_stored_tile_that_neighbours_share_is_decoded_once(
    slide: Slide, objects: Boxes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A tile that one window shows whole is not kept for others.
    small = objects.take((objects.xyxy[:, 2:] - objects.xyxy[:, :2]).max(axis=1) < 250)
    read: Counter[tuple[int, int]] = Counter()
    pread = os.pread

    def counted(file: int, length: int, offset: int) -> bytes:
        read[file, offset] += 1
        return pread(file, length, offset)

    with open_slide(Path(slide.info.path)) as fresh:
        for level in range(3):
            fresh.read(level, 0, 0, 1, 1)  # compares some regions, which is not counted
        monkeypatch.setattr(os, "pread", counted)
        directly = fresh.regions_read_directly
        cut(fresh, small, RunStore.open(str(tmp_path / "run")), embedder=None, threads=3)
        assert fresh.regions_read_directly - directly >= len(small)
    assert len(read) > 20
    assert max(read.values()) == 1


@pytest.mark.parametrize("lanes", [1, 2])
def test_cutting_does_not_run_far_ahead_of_the_embedder(
    slide: Slide, objects: Boxes, tmp_path: Path, lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = Boxes(np.tile(objects.xyxy, (4, 1)), np.tile(objects.score, 4))
    begun, done, lock = 0, 0, threading.Lock()
    ahead: list[int] = []
    read = slide.read

    def counted(*region: int) -> NDArray[np.uint8]:
        nonlocal begun
        with lock:
            begun += 1
        return read(*region)

    def note(crops: NDArray[np.uint8]) -> None:
        nonlocal done
        with lock:
            ahead.append(begun - done)
            done += len(crops)

    monkeypatch.setattr(slide, "read", counted)
    embedder = MeanColours(note)
    cut(slide, many, RunStore.open(str(tmp_path / "run")), embedder=embedder, threads=3, lanes=lanes)
    assert done == len(many)
    assert max(ahead) <= (lanes + 4) * BATCH
    assert len(embedder.threads) <= lanes
    assert threading.get_ident() not in embedder.threads


def test_embedder_that_fails_is_heard_of(slide: Slide, objects: Boxes, tmp_path: Path) -> None:
    def fail(crops: NDArray[np.uint8]) -> None:
        raise RuntimeError("CUDA out of memory")

    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        cut(slide, objects, RunStore.open(str(tmp_path / "run")), embedder=MeanColours(fail), lanes=2)


def test_store_that_refuses_is_heard_of(slide: Slide, objects: Boxes, tmp_path: Path) -> None:
    store = RunStore.open(str(tmp_path / "run"))
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / "arrays").write_bytes(b"a file where a folder should be")
    with pytest.raises((StoreError, OSError)):
        cut(slide, objects, store, embedder=None)


def test_the_embedders_time_is_measured_and_0_without_one(
    slide: Slide, objects: Boxes, tmp_path: Path
) -> None:
    with_one = cut(slide, objects, RunStore.open(str(tmp_path / "a")), embedder=MeanColours(), lanes=2)
    without = cut(slide, objects, RunStore.open(str(tmp_path / "b")), embedder=None)
    assert with_one.embed_s > 0
    assert without.embed_s == 0


def test_slide_without_objects_leaves_empty_arrays(slide: Slide, tmp_path: Path) -> None:
    store = RunStore.open(str(tmp_path / "run"))
    found = cut(slide, Boxes.empty(), store, embedder=None).crops
    assert len(found.measures.missing) == 0
    assert open_array_group(store, found.files.path)["crops"].shape == (0, 224, 224, 3)
