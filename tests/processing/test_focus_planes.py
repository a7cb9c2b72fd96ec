"""Slides with focus planes: objects at every depth are found, and each is cropped where it is sharpest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from support.focus_stacks import FocusStack, paint_stack, write_ndpi, write_ome, write_pages

from fossilray.core.boxes import box_iou
from fossilray.core.config import RunConfig
from fossilray.core.records import SlideSummary, WorkItem
from fossilray.core.types import Boxes
from fossilray.processing.detection.merge import Merged
from fossilray.processing.detection.merge_planes import merge_planes
from fossilray.processing.worker import SlideWorker
from fossilray.slides.catalog import find_slides
from fossilray.slides.focus.sharpness import object_sharpness
from fossilray.store import RunStore
from fossilray.store.run.run_record import describe_run

PLANES = 5
DEPTHS_UM = (-30.0, -15.0, 0.0, 15.0, 30.0)


@dataclass(frozen=True)
class Processed:
    """A slide of a run: its row, its objects, and their crops."""

    summary: SlideSummary
    objects: pa.Table
    store: RunStore

    def boxes(self) -> NDArray[np.float64]:
        return np.stack([self.objects[name].to_numpy() for name in ("x_min", "y_min", "x_max", "y_max")], 1)

    def matches(self, stack: FocusStack) -> dict[int, int]:
        """The row of each painted object that was found, by its number."""
        boxes = self.boxes().astype(np.float64)
        found = {}
        for number, box in enumerate(stack.boxes.astype(np.float64)):
            overlaps = box_iou(np.tile(box, (len(boxes), 1)), boxes)
            if len(boxes) and overlaps.max() >= 0.5:
                found[number] = int(overlaps.argmax())
        return found

    def crops(self) -> NDArray[np.uint8]:
        import zarr

        return np.asarray(zarr.open_group(Path(self.store.root) / self.objects["arrays"][0].as_py())["crops"])


def process(path: Path, run: Path, **sections: dict[str, object]) -> Processed:
    config = RunConfig.model_validate({"embedder": {"weights": "none"}, **sections})
    store = RunStore.open(str(run))
    store.create_or_check(describe_run(config, {}))
    (row,) = store.freeze_catalog(find_slides(str(path)).rows)
    worker = SlideWorker(str(run), config)
    worker.prepare()
    outcome = worker.process(WorkItem.of_slide(row))
    assert outcome.summary is not None, outcome.failure
    objects = pq.read_table(run / store.committed_files()[row.slide_id])
    return Processed(outcome.summary, objects, store)


@pytest.fixture(scope="module")
def painted() -> FocusStack:
    return paint_stack(1536, planes=PLANES, step_um=15.0, objects=81, noise=3.0)


@pytest.fixture(scope="module")
def slide(painted: FocusStack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ndpi(tmp_path_factory.mktemp("slides") / "s.ndpi", painted, levels=3, depths_um=DEPTHS_UM)


@pytest.fixture(scope="module")
def runs(slide: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Processed]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        planes: process(slide, folder / planes, slides={"planes": planes})
        for planes in ("middle", "best", "all")
    }


def test_objects_at_every_depth_are_found_and_their_plane_is_recovered(
    runs: dict[str, Processed], painted: FocusStack
) -> None:
    found = {planes: run.matches(painted) for planes, run in runs.items()}
    counts = {planes: len(rows) for planes, rows in found.items()}
    assert counts["middle"] < 0.7 * len(painted.boxes)
    assert counts["best"] >= 0.95 * len(painted.boxes)
    assert counts["all"] >= counts["best"]
    for planes in ("best", "all"):
        focus = runs[planes].objects["focus_plane"].to_pylist()
        off = [abs(focus[row] - int(painted.sharp[number])) for number, row in found[planes].items()]
        assert np.mean(np.array(off) == 0) >= 0.97, np.bincount(off)


def test_crops_are_those_of_the_sharpest_plane(runs: dict[str, Processed], painted: FocusStack) -> None:
    run = runs["best"]
    crops, boxes = run.crops(), run.boxes()
    for number, row in list(run.matches(painted).items())[:20]:
        x_min, y_min, x_max, y_max = boxes[row]
        within = painted.planes[painted.sharp[number]][y_min:y_max, x_min:x_max]
        shown = crops[row].reshape(*crops[row].shape)
        assert np.abs(shown.mean(axis=(0, 1)) - within.mean(axis=(0, 1))).max() < 3
        sharpness = run.objects["plane_sharpness"][row].as_py()
        assert len(sharpness) == PLANES
        assert max(sharpness) == sharpness[run.objects["focus_plane"][row].as_py()]
        assert run.objects["sharpness"][row].as_py() > 0


def test_summary_and_doubts_state_what_was_read(runs: dict[str, Processed]) -> None:
    codes = {planes: [doubt.code for doubt in run.summary.doubts or ()] for planes, run in runs.items()}
    assert "planes-left-out" in codes["middle"]
    assert "planes-left-out" not in codes["best"] + codes["all"]
    assert {planes: (run.summary.planes, run.summary.planes_read) for planes, run in runs.items()} == {
        "middle": (PLANES, 1),
        "best": (PLANES, PLANES),
        "all": (PLANES, PLANES),
    }
    assert runs["middle"].objects["focus_plane"].null_count == len(runs["middle"].objects)
    assert runs["middle"].objects["plane_sharpness"].null_count == len(runs["middle"].objects)
    sentence = next(
        doubt.sentence for doubt in runs["middle"].summary.doubts or () if doubt.code == "planes-left-out"
    )
    assert "--planes best" in sentence


def test_extended_crops_combine_the_planes(slide: Path, painted: FocusStack, tmp_path: Path) -> None:
    run = process(slide, tmp_path / "run", slides={"planes": "best"}, crops={"focus": "extended"})
    assert len(run.matches(painted)) >= 0.95 * len(painted.boxes)
    assert run.objects["focus_plane"].null_count == 0
    assert run.crops().shape[0] == len(run.objects)


def test_stack_in_photographs_of_one_plane_is_processed_as_before(
    tmp_path: Path, painted: FocusStack
) -> None:
    flat = FocusStack(painted.planes[2:3], painted.boxes, painted.sharp, painted.um_per_px)
    path = write_pages(tmp_path / "flat.tif", flat)
    tables = [
        process(path, tmp_path / planes, slides={"planes": planes}).objects.drop_columns(["arrays"])
        for planes in ("middle", "best")
    ]
    assert tables[0].equals(tables[1])
    assert tables[0]["focus_plane"].null_count == len(tables[0])


def test_planes_without_coarser_levels_are_read(tmp_path: Path) -> None:
    painted = paint_stack(768, planes=3, step_um=12.0, objects=16)
    run = process(write_ome(tmp_path / "s.ome.tif", painted), tmp_path / "run", slides={"planes": "best"})
    assert len(run.matches(painted)) >= 14


def test_configuration_of_earlier_runs_stays_as_it_was() -> None:
    plain = RunConfig().what_changes_results()
    assert "planes" not in plain["slides"]
    assert "focus" not in plain["crops"]
    changed = RunConfig.model_validate(
        {"slides": {"planes": "best"}, "crops": {"focus": "extended"}}
    ).what_changes_results()
    assert changed["slides"]["planes"] == "best"
    assert changed["crops"]["focus"] == "extended"
    with pytest.raises(ValueError, match=r"needs slides\.planes best or all"):
        RunConfig.model_validate({"crops": {"focus": "extended"}})


def merged(*boxes: tuple[float, float, float, float, float]) -> Merged:
    table = np.array(boxes, np.float64).reshape(-1, 5)
    return Merged(Boxes(table[:, :4], table[:, 4].astype(np.float32)), 0)


def test_object_that_several_planes_show_is_kept_once() -> None:
    sharp = merged((100, 100, 200, 200, 0.9))
    blurred = merged((90, 90, 215, 215, 0.6), (500, 500, 600, 600, 0.7))
    found = merge_planes([blurred, sharp], same_iou=0.5).boxes
    assert found.xyxy.tolist() == [[100, 100, 200, 200], [500, 500, 600, 600]]


def test_neighbours_in_one_plane_and_small_objects_inside_large_ones_stay() -> None:
    one = merged((0, 0, 100, 100, 0.9), (10, 0, 110, 100, 0.8))
    other = merged((20, 20, 50, 50, 0.7))
    assert len(merge_planes([one, other], same_iou=0.5).boxes) == 3


def test_sharpness_falls_with_blur_and_barely_rises_with_noise() -> None:
    painted = paint_stack(512, planes=3, step_um=3.0, objects=1, noise=0.0)
    noisy = paint_stack(512, planes=3, step_um=3.0, objects=1, noise=4.0)
    x_min, y_min, x_max, y_max = painted.boxes[0]
    box = np.s_[y_min:y_max, x_min:x_max]
    plain = [object_sharpness(np.ascontiguousarray(plane[box]), 0.5) for plane in painted.planes]
    grainy = [object_sharpness(np.ascontiguousarray(plane[box]), 0.5) for plane in noisy.planes]
    assert np.argmax(plain) == painted.sharp[0] == np.argmax(grainy)
    assert max(grainy) < 1.5 * max(plain)
    assert object_sharpness(np.full((3, 3, 3), 200, np.uint8), 0.5) == 0
