"""Labels outlive a re-run: objects of another attempt or run are found by their place on the same pixels."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cli_runner import run_command
from support.small_run import MPP, WELL, commit_slide, start_run

from fossilray.core.boxes import box_iou
from fossilray.core.types import Boxes
from fossilray.labels.current import labels_of_run
from fossilray.labels.importing import import_label_round
from fossilray.labels.label_set import MATCH_IOU
from fossilray.labels.load import load_labels
from fossilray.labels.matching import match_label_boxes
from fossilray.labels.suggest.suggest import suggest_objects
from fossilray.store import RunStore, open_run
from fossilray.store.query.connection import connect, query_table

ARCHIVE = Path(__file__).parents[1] / "data" / "labels_before_occurrences.zip"
"""A run of two synthetic slides with a label set of two rounds, written by fossilray before labels had occurrences."""

CORNERS = np.array([(4000 + 500 * n, 6000 + 300 * n) for n in range(8)])
SIDES = np.array([(100 + 10 * n, 120) for n in range(8)])
BOXES = np.concatenate([CORNERS, CORNERS + SIDES], axis=1)
GENERA = ["Alnus" if n % 2 else "Betula" for n in range(8)]


def a_run(folder: Path, boxes: np.ndarray, *, slide_id: str = "a-2030", **facts: Any) -> RunStore:
    store = start_run(folder)
    facts = {"scan_id": "scan-a 20000x16000", **facts}
    given = Boxes(boxes.astype(float), np.ones(len(boxes), np.float32))
    commit_slide(store, slide_id, count=len(boxes), well=WELL, depth_m=2030.0, seed=1, boxes=given, **facts)
    return store


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Labels of all eight objects of a run."""
    store = a_run(tmp_path / "run", BOXES)
    rows = "".join(f"a-2030,{n},{genus}\n" for n, genus in enumerate(GENERA))
    (tmp_path / "t.csv").write_text(f"slide_id,object_id,genus\n{rows}")
    import_label_round(tmp_path / "t.csv", store, tmp_path / "labels", who="Ada")
    return tmp_path / "labels"


def test_a_re_run_by_another_threshold_keeps_the_labels_of_the_objects_it_finds_again(
    labels: Path, tmp_path: Path
) -> None:
    shifted = BOXES[[5, 3, 0, 1]] + [4, -3, 6, 2]
    elsewhere = np.array([[9000, 12000, 9100, 12100]])
    again = a_run(tmp_path / "again", np.concatenate([elsewhere, shifted]), mpp=MPP * 1.01)
    of_run = labels_of_run(labels, again)
    assert dict(of_run.current) == {
        ("a-2030", 1): GENERA[5],
        ("a-2030", 2): GENERA[3],
        ("a-2030", 3): GENERA[0],
        ("a-2030", 4): GENERA[1],
    }
    assert of_run.matches.reasons == {"no object of the run lies at its position": 4}
    found = load_labels(labels, run=again)
    assert found.findings.moved == 4
    assert len(found.findings.unreadable) == 4
    state = run_command("labels", "status", labels, "--run", again.url)
    assert "4 of other attempts or runs, or missed, were found by position (IoU of at least 0.5)" in state
    assert "4 have no partner in the run: no object of the run lies at its position" in state
    report = suggest_objects(again, tmp_path / "next", count=5, labels=labels)
    assert (report.labelled, report.objects) == (4, 1)


@pytest.mark.parametrize(
    ("facts", "found", "reason"),
    [
        ({"slide_id": "renamed"}, 8, None),
        ({"scan_id": "scan-b 20000x16000"}, 0, "its slide is another scan in the run"),
        ({"scan_id": None}, 8, None),
        ({"scan_id": None, "bounds_x": 2999}, 0, "its slide is another scan in the run"),
        ({"slide_id": "b-2050", "scan_id": "scan-b 20000x16000"}, 0, "its slide is not in the run"),
    ],
)
def test_a_slide_is_the_same_only_on_the_same_pixels(
    labels: Path, tmp_path: Path, facts: dict[str, Any], found: int, reason: str | None
) -> None:
    of_run = labels_of_run(labels, a_run(tmp_path / "other", BOXES, **facts))
    assert len(of_run.current) == found
    assert of_run.matches.reasons == ({} if reason is None else {reason: 8})


