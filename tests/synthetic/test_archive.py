"""The synthetic archive: slides that open, a truth that agrees with their pixels, and its scoring."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fossilray.core.errors import ConfigError, UsageError
from fossilray.core.schemas import TRUTH_SCHEMA
from fossilray.core.types import Rect
from fossilray.slides.catalog import find_slides
from fossilray.slides.slide import open_slide
from fossilray.synthetic.archive import read_recipe, synthesise_archive
from fossilray.synthetic.assemblage import Column
from fossilray.synthetic.painters.palynomorphs import FOSSIL_KINDS, KINDS
from fossilray.synthetic.placement import CoverGlass
from fossilray.synthetic.scanner.backdrop import BLOCK_PX
from fossilray.synthetic.scene import SMALLEST_UM, Scene
from fossilray.synthetic.truth import match_boxes, score_against_truth

SIZE_PX = 2048


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    synthesise_archive(folder, slides=2, size_px=SIZE_PX, form="mrxs", seed=3)
    return folder


@cache
def small_scene() -> Scene:
    column = Column(5)
    assemblage = column.assemblage(column.samples(3)[1], slide=1, slides=3)
    return Scene(assemblage, width=1500, height=1300, um_per_px=0.25, seed=[5, 1])


def read_truth(folder: Path) -> pa.Table:
    return pq.read_table(folder / "truth.parquet")


def test_every_slide_opens_and_its_name_gives_the_truths_well_and_depth(archive: Path) -> None:
    catalog = find_slides(str(archive))
    assert not catalog.refused
    assert len(catalog.rows) == 2
    truth = read_truth(archive)
    for row in catalog.rows:
        assert (row.vendor, row.mpp) == ("mirax", 0.25)
        assert min(row.bounds_x or 0, row.bounds_y or 0) > 0, "the grid has empty margins"
        own = [one for one in truth.to_pylist() if one["slide_id"] == row.slide_id]
        assert own, "the truth uses the catalog's slide_id"
        assert {(one["well"], one["measured_depth_m"]) for one in own} == {(row.well, row.measured_depth_m)}


def test_truth_has_its_schema_and_kinds_the_painter_knows(archive: Path) -> None:
    truth = read_truth(archive)
    assert truth.schema.remove_metadata().equals(TRUTH_SCHEMA)
    for one in truth.to_pylist():
        assert one["kind"] in KINDS
        assert one["is_fossil"] == (one["kind"] in FOSSIL_KINDS)
        longest_px = max(one["x_max"] - one["x_min"], one["y_max"] - one["y_min"])
        assert longest_px * 0.25 >= SMALLEST_UM


def test_boxes_of_the_truth_hold_what_is_dark_on_the_slide(archive: Path) -> None:
    truth = read_truth(archive).to_pylist()
    for row in find_slides(str(archive)).rows:
        with open_slide(Path(row.path)) as slide:
            bounds = slide.info.bounds
            picture = slide.read(0, bounds.x_min, bounds.y_min, bounds.width, bounds.height)
            clear = np.median(picture.reshape(-1, 3), axis=0)
        changed = np.abs(picture.astype(np.float32) - clear).max(2) > 14
        boxed = np.zeros(changed.shape, bool)
        for one in truth:
            if one["slide_id"] != row.slide_id:
                continue
            left, right = one["x_min"] - bounds.x_min, one["x_max"] - bounds.x_min
            top, bottom = one["y_min"] - bounds.y_min, one["y_max"] - bounds.y_min
            assert 0 <= left < right <= bounds.width
            assert 0 <= top < bottom <= bounds.height
            # Wherever a box is, each of its sides is reached by something that can be seen.
            inside = changed[top:bottom, left:right]
            assert inside.any(), one
            rim = 12
            boxed[max(0, top - rim) : bottom + rim, max(0, left - rim) : right + rim] = True
        outside = float((changed & ~boxed).sum() / max(1, changed.sum()))
        assert outside < 0.05, f"{outside:.1%} of what can be seen bears no box"


def test_equal_seeds_give_equal_bytes_and_others_do_not(tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("again", 3), ("other", 4)):
        synthesise_archive(tmp_path / name, slides=1, size_px=1100, form="mrxs", seed=seed)
    assert digests(tmp_path / "one") == digests(tmp_path / "again")
    assert not set(digests(tmp_path / "one").values()) & set(digests(tmp_path / "other").values())


def test_tiff_archive_shows_its_truth_at_level_0(tmp_path: Path) -> None:
    truth_path = synthesise_archive(tmp_path, slides=1, size_px=1500, form="tiff", seed=1)
    (row,) = find_slides(str(tmp_path)).rows
    truth = pq.read_table(truth_path).to_pylist()
    assert {one["slide_id"] for one in truth} == {row.slide_id}
    with open_slide(Path(row.path)) as slide:
        clear = np.median(slide.read(0, 400, 400, 700, 700).reshape(-1, 3), axis=0)
        for one in truth:
            width, height = one["x_max"] - one["x_min"], one["y_max"] - one["y_min"]
            seen = slide.read(0, one["x_min"], one["y_min"], width, height)
            assert (np.abs(seen - clear).max(2) > 14).any()


def test_part_of_the_canvas_is_not_scanned() -> None:
    glass = CoverGlass(12288, 12288)
    assert not glass.meets(0, 0, 1024, 1024)
    assert glass.meets(6000, 0, 7024, 1024)
    assert glass.holds(3000, 3000, 9000, 9000)
    assert not glass.holds(0, 0, 6000, 6000)


def test_recipe_is_read_back_and_a_folder_without_truth_has_none(archive: Path, tmp_path: Path) -> None:
    recipe = read_recipe(archive)
    assert recipe is not None
    assert (recipe.slides, recipe.size_px, recipe.form, recipe.seed) == (2, SIZE_PX, "mrxs", 3)
    assert read_recipe(tmp_path) is None


@pytest.mark.parametrize("wrong", [{"slides": 0}, {"size_px": 100}, {"seed": -1}, {"form": "png"}])
def test_numbers_that_make_no_archive_are_refused(wrong: dict[str, object], tmp_path: Path) -> None:
    options: dict[str, object] = {"slides": 1, "size_px": 2048, "form": "mrxs", "seed": 1} | wrong
    with pytest.raises(ConfigError):
        synthesise_archive(tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigError, match="cannot be written"):
        synthesise_archive(tmp_path / "file" / "slides", slides=1, size_px=1100, form="mrxs", seed=1)


@settings(max_examples=40, deadline=None)
@given(
    x=st.integers(0, 1300),
    y=st.integers(0, 1100),
    width=st.integers(1, 200),
    height=st.integers(1, 200),
    forget=st.booleans(),
)
def test_a_region_shows_the_same_however_the_slide_is_cut(
    x: int, y: int, width: int, height: int, forget: bool
) -> None:
    scene = small_scene()
    whole = scene.region(0, 0, scene.width, scene.height)
    if forget:
        scene.forget()
    assert np.array_equal(scene.region(x, y, width, height), whole[y : y + height, x : x + width])


def test_blocks_meet_without_a_step() -> None:
    scene = small_scene()
    steps = np.abs(np.diff(scene.region(0, 0, scene.width, scene.height).astype(np.float32), axis=1))
    by_column = steps.mean((0, 2))
    ordinary = np.delete(by_column, [BLOCK_PX - 1, 2 * BLOCK_PX - 1])
    assert by_column[[BLOCK_PX - 1, 2 * BLOCK_PX - 1]].max() < np.quantile(ordinary, 0.99) * 1.2


@settings(max_examples=60, deadline=None)
@given(x=st.integers(0, 1400), y=st.integers(0, 1200), width=st.integers(1, 400), height=st.integers(1, 400))
def test_a_region_is_scanned_if_any_part_of_it_is(x: int, y: int, width: int, height: int) -> None:
    scene = small_scene()
    halves = (
        scene.is_scanned(x, y, width // 2, height),
        scene.is_scanned(x + width // 2, y, width - width // 2, height),
    )
    assert scene.is_scanned(x, y, width, height) == any(halves)


def test_objects_lie_where_the_scanner_went() -> None:
    scene = small_scene()
    assert scene.objects()
    for seen in scene.objects():
        box: Rect = seen.box
        assert scene.is_scanned(box.x_min, box.y_min, box.width, box.height)


def test_abundances_change_with_depth_and_wells_have_rising_depths() -> None:
    column = Column(1)
    samples = column.samples(12)
    assert len({sample.stem for sample in samples}) == 12
    by_well: dict[str, list[int]] = {}
    for sample in samples:
        by_well.setdefault(sample.well, []).append(sample.depth_m)
    assert len(by_well) == 2
    for depths in by_well.values():
        assert depths == sorted(set(depths))
    weights = np.stack(
        [column.assemblage(sample, slide=n, slides=12).weights for n, sample in enumerate(samples)]
    )
    assert np.allclose(weights.sum(1), 1)
    assert np.median(weights.max(0) / weights.min(0)) > 3


def boxes_table(slide_id: str, boxes: list[tuple[int, int, int, int]]) -> pa.Table:
    columns = dict(
        zip(("x_min", "y_min", "x_max", "y_max"), zip(*boxes, strict=True), strict=True)
        if boxes
        else ((name, ()) for name in ("x_min", "y_min", "x_max", "y_max"))
    )
    return pa.table(
        {"slide_id": pa.array([slide_id] * len(boxes), pa.string())}
        | {name: pa.array(list(values), pa.int32()) for name, values in columns.items()}
    )


def test_score_counts_each_object_once_and_slides_apart() -> None:
    truth = pa.concat_tables(
        [
            boxes_table("a", [(0, 0, 100, 100), (500, 500, 560, 560)]),
            boxes_table("b", [(0, 0, 100, 100)]),
        ]
    )
    found = pa.concat_tables(
        [
            boxes_table("a", [(0, 0, 100, 98), (0, 0, 98, 100), (900, 900, 940, 940)]),
            boxes_table("c", [(0, 0, 100, 100)]),
        ]
    )
    score = score_against_truth(found, truth, iou=0.5, mpp=0.25)
    assert (score.true, score.found, score.matched) == (3, 4, 1)
    assert score.recall == pytest.approx(1 / 3)
    assert score.precision == pytest.approx(1 / 4)
    assert score.by_size_um[20.0, 50.0].recall == pytest.approx(1 / 2)
    assert score.by_size_um[10.0, 20.0].precision == 0


def test_score_of_nothing_has_no_shares() -> None:
    empty = boxes_table("a", [])
    score = score_against_truth(empty, empty)
    assert (score.recall, score.precision) == (None, None)


def test_a_table_without_boxes_is_refused_with_the_columns_that_it_needs() -> None:
    whole = boxes_table("a", [(0, 0, 10, 10)])
    with pytest.raises(UsageError, match="no column x_max; select slide_id, x_min"):
        score_against_truth(whole.drop_columns(["x_max"]), whole)
    with pytest.raises(UsageError, match=r"shape \(1, 5\); give \(n, 4\)"):
        match_boxes(np.zeros((1, 5)), np.zeros((1, 4)), iou=0.5)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 30))
def test_boxes_match_themselves_in_any_order(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 400, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(5, 80, (count, 2))], axis=1)
    order = rng.permutation(count)
    pairs = match_boxes(boxes, boxes[order], iou=0.999)
    assert sorted(i for i, _ in pairs) == list(range(count))
    assert all(np.array_equal(boxes[i], boxes[order][j]) for i, j in pairs)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("name", ["truth.parquet", "SLIDE.mrxs", "SLIDE"])
def test_what_a_person_has_where_a_slide_would_be_painted_is_named_and_stays(
    tmp_path: Path, name: str
) -> None:
    painted = tmp_path / "painted"
    synthesise_archive(painted, slides=1, size_px=1100, form="mrxs", seed=3)
    slide = next(painted.glob("*.mrxs")).stem
    mine = tmp_path / "folder" / name.replace("SLIDE", slide)
    if name == "SLIDE":
        mine.mkdir(parents=True)
        (mine / "Data0000.dat").write_bytes(b"mine")
    else:
        mine.parent.mkdir()
        mine.write_bytes(b"mine")
    before = sorted(mine.parent.rglob("*"))
    with pytest.raises(ConfigError, match="was not painted by fossilray"):
        synthesise_archive(mine.parent, slides=1, size_px=1100, form="mrxs", seed=3)
    assert sorted(mine.parent.rglob("*")) == before
    assert {path.read_bytes() for path in before if path.is_file()} == {b"mine"}


def test_files_in_a_finished_archive_that_it_did_not_paint_stay(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    synthesise_archive(folder, slides=1, size_px=1100, form="mrxs", seed=3)
    painted = set(folder.iterdir())
    other = tmp_path / "other"
    synthesise_archive(other, slides=2, size_px=1100, form="mrxs", seed=3)
    name = min({path.name for path in other.glob("*.mrxs")} - {path.name for path in painted})
    (folder / name).write_bytes(b"mine")
    with pytest.raises(ConfigError, match="was not painted by fossilray"):
        synthesise_archive(folder, slides=2, size_px=1100, form="mrxs", seed=3)
    assert set(folder.iterdir()) == painted | {folder / name}
    assert (folder / name).read_bytes() == b"mine"
    (folder / name).unlink()
    synthesise_archive(folder, slides=2, size_px=1100, form="mrxs", seed=3)
    assert (folder / "truth.parquet").read_bytes() == (other / "truth.parquet").read_bytes()


def test_archive_whose_painting_broke_off_is_painted_again(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    synthesise_archive(folder, slides=1, size_px=1100, form="mrxs", seed=3)
    whole = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (folder / ".fossilray-archive.json").write_text(
        '{"slides": 1, "size_px": 1100, "form": "mrxs", "seed": 3}'
    )
    (folder / "truth.parquet").unlink()
    next(folder.glob("*.mrxs")).unlink()
    synthesise_archive(folder, slides=1, size_px=1100, form="mrxs", seed=3)
    assert {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == whole


def test_folder_of_a_slide_that_is_a_link_is_not_painted_into(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    synthesise_archive(folder, slides=1, size_px=1100, form="mrxs", seed=3)
    slide = next(folder.glob("*.mrxs")).with_suffix("")
    slide.rename(tmp_path / "moved")
    slide.symlink_to(tmp_path / "moved")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "moved").iterdir()}
    with pytest.raises(ConfigError, match="was not painted by fossilray"):
        synthesise_archive(folder, slides=1, size_px=1100, form="mrxs", seed=3)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "moved").iterdir()} == before
