"""A run, a dataset, an index, a label set and a head of the old layout open, resume and give the same results.

`data/before_rooms.zip` was written by the last commit before the modules moved into rooms: `synth --slides 3
--size 2048 --seed 3`; `process` of two of the slides with the classical detector and crops of 64 px; `labels import`,
`classify train`, `classify run`, `compact` and `index build` over them. `expected/` holds what its `query` and
`similar` printed, then and after `process` had also taken the third slide.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.cli_runner import run_command
from support.fault_job_commands import without_ray

ARCHIVE = Path(__file__).parents[1] / "data" / "before_rooms.zip"
MADE_AT = "/tmp/before/"
"""Where the commands ran; records and catalogs hold absolute paths."""
OBJECTS = (
    "SELECT slide_id, object_id, x_min, y_min, x_max, y_max, well, measured_depth_m, area_um2, opacity "
    "FROM objects ORDER BY 1, 2"
)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the archive holds, with its absolute paths changed to where it lies now."""
    folder = tmp_path_factory.mktemp("before")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    for path in folder.rglob("*.json"):
        if "expected" not in path.parts:
            path.write_text(path.read_text(encoding="utf-8").replace(MADE_AT, f"{folder}/"), encoding="utf-8")
    catalog = folder / "run" / "catalog.parquet"
    table = pq.read_table(catalog)
    position = table.schema.get_field_index("path")
    paths = [path.replace(MADE_AT, f"{folder}/") for path in table["path"].to_pylist()]
    pq.write_table(table.set_column(position, table.schema.field(position), pa.array(paths)), catalog)
    return folder


def expected(before: Path, name: str) -> list[dict[str, Any]]:
    rows = json.loads((before / "expected" / f"{name}.json").read_text(encoding="utf-8"))
    return [
        {key: pytest.approx(value) if type(value) is float else value for key, value in row.items()}
        for row in rows
    ]


def rows_of(*words: str | Path) -> list[dict[str, Any]]:
    return json.loads(run_command(*words, "--format", "json"))


def run_here(*words: str | Path) -> None:
    with pytest.raises(SystemExit) as ended:
        without_ray(*words)
    assert not ended.value.code


@pytest.mark.parametrize(("place", "name"), [("run", "objects"), ("dataset", "objects_of_dataset")])
def test_objects_are_the_same(before: Path, place: str, name: str) -> None:
    assert rows_of("query", before / place, OBJECTS) == expected(before, name)


def test_predictions_are_the_same_when_read_and_when_made_again(before: Path, tmp_path: Path) -> None:
    sql = "SELECT * FROM predictions WHERE head = '{}' ORDER BY slide_id, object_id"
    # Predictions of heads without taxa have no defended rank.
    then = [{**row, "taxon": None, "rank": None} for row in expected(before, "predictions")]
    assert rows_of("query", before / "run", sql.format("head")) == then
    head = tmp_path / "again.safetensors"
    head.write_bytes((before / "head.safetensors").read_bytes())
    run_here("classify", "run", before / "run", "--head", head)
    again = rows_of("query", before / "run", sql.format("again"))
    assert [{**row, "head": "head"} for row in again] == then


def test_search_finds_the_same_neighbours(before: Path) -> None:
    then = [{**row, "run": str(before / "run")} for row in expected(before, "similar")]
    query = f"{then[0]['query']}"
    assert rows_of("similar", before / "index", "--object", query, "--limit", "5") == then


def test_labels_are_read_and_added_to(before: Path) -> None:
    assert "after round 1: 11 objects with a label" in run_command("labels", "show", before / "labels")
    imported = run_command(
        "labels", "import", before / "labels.csv", "--run", before / "run", "--to", before / "labels"
    )
    assert "round 2" in imported


@pytest.mark.parametrize("place", ["run", "dataset", "index"])
def test_verify_finds_nothing_wrong(before: Path, place: str) -> None:
    assert "sound" in run_command("verify", before / place)


def test_the_run_resumes_with_the_slide_that_was_missing(before: Path) -> None:
    run_command("synth", before / "slides", "--slides", "3", "--size", "2048", "--seed", "3")
    settings = ("--set", "detector.kind=classical", "--set", "crops.size_px=64")
    run_here("process", before / "slides", "--run", before / "run", *settings)
    assert rows_of("query", before / "run", OBJECTS) == expected(before, "objects_after_resuming")
