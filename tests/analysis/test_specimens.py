"""Citations of specimens: links that outlive a run, positions on the glass, readings of the England Finder."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.classified_run import predict
from support.cli_runner import invoke, run_command
from support.run_fixtures import a_summary
from support.small_run import BOUNDS, MPP, commit_slide, start_run, write_small_run

from fossilray.analysis.specimens.england_finder import FINDER_ROWS, FinderGrid, parse_reading
from fossilray.analysis.specimens.link import link_to, parse_link
from fossilray.analysis.specimens.placement import TURNS, StatedPlacements, turn_point
from fossilray.core.errors import UsageError
from fossilray.core.types import Boxes
from fossilray.store import RunStore
from fossilray.store.query.connection import run_query


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    run = write_small_run(tmp_path_factory.mktemp("runs") / "run")
    predict(run, "genera")
    return run


def test_the_finder_has_75_columns_and_the_alphabet_without_i_as_its_maker_states() -> None:
    grid = FinderGrid()
    assert len(FINDER_ROWS) == 25
    assert "I" not in FINDER_ROWS
    assert str(grid.read(0.5, 24.5)) == "A1/0"
    assert str(grid.read(74.5, 0.5)) == "Z75/0"
    assert grid.read(75.01, 1) is None
    assert grid.read(1, 25.01) is None
    assert grid.read(-0.01, 1) is None


@pytest.mark.parametrize(
    ("right", "up", "segment"),
    [(-0.3, 0.3, 1), (0.3, 0.3, 2), (-0.3, -0.3, 3), (0.3, -0.3, 4), (0.1, 0.1, 0)],
)
def test_a_square_has_a_ring_and_four_segments(right: float, up: float, segment: int) -> None:
    left, bottom = FinderGrid().locate(parse_reading("K34"))
    assert str(FinderGrid().read(left + right, bottom + up)) == f"K34/{segment}"


@given(
    st.sampled_from(FINDER_ROWS),
    st.integers(1, 75),
    st.integers(0, 4),
    st.floats(-3, 3),
    st.floats(-3, 3),
)
def test_the_middle_of_every_segment_reads_as_that_segment(
    row: str, column: int, segment: int, left_mm: float, bottom_mm: float
) -> None:
    grid = FinderGrid(left_mm, bottom_mm, ring_mm=0.4)
    reading = parse_reading(f"{row}{column}/{segment}")
    assert grid.read(*grid.locate(reading)) == reading


@pytest.mark.parametrize("text", ["I12/1", "K76/1", "K0", "K34/5", "34K", "", "K34//1"])
def test_what_is_no_reading_is_refused_with_the_form_of_one(text: str) -> None:
    with pytest.raises(UsageError, match="K34/3"):
        parse_reading(text)


@given(st.text(min_size=1), st.tuples(*[st.integers(0, 10**6)] * 2), st.tuples(*[st.integers(1, 10**4)] * 2))
def test_a_link_is_read_as_it_was_written(
    scan_id: str, corner: tuple[int, int], size: tuple[int, int]
) -> None:
    box = (*corner, corner[0] + size[0], corner[1] + size[1])
    slide = replace(a_summary("a", "b"), scan_id=scan_id.encode("utf-8", "replace").decode())
    link = parse_link(str(link_to(slide, box)))
    assert link.box == box
    assert link.is_on(slide)
    assert not link.is_on(replace(slide, scan_id="another"))


@pytest.mark.parametrize("turned", TURNS)
def test_a_scan_that_is_turned_keeps_its_points_inside_and_four_turns_lead_back(turned: int) -> None:
    slide = a_summary("a", "b")
    width, height = slide.bounds_width * slide.mpp / 1000, slide.bounds_height * slide.mpp / 1000
    across, down = turn_point(slide, 0.2 * width, 0.1 * height, turned)  # type: ignore[arg-type]
    wide, high = (width, height) if turned in (0, 180) else (height, width)
    assert 0 < across < wide
    assert 0 < down < high
    # Clockwise, the top left corner goes to the top right, bottom right and bottom left.
    assert (across < wide / 2, down < high / 2) == {
        0: (True, True),
        90: (False, True),
        180: (False, False),
        270: (True, False),
    }[turned]


def test_hamamatsu_states_the_distance_of_the_centres_of_image_and_slide() -> None:
    slide = replace(a_summary("a", "b"), vendor="hamamatsu", bounds_x=0, bounds_y=0, mpp=0.25)
    slide = replace(slide, width=40000, height=20000, bounds_width=40000, bounds_height=20000)
    stated = {
        "hamamatsu.XOffsetFromSlideCentre": "4877000",
        "hamamatsu.YOffsetFromSlideCentre": "-2340000",
    }
    placement = StatedPlacements().locate(slide, stated)
    assert placement is not None
    # The middle of the image lies 4.877 mm right of and 2.34 mm above that of the glass of 76 x 26 mm.
    assert placement.on_glass(slide, 5.0, 2.5) == pytest.approx((38 + 4.877, 13 - 2.34))
    turned = StatedPlacements(turned=180).locate(slide, stated)
    assert turned is not None
    assert turned.on_glass(slide, 5.0, 2.5) == pytest.approx((38 - 4.877, 13 + 2.34))
    assert StatedPlacements().locate(slide, {"aperio.Left": "25", "aperio.Top": "23"}) is None


def test_cite_gives_millimetres_in_the_scan_and_leaves_out_what_nothing_states(
    store: RunStore, tmp_path: Path
) -> None:
    out = tmp_path / "cited.csv"
    output = run_command("cite", store.url, "a-2030:3", "--out", out)
    (row,) = run_query(store, "SELECT * FROM objects WHERE slide_id = 'a-2030' AND object_id = 3").to_pylist()
    (cited,) = _rows(out)
    assert float(cited["x_scan_mm"]) == pytest.approx(
        ((row["x_min"] + row["x_max"]) / 2 - BOUNDS.x_min) * MPP / 1000, abs=1e-4
    )
    assert cited["from_left_mm"] == cited["england_finder"] == cited["placed"] == ""
    assert "is unknown for 1 slide" in output
    assert cited["taxon_from"].startswith("prediction genera (")


def test_a_known_reading_locates_all_specimens_of_its_slide(store: RunStore, tmp_path: Path) -> None:
    placement = tmp_path / "placement.csv"
    placement.write_text("slide_id,object_id,england_finder,turned\na-2030,3,K34/3,180\n")
    out = tmp_path / "cited.csv"
    output = run_command(
        *("cite", store.url, "a-2030:3", "a-2030:4", "b-2050:1", "--placement", placement, "--out", out)
    )
    first, second, other = _rows(out)
    assert first["england_finder"] == "K34/3"
    assert other["england_finder"] == ""
    assert "from the reading K34/3 of object 3, as placement.csv states it" in first["placed"]
    # Turned by 180 degrees: what is further right in the scan is further left on the glass.
    for axis in ("left", "top"):
        column = f"from_{axis}_mm", {"left": "x_scan_mm", "top": "y_scan_mm"}[axis]
        moved, scanned = (float(second[name]) - float(first[name]) for name in column)
        assert moved == pytest.approx(-scanned, abs=2e-3)
    assert "Assumed of the England Finder" in output


def test_a_link_finds_the_specimen_in_a_run_made_again(tmp_path: Path) -> None:
    old, new = start_run(tmp_path / "old"), start_run(tmp_path / "new")
    first, second = [100, 200, 300, 420], [5000, 5000, 5100, 5100]
    scores = np.array([0.9, 0.8], np.float32)
    commit_slide(
        old,
        "a-2030",
        count=2,
        well="W",
        depth_m=1.0,
        seed=0,
        scan_id="S 1",
        boxes=Boxes(np.array([first, second], float), scores),
    )
    commit_slide(
        new,
        "renamed",
        count=2,
        well="W",
        depth_m=1.0,
        seed=0,
        scan_id="S 1",
        boxes=Boxes(np.array([second, [104, 205, 300, 424]], float), scores),
    )
    run_command("cite", old.url, "a-2030:0", "--out", tmp_path / "old.csv")
    link = _rows(tmp_path / "old.csv")[0]["link"]
    assert link == "fossilray:scan/S%201#xywh=100,200,200,220"
    run_command("cite", new.url, link, "--out", tmp_path / "new.csv")
    assert [(row["slide_id"], row["object_id"]) for row in _rows(tmp_path / "new.csv")] == [("renamed", "1")]
    missing = invoke("cite", new.url, link.replace("100,200", "900,900"))
    assert missing.exit_code != 0
    assert "overlaps the box" in str(missing.exception)
    again = tmp_path / "again.csv"
    run_command("cite", new.url, "--specimens", tmp_path / "old.csv", "--out", again)
    assert _rows(again)[0]["object_id"] == "1"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a-2030:3", "a-2030:3"], "named 2 times"),
        (["a-2030:999"], "does not hold the object a-2030:999"),
        (["nowhere:1"], "does not hold the object nowhere:1"),
        (["a-2030"], "is not SLIDE:ID"),
        ([], "in one way"),
        (["a-2030:3", "--where", "true"], "in one way"),
        (["--where", "false"], "no object"),
        (["fossilray:scan/x#xywh=1,2,3,4"], "no slide that is the scan"),
        (["fossilray:scan/x"], "is no link"),
        (["a-2030:3", "--out", "cited.txt"], "is no .csv"),
    ],
)
def test_what_is_not_there_is_named(store: RunStore, words: list[str], message: str) -> None:
    result = invoke("cite", store.url, *words)
    assert result.exit_code != 0
    assert message in str(result.exception)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("slide_id,left_mm,top_mm\na,1,\n", "give either left_mm and top_mm"),
        ("slide_id,left_mm,top_mm,object_id,england_finder\na,1,2,3,K34\n", "give either"),
        ("slide_id,left_mm,top_mm\na,1,2\na,1,2\n", "has a line already"),
        ("slide_id,left_mm,top_mm,turned\na,1,2,45\n", "give 0, 90, 180 or 270"),
        ("slide_id,object_id,england_finder\na,3,I34\n", "no reading"),
    ],
)
def test_a_table_of_positions_that_contradicts_itself_is_refused_by_its_line(
    store: RunStore, tmp_path: Path, table: str, message: str
) -> None:
    (tmp_path / "placement.csv").write_text(table)
    result = invoke("cite", store.url, "a-2030:3", "--placement", tmp_path / "placement.csv")
    assert message in str(result.exception)
    assert "line" in str(result.exception)


def _rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
