"""Commands that read slides and write files, broken in turn."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from support.fault_points import Scenario, cli
from support.slides_on_disk import write_slide
from support.small_run import commit_slide, start_run

from fossilray.core.records import CatalogRow
from fossilray.core.types import Boxes
from fossilray.slides.slide import open_slide

WELLS = {"one": "W-1", "two": "W-2", "three": "W-3"}


def prepare_slides(inputs: Path) -> None:
    """A slide, a file that only looks like one, and a run whose objects lie on the slide."""
    path = inputs / "slides" / "one.mrxs"
    write_slide(path, size=1024)
    (inputs / "slides" / "none.tif").write_bytes(b"nothing")
    run = start_run(inputs / "of-slides")
    run.freeze_catalog([CatalogRow(name, str(path), well=well) for name, well in WELLS.items()])
    with open_slide(path, mpp=None) as slide:
        bounds, width, height = slide.info.bounds, slide.info.width, slide.info.height
    facts: dict[str, Any] = {"path": str(path), "width": width, "height": height}
    facts |= {"bounds_x": bounds.x_min, "bounds_y": bounds.y_min}
    facts |= {"bounds_width": bounds.width, "bounds_height": bounds.height}
    for number, (name, well) in enumerate(WELLS.items()):
        low = np.random.default_rng(number).uniform(100, 600, (5, 2))
        low += [bounds.x_min, bounds.y_min]
        boxes = Boxes(np.round(np.hstack([low, low + 90])), np.linspace(0.2, 0.9, 5, dtype=np.float32))
        commit_slide(run, name, count=5, well=well, depth_m=2000.0, seed=number, boxes=boxes, **facts)


def of_slides(inputs: Path) -> dict[str, Scenario]:
    """By the names of their commands."""
    slides, run = inputs / "slides", inputs / "of-slides"
    few = ("--tile-px", 256, "--background", 0.1)
    return {
        "catalog": Scenario(lambda out: cli("catalog", slides, "--out", out / "catalog.csv")),
        "synth": Scenario(
            lambda out: cli("synth", out / "made", "--slides", 1, "--size", 1024), outcome=slides_in
        ),
        "trace": Scenario(
            lambda out: cli(
                *("trace", slides / "one.mrxs", "--out", out / "trace.json"),
                *("--set", "detector.kind=classical", "--set", "embedder.weights=none"),
            ),
            outcome=lambda out: sorted(json.loads((out / "trace.json").read_text())),
        ),
        "export coco": Scenario(
            lambda out: cli("export", run, "--format", "coco", "--out", out / "coco", *few), outcome=images_in
        ),
        "export yolo": Scenario(
            lambda out: cli("export", run, "--format", "yolo", "--out", out / "yolo", *few), outcome=images_in
        ),
    }


def slides_in(out: Path) -> Any:
    """Every file but for the ids and times in text."""
    return {
        path.relative_to(out).as_posix(): path.stat().st_size for path in out.rglob("*") if path.is_file()
    }


def images_in(out: Path) -> Any:
    """Every file, without the place and the day that descriptions name."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(
            path.read_bytes().replace(str(out).encode(), b"")
        ).hexdigest()
        for path in out.rglob("*")
        if path.is_file()
    }
