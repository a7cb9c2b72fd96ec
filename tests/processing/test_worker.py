"""One slide through the real worker, in this process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from support.processed_slides import CLASSICAL, objects, run_one
from support.slides_on_disk import DISC_PX, discs, write_slide

from fossilray.core.config import load_config
from fossilray.core.records import CatalogRow, ExtraValue, Outcome, WorkItem
from fossilray.core.schemas import OBJECTS_SCHEMA
from fossilray.processing.crops.objects_table import round_outward
from fossilray.processing.worker import SlideWorker
from fossilray.store import RunStore
from fossilray.store.arrays.group import open_array_group
from fossilray.store.run.run_record import describe_run


def test_objects_lie_where_the_discs_are(slide: Path, tmp_path: Path) -> None:
    store, _ = run_one(slide, tmp_path)
    table = objects(store)
    assert table.schema.equals(OBJECTS_SCHEMA)
    summary = store.summaries()[0]
    image = discs(1536)
    for row in table.to_pylist():
        x, y = row["x_min"] - summary.bounds_x, row["y_min"] - summary.bounds_y
        inside = image[
            max(y, 0) : row["y_max"] - summary.bounds_y, max(x, 0) : row["x_max"] - summary.bounds_x
        ]
        assert (inside[..., 2] < 100).mean() > 0.5
        assert row["width_um"] >= 0.9 * DISC_PX * 0.25
        assert row["opacity"] > 0.2
    assert list(table["object_id"].to_pylist()) == list(range(len(table)))


def test_the_resolution_of_the_catalog_wins_and_its_source_is_recorded(slide: Path, tmp_path: Path) -> None:
    extra = (ExtraValue("lithology", "shale"),)
    stated = CatalogRow(slide.stem, str(slide), mpp=0.5, extra=extra)
    quick = ("embedder.weights=none", "detector.kind=classical")
    for number, (row, settings, mpp, source) in enumerate(
        (
            (None, (), 0.25, "slide"),
            (stated, (), 0.5, "catalog"),
            (replace(stated, mpp=0.25), (), 0.25, "slide"),
            (stated, ("slides.mpp_override=0.3",), 0.3, "config"),
        )
    ):
        store, _ = run_one(slide, tmp_path / str(number), *quick, *settings, row=row)
        (summary,) = store.summaries()
        assert (summary.mpp, summary.mpp_from) == (mpp, source)
        assert summary.extra == (None if row is None else extra)


def test_arrays_hold_a_crop_and_a_vector_for_every_row(slide: Path, tmp_path: Path) -> None:
    store, _ = run_one(slide, tmp_path)
    table = objects(store)
    group = open_array_group(store, table["arrays"][0].as_py())
    assert group["crops"].shape == (len(table), 224, 224, 3)
    assert group["embeddings"].shape[0] == len(table)
    assert np.isfinite(group["embeddings"][:].astype(np.float32)).all()
    centre = group["crops"][0][112, 112].astype(int)
    assert abs(centre - np.array([120, 80, 40])).max() < 12


def test_equal_input_gives_equal_tables_crops_and_vectors(slide: Path, tmp_path: Path) -> None:
    first, _ = run_one(slide, tmp_path / "a")
    second, _ = run_one(slide, tmp_path / "b", "slides.read_threads=4")
    one, two = objects(first), objects(second)
    assert one.drop_columns(["arrays"]).equals(two.drop_columns(["arrays"]))
    for name in ("crops", "embeddings"):
        here = open_array_group(first, one["arrays"][0].as_py())[name][:]
        there = open_array_group(second, two["arrays"][0].as_py())[name][:]
        np.testing.assert_array_equal(here, there)


def test_both_readers_give_equal_tables_and_crops(slide: Path, tmp_path: Path) -> None:
    first, _ = run_one(slide, tmp_path / "a", "slides.reader=auto", "embedder.weights=none")
    second, _ = run_one(slide, tmp_path / "b", "slides.reader=openslide", "embedder.weights=none")
    one, two = objects(first), objects(second)
    assert one.drop_columns(["arrays"]).equals(two.drop_columns(["arrays"]))
    arrays = [
        {path.partition(".zarr/")[2]: store.files.read(path) for path in store.files.find("arrays")}
        for store in (first, second)
    ]
    assert arrays[0] == arrays[1] != {}


def test_the_bundled_detector_finds_every_disc_once(slide: Path, tmp_path: Path) -> None:
    store, _ = run_one(slide, tmp_path, "detector.kind=yolo", "embedder.weights=none")
    assert len(objects(store)) >= len(components(discs(1536)))


def test_sizes_follow_the_resolution_that_is_in_force(slide: Path, tmp_path: Path) -> None:
    store, _ = run_one(slide, tmp_path, "slides.mpp_override=0.5", "embedder.weights=none")
    assert store.summaries()[0].mpp == 0.5
    assert min(objects(store)["width_um"].to_pylist()) > 0.9 * DISC_PX * 0.5


def test_damage_at_level_0_costs_sharpness_not_the_object(tmp_path: Path) -> None:
    path = tmp_path / "torn.mrxs"
    write_slide(path)
    whole, _ = run_one(path, tmp_path / "whole", "embedder.weights=none")
    spoil_first_full_tile(path.with_suffix("") / "Data0000.dat")
    torn, _ = run_one(path, tmp_path / "torn-run", "embedder.weights=none")
    summary = torn.summaries()[0]
    assert summary.crops_coarser + summary.crops_failed > 0
    assert abs(summary.objects - whole.summaries()[0].objects) <= 1
    assert objects(torn)["opacity"].null_count == summary.crops_failed


def test_too_much_loss_fails_the_slide_and_states_the_share(tmp_path: Path) -> None:
    path = tmp_path / "gone.mrxs"
    write_slide(path, size=2048, data_files=4)
    for data in sorted(path.with_suffix("").glob("Data*.dat"))[:-1]:
        data.write_bytes(bytes(data.stat().st_size))
    store, outcome = run_one(path, tmp_path, "slides.max_lost_share=0.1", "tiling.tile_px=512")
    assert outcome.failure is not None
    assert outcome.failure.error == "TooManyUnreadableTiles"
    assert "slides.max_lost_share = 0.1" in outcome.failure.message
    assert not store.committed()
    assert not store.files.find("arrays")


def test_an_attempt_past_its_deadline_commits_nothing(slide: Path, tmp_path: Path) -> None:
    store, outcome = run_one(slide, tmp_path, "workers.deadline_minutes=0.0001")
    assert outcome.failure is not None
    assert (outcome.failure.error, outcome.failure.transient) == ("AttemptExpired", True)
    assert not store.committed()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        cv2.error("OpenCV alloc.cpp: error: (-4:Insufficient memory) Failed to allocate 8 bytes"),
    ],
    ids=["Python", "torch", "CUDA", "OpenCV"],
)
def test_a_lack_of_memory_is_a_passing_failure_of_the_slide(
    error: Exception, slide: Path, tmp_path: Path
) -> None:
    worker, store = ready_worker(tmp_path)
    worker._models = replace(worker._models, embedder=Failing(error))
    outcome = worker.process(WorkItem.of_slide(CatalogRow("a", str(slide))))
    assert outcome.failure is not None
    assert (outcome.failure.error, outcome.failure.transient) == ("OutOfMemory", True)
    assert "lower detector.batch and embedder.batch" in outcome.failure.message
    assert not store.files.find("arrays")


class ItsOwn(BaseException):
    """As odd as an exception of a library may be."""

    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("shapes do not fit"), "shapes do not fit"),
        (RecursionError("maximum recursion depth exceeded"), "maximum recursion depth exceeded"),
        (OSError("broken data stream when writing image file"), "broken data stream when writing image file"),
        (KeyError("https://me:" + "word@example.org/" + "x" * 10_000), "'https://***@example.org/xxx"),
        (ItsOwn(), "its message cannot be read (ValueError)"),
    ],
    ids=["RuntimeError", "RecursionError", "OSError", "KeyError", "BaseException"],
)
def test_an_exception_of_any_class_is_the_slides_failure_with_its_traceback(
    error: BaseException, message: str, slide: Path, tmp_path: Path
) -> None:
    worker, store = ready_worker(tmp_path)
    worker._models = replace(worker._models, embedder=Failing(error))
    outcome = worker.process(WorkItem.of_slide(CatalogRow("a", str(slide))))
    failure = outcome.failure
    assert failure is not None
    assert failure == store.attempts.failures()[0], "what is on record is what the driver hears"
    assert (failure.error, failure.stage, failure.transient) == (type(error).__name__, "crops", True)
    assert failure.message.startswith(message)
    assert len(failure.message) <= 2_000
    assert failure.place is not None
    assert failure.place.startswith("fossilray/processing/crops/extract.py:")
    assert failure.traceback is not None
    assert "Failing" not in failure.message
    assert "in embed" in failure.traceback
    assert len(failure.traceback) <= 16_000
    assert "word@" not in failure.traceback
    assert not store.files.find("arrays")
    missing = WorkItem.of_slide(CatalogRow("b", str(slide.parent / "none.mrxs")))
    assert worker.process(missing).failure is not None, "the worker continues"


def test_a_slide_of_noise_is_refused_by_its_number_of_objects_and_else_committed(tmp_path: Path) -> None:
    path = tmp_path / "noise.tif"
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    tifffile.imwrite(
        path,
        noise,
        tile=(256, 256),
        photometric="rgb",
        resolution=(40_000, 40_000),
        resolutionunit="centimeter",
    )
    _, outcome = run_one(path, tmp_path / "whole", "embedder.weights=none")
    assert outcome.summary is not None, outcome.failure
    many = ("slides.max_objects=20", "detector.classical.min_area_um2=0", "embedder.weights=none")
    store, outcome = run_one(path, tmp_path / "few", *many)
    assert outcome.failure is not None
    assert (outcome.failure.error, outcome.failure.quarantined) == ("TooManyObjects", True)
    assert "more than 20 boxes" in outcome.failure.message
    assert "slides.max_objects" in outcome.failure.message
    assert not store.committed()


def test_of_two_workers_on_one_slide_the_second_leaves_nothing(slide: Path, tmp_path: Path) -> None:
    store, first = run_one(slide, tmp_path, "embedder.weights=none")
    _, second = run_one(slide, tmp_path, "embedder.weights=none")
    assert first.summary is not None
    assert second == Outcome("discs")
    assert {path.split("/")[2] for path in store.files.find("arrays")} == {f"{first.summary.attempt}.zarr"}


def test_the_resolution_of_the_catalog_is_used_instead_of_the_slides(slide: Path, tmp_path: Path) -> None:
    store, _ = run_one(slide, tmp_path, "embedder.weights=none", row=CatalogRow("discs", str(slide), mpp=0.9))
    (summary,) = store.summaries()
    assert (summary.mpp, summary.mpp_from) == (0.9, "catalog")
    assert "mpp-differs" in [doubt.code for doubt in summary.doubts or ()]


def test_lossless_letterboxed_crops_are_stored_as_cut(slide: Path, tmp_path: Path) -> None:
    settings = ("crops.encoding=lossless", "crops.fit=letterbox", "crops.size_px=96", "embedder.weights=none")
    store, _ = run_one(slide, tmp_path, *settings)
    group = open_array_group(store, objects(store)["arrays"][0].as_py())
    assert group["crops"].shape[1:] == (96, 96, 3)
    assert "embeddings" not in group


def test_boxes_grow_to_whole_pixels_inside_the_scanned_area(slide: Path) -> None:
    from fossilray.slides.slide import open_slide

    with open_slide(slide) as opened:
        bounds = opened.info.bounds
        assert 0 < bounds.x_min < bounds.x_max < opened.info.width
        boxes = np.array([[10.2, 10.0, 11.8, 12.0], [-1e9, -1e9, 1e9, 1e9], [5.4, 5.4, 5.5, 5.5]])
        boxes[[0, 2]] += bounds.x_min
        whole = round_outward(boxes, opened.info)
        assert (whole[0] - bounds.x_min).tolist() == [10, 10, 12, 12]
        assert whole.tolist()[1] == [bounds.x_min, bounds.y_min, bounds.x_max, bounds.y_max]
        assert (whole[2] - bounds.x_min).tolist() == [5, 5, 6, 6]


class Failing:
    """An embedder that has no luck."""

    name, dimension = "failing", 4

    def __init__(self, error: Exception) -> None:
        self._error = error

    def embed(self, crops: np.ndarray) -> np.ndarray:
        raise self._error


def ready_worker(folder: Path) -> tuple[SlideWorker, RunStore]:
    config = load_config(None, [*CLASSICAL, "embedder.weights=none"])
    store = RunStore.open(str(folder / "run"))
    store.create_or_check(describe_run(config, {}))
    worker = SlideWorker(str(folder / "run"), config)
    worker.prepare()
    return worker, store


def components(image: np.ndarray) -> list[int]:
    import cv2

    count, labels = cv2.connectedComponents((image[..., 2] < 100).astype(np.uint8))
    return [int((labels == label).sum()) for label in range(1, count)]


def spoil_first_full_tile(data: Path) -> None:
    """Spoil the first stored tile that shows more than clear field; the first row of photos is level 0."""
    content = bytearray(data.read_bytes())
    starts = [at for at in range(len(content) - 2) if content[at : at + 3] == b"\xff\xd8\xff"]
    sizes = np.diff([*starts, len(content)])
    content[starts[int(np.argmax(sizes > 1.2 * sizes.min()))]] = 0
    data.write_bytes(content)