def test_labels_of_two_runs_on_one_object_are_compared(labels: Path, tmp_path: Path) -> None:
    again = a_run(tmp_path / "again", BOXES + 2)
    (tmp_path / "more.csv").write_text("slide_id,object_id,genus\na-2030,0,Betula\na-2030,1,Pinus\n")
    import_label_round(tmp_path / "more.csv", again, labels, who="Grace")
    of_run = labels_of_run(labels, again)
    assert len(of_run.current) == 7
    assert of_run.left_out == (("a-2030 #1", "labelled Alnus (Ada), Pinus (Grace)"),)


def test_a_missed_object_that_a_later_run_finds_gets_its_label(labels: Path, tmp_path: Path) -> None:
    run = open_run(str(tmp_path / "run")).source_run
    columns = "slide_id,object_id,taxon,x_min,y_min,x_max,y_max"
    (tmp_path / "missed.csv").write_text(f"{columns}\na-2030,,Azolla,9000,12000,9100,12100\n")
    report = import_label_round(tmp_path / "missed.csv", run, labels, who="Ada")
    assert report.without == {"the detector missed it in this run, too": 1}
    found = np.concatenate([BOXES, [[9005, 12000, 9105, 12100]]])
    assert dict(labels_of_run(labels, a_run(tmp_path / "again", found)).current)[("a-2030", 8)] == "Azolla"


boxes = st.lists(
    st.tuples(*[st.integers(0, 40)] * 2, *[st.integers(1, 20)] * 2).map(
        lambda one: (one[0], one[1], one[0] + one[2], one[1] + one[3])
    ),
    min_size=1,
    max_size=12,
).map(np.array)


@settings(max_examples=60, deadline=None)
@given(boxes, boxes)
def test_boxes_are_matched_one_to_one_and_no_better_pair_is_left(
    first: np.ndarray, second: np.ndarray
) -> None:
    partner = match_label_boxes(first, second)
    overlap = box_iou(first[:, None], second[None])
    matched = partner[partner >= 0]
    assert len(set(matched.tolist())) == len(matched)
    best = np.where(partner >= 0, overlap[np.arange(len(first)), partner], 0)
    best_of_second = np.zeros(len(second))
    best_of_second[matched] = best[partner >= 0]
    assert (best[partner >= 0] >= MATCH_IOU).all()
    better = (overlap > best[:, None]) & (overlap > best_of_second[None]) & (overlap >= MATCH_IOU)
    assert not better.any()


@pytest.fixture
def before(tmp_path: Path) -> Path:
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path / "before")
    return tmp_path / "before"


def test_an_old_label_set_gives_the_same_answers(before: Path, tmp_path: Path) -> None:
    run = open_run(str(before / "run"))
    found = load_labels(before / "labels", run=run)
    then = json.loads((before / "expected" / "labelled.json").read_text())
    assert list(found.names) == then["names"]
    assert [found.crops.classes[c] for c in found.crops.label] == then["classes"]
    assert [list(one) for one in found.findings.unreadable] == then["left_out"]
    run_command("labels", "show", before / "labels", "--out", tmp_path / "current.csv")
    assert (tmp_path / "current.csv").read_bytes() == (before / "expected" / "current.csv").read_bytes()
    suggest_objects(run, tmp_path / "next", count=4, labels=before / "labels")
    table = (tmp_path / "next" / "suggestions.csv").read_bytes()
    assert table == (before / "expected" / "suggestions.csv").read_bytes()


def test_an_old_label_set_is_brought_over_by_an_import_with_its_own_run(before: Path, tmp_path: Path) -> None:
    run = open_run(str(before / "run")).source_run
    slide_id = "6990_9-3_2085_mDC-c15416bf9096"
    sql = f"SELECT x_min, y_min, x_max, y_max FROM objects WHERE slide_id = '{slide_id}' ORDER BY object_id"
    objects = [tuple(row.values()) for row in query_table(connect(run), sql).to_pylist()]
    summary = next(one for one in run.summaries() if one.slide_id == slide_id)
    names = ("scan_id", "width", "height", "bounds_x", "bounds_y", "bounds_width", "bounds_height")
    facts = {name: getattr(summary, name) for name in names}
    again = a_run(tmp_path / "again", np.array(objects), slide_id=slide_id, **facts)
    assert not labels_of_run(before / "labels", again).current
    report = import_label_round(before / "labels", run, tmp_path / "labels", who="x")
    assert report.round is not None
    assert report.round.labels == 8
    of_run = labels_of_run(tmp_path / "labels", again)
    assert [genus for _, genus in of_run.current] == ["Betula", "Alnus", "Betula"]
    assert of_run.matches.reasons == {"its slide is not in the run": 3}
