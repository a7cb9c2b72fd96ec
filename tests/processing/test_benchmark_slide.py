"""The parts of benchmarks/slide.py, on slides so small that no figure means anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import slide as bench
import slide_ways as ways
import torch
from paper_procedure import Stopwatch, largest_iou, load_network, run_paper_procedure
from slides_made import MadeSlide, SlideKind, make_slides

from fossilray.processing.detection.merge import largest_overlaps
from fossilray.slides.mirax.layout import read_mirax_layout

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SIDE_PX = 3072


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slides")


@pytest.fixture(scope="module")
def overlapping(folder: Path) -> MadeSlide:
    (made,) = make_slides(folder, [SlideKind("overlapping", "dense", SIDE_PX)])
    return made


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, overlapping: MadeSlide) -> Path:
    path = tmp_path_factory.mktemp("ours") / "run"
    ways.warm_up_ours(overlapping.path, bench.settings(), path)
    return path


def test_forms_show_one_field_and_are_painted_once(folder: Path, overlapping: MadeSlide) -> None:
    kinds = [SlideKind(form, "dense", SIDE_PX) for form in bench.FORMS]
    made = make_slides(folder, kinds)
    assert made[0] == overlapping
    tables = [pq.read_table(one.truth) for one in made]
    extents = [
        {
            (x_max - x_min, y_max - y_min)
            for x_min, y_min, x_max, y_max in zip(
                *(table.column(name).to_pylist() for name in ways.CORNERS), strict=True
            )
        }
        for table in tables
    ]
    # An object at the rim may be cut by some px where photos leave it out.
    assert extents[1] == extents[2]
    assert len(extents[0] & extents[1]) > 0.8 * len(extents[1])
    before = [file.stat().st_mtime_ns for one in made for file in one.files]
    make_slides(folder, kinds)
    assert [file.stat().st_mtime_ns for one in made for file in one.files] == before


def test_the_papers_procedure_finds_large_objects_and_cuts_each(overlapping: MadeSlide) -> None:
    # Threads of a network so small wait for each other where other work runs on the machine.
    torch.set_num_threads(1)
    watch = Stopwatch()
    found = run_paper_procedure(overlapping.path, load_network(), watch)
    assert len(found.xyxy) == len(found.scores) == len(found.crops) == len(found.isolated)
    assert {crop.size for crop in found.crops} == {(224, 224)}
    assert set(watch.cpu_s) == {"read", "detect", "cut", "compare"}
    score = bench.score(ways.Taken(0, 0, xyxy=found.xyxy), pq.read_table(overlapping.truth))
    large = score.by_size_um[50.0, 150.0]
    assert large.true
    assert large.recall is not None
    assert large.recall > 0.5


def test_comparing_all_boxes_gives_what_the_merge_computes() -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 400, (60, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 80, (60, 2))], axis=1)
    np.testing.assert_allclose(largest_iou(boxes), largest_overlaps(boxes), rtol=1e-6)


def test_stages_apart_find_what_the_worker_commits(overlapping: MadeSlide, run: Path) -> None:
    whole = ways.run_ours(overlapping.path, "again", run)
    apart = ways.run_ours_apart(overlapping.path, bench.settings(), run)
    assert len(whole.xyxy) > 10
    np.testing.assert_allclose(whole.xyxy, apart.xyxy, atol=1)
    assert set(apart.stages_cpu_s) == {
        "open",
        "read",
        "detect",
        "merge",
        "cut",
        "picture",
        "measure",
        "encode",
    }


def test_touched_tiles_are_those_that_the_files_hold(overlapping: MadeSlide) -> None:
    touched = ways.list_touched(overlapping.path, bench.settings())
    layout = read_mirax_layout(overlapping.path)
    stored = {
        number: {
            (str(layout.files[file]), offset, length)
            for file, offset, length in zip(
                level.tiles.file.tolist(),
                level.tiles.offset.tolist(),
                level.tiles.length.tolist(),
                strict=True,
            )
        }
        for number, level in enumerate(layout.levels)
        if level is not None
    }
    assert touched.direct
    # The colour beyond the scan is measured on the coarsest level.
    assert stored[0] <= set(touched.full) <= stored[0] | stored[max(stored)]
    assert touched.detect
    assert set(touched.detect) <= set().union(*(stored[number] for number in stored if number))
    assert touched.crops
    assert set(touched.crops) & stored[0]
    assert len(touched.both) == len({*touched.detect, *touched.crops})
    ways.run_libjpeg(touched.both)


@pytest.mark.slow
def test_the_whole_benchmark_prints_and_writes_its_figures(tmp_path: Path) -> None:
    options = ["--side-px", "2048", "--rounds", "1", "--form", "overlapping", "--density", "dense"]
    command = [sys.executable, str(BENCHMARKS / "slide.py"), *options]
    written = tmp_path / "figures.json"
    completed = subprocess.run(
        [*command, "--work", str(tmp_path / "slides"), "--json", str(written)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "bare libjpeg" in completed.stdout
    figures = json.loads(written.read_text())
    (slide,) = figures["slides"]
    assert [way["name"] for way in slide["ways"]] == ["paper", "ours", "ours, survey", "ours, embedder"]
    assert set(figures["two_at_once"]["wall_s"]) == {"paper", "ours", "ours, survey"}
