"""Crops of runs, datasets and folders in one table: which there are, and their pixels."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from support.run_fixtures import a_run, commit
from support.s3_bucket import s3_endpoint, s3_run  # noqa: F401 (fixtures)
from support.small_run import COUNTS, CROP_PX, HOSTILE_WELL, WELL, commit_slide, write_small_run

from fossilray.core.config import CropsConfig, RunConfig, StoreConfig
from fossilray.core.errors import QueryError, RunNotFound, StoreError, UsageError
from fossilray.core.images import read_image, resize_to
from fossilray.store import RunStore
from fossilray.store.arrays.crops import read_encoded_crops
from fossilray.store.arrays.group import open_array_group
from fossilray.store.arrays.sharding import SHARD_ROWS, index_size
from fossilray.store.dataset.compact import compact_run
from fossilray.store.files.local import LocalFiles
from fossilray.training.crops.rows import SLIDES_PER_QUERY
from fossilray.training.crops.stream import CropStream
from fossilray.training.crops.table import CropTable, open_crops

MANY = 2100
"""Objects of a slide whose crops fill more than one shard."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    store = write_small_run(tmp_path_factory.mktemp("runs") / "run [1]* it's 50%")
    commit_slide(store, "g-number", count=9, well="34", depth_m=3000.0, seed=7)
    commit_slide(store, "h-hostile", count=7, well=HOSTILE_WELL, depth_m=None, seed=8)
    commit_slide(store, "m-many", count=MANY, well="7/11-1", depth_m=None, seed=9)
    return store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_images(tmp_path / "labelled", {"azolla": 6, "Ænigma 一": 4})


def write_images(folder: Path, classes: dict[str, int]) -> Path:
    rng = np.random.default_rng(0)
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            size = (int(rng.integers(20, 60)), int(rng.integers(20, 60)))
            pixels = Pillow.fromarray(rng.integers(0, 255, (4, 4, 3), np.uint8)).resize(size)
            pixels.save(folder / name / f"{number}.png")
    return folder


def test_a_run_its_dataset_and_its_copy_in_s3_are_the_same_crops(
    run: RunStore,
    tmp_path: Path,
    s3_run: tuple[str, StoreConfig],  # noqa: F811
) -> None:
    url, access = s3_run
    write_small_run(url, config=access)
    compact_run(run, str(tmp_path / "dataset"), access=StoreConfig())
    ours, theirs = open_crops([run.url]), open_crops([str(tmp_path / "dataset")])
    assert theirs.rows.equals(ours.rows)
    chosen = np.array([5, 2150, 80, 5, 2149])
    assert np.array_equal(theirs.fetch(chosen).pixels, ours.fetch(chosen).pixels)
    small = open_crops([run.url], where=f"slide_id IN {tuple(COUNTS)}")
    remote = open_crops([url], access=access)
    assert remote.rows.to_pylist() == small.rows.to_pylist()
    assert np.array_equal(remote.fetch(np.arange(77)).pixels, small.fetch(np.arange(77)).pixels)
    batches = CropStream(remote, batch=16, seed=0, side_px=CROP_PX, buffer=32).epoch(0)
    for one in batches:
        assert np.array_equal(one.pixels, small.fetch(one.row).pixels)


def test_rows_say_whose_each_crop_is(run: RunStore) -> None:
    rows = open_crops([run.url]).rows
    assert rows.num_rows == sum(COUNTS.values()) + 9 + 7 + MANY
    assert [field.name for field in rows.schema] == [
        "source",
        "slide_id",
        "object_id",
        "group",
        "label",
        "weight",
    ]
    by_slide = {row["slide_id"]: row for row in rows.to_pylist()}
    assert by_slide["h-hostile"]["group"] == HOSTILE_WELL
    assert by_slide["g-number"]["group"] == "34"
    assert by_slide["m-many"] == {
        "source": 0,
        "slide_id": "m-many",
        "object_id": MANY - 1,
        "group": "7/11-1",
        "label": None,
        "weight": 1.0,
    }


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, MANY - 1), min_size=1, max_size=60))
def test_any_crops_of_a_slide_are_those_that_zarr_reads(run: RunStore, wanted: list[int]) -> None:
    table = open_crops([run.url], where="slide_id = 'm-many'")
    footer = run.footer("m-many")
    assert footer is not None
    expected = open_array_group(run, footer.arrays.path)["crops"].oindex[np.array(wanted)]
    found = table.fetch(np.array(wanted), threads=2)
    assert np.array_equal(found.pixels, expected)
    assert not found.failed.any()


def test_a_few_crops_of_a_shard_are_read_by_range(run: RunStore) -> None:
    files = CountingFiles(Path(run.root), single_writer=False)
    footer = run.footer("m-many")
    assert footer is not None
    crops = read_encoded_crops(RunStore(files), footer.arrays.path, [2000, 4, 3])
    shard_bytes = footer.arrays.bytes["crops/c/0/0/0/0"]
    assert files.bytes_read == sum(map(len, crops)) + index_size(SHARD_ROWS) < 0.1 * shard_bytes


class CountingFiles(LocalFiles):
    """Files of a disk that count what is read of them."""

    bytes_read = 0

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        found = super().read_ranges(path, ranges)
        self.bytes_read += sum(map(len, found))
        return found

    def read_tail(self, path: str, size: int) -> bytes:
        self.bytes_read += size
        return super().read_tail(path, size)


def test_true_proportions_come_from_the_box(run: RunStore) -> None:
    table = open_crops([run.url], where="slide_id = 'a-2030'")
    objects = pq.read_table(f"{run.root}/{run.committed_files()['a-2030']}")
    sides = np.stack([objects["width_um"].to_numpy(), objects["height_um"].to_numpy()], axis=1)
    shape = table.fetch(np.arange(40), side_px=8).shape
    assert np.allclose(shape, sides / sides.max(axis=1, keepdims=True), rtol=2e-3)


def test_letterboxed_crops_are_square_as_they_are(tmp_path: Path) -> None:
    store = RunStore.open(str(tmp_path / "run"))
    store.create_or_check(a_run(RunConfig(crops=CropsConfig(size_px=16, fit="letterbox"))))
    commit(store, "a", arrays=True)
    assert (open_crops([store.url]).fetch(np.arange(2)).shape == 1).all()


def test_smaller_crops_look_like_larger_ones_reduced(run: RunStore) -> None:
    table = open_crops([run.url], where="slide_id = 'b-2050'")
    whole = table.fetch(np.arange(25)).pixels
    for side_px in (8, 16, 24, 48):
        reduced = table.fetch(np.arange(25), side_px=side_px).pixels
        expected = [
            np.asarray(Pillow.fromarray(one).resize((side_px, side_px), Pillow.Resampling.BICUBIC))
            for one in whole
        ]
        # Edges of a painted disc of 32 px at an eighth of its size are all there is to differ in.
        assert np.abs(reduced.astype(int) - np.stack(expected)).mean() < 5


def test_a_condition_chooses_objects(run: RunStore) -> None:
    table = open_crops([run.url], where="isolated AND sharpness > 60 -- the sharpest")
    everything = open_crops([run.url])
    assert 0 < len(table) < len(everything)
    half = open_crops([run.url], where="objects.sharpness > (SELECT median(sharpness) FROM objects)")
    assert len(half) == (sum(COUNTS.values()) + 16 + MANY) // 2


def test_a_condition_on_all_objects_is_evaluated_over_all_slides(tmp_path: Path) -> None:
    store = RunStore.open(str(tmp_path / "run"))
    store.create_or_check(a_run(RunConfig(crops=CropsConfig(size_px=16))))
    count = SLIDES_PER_QUERY + 6
    for number in range(count):
        commit(store, f"s{number:03}", well=f"w{number % 3}", objects=1 + number % 2)
    table = open_crops([store.url])
    assert len(table) == count + count // 2
    assert len(table.units.name) == count
    everywhere = open_crops([store.url], where="slide_id = (SELECT max(slide_id) FROM objects)")
    assert set(everywhere.rows["slide_id"].to_pylist()) == {f"s{count - 1:03}"}


def test_objects_without_pixels_are_left_out_and_counted(tmp_path: Path) -> None:
    store = write_small_run(tmp_path / "run")
    path = Path(store.root) / store.committed_files()["b-2050"]
    table = pq.read_table(path)
    opacity = pa.array([None if i in (3, 4) else 0.1 for i in range(25)], pa.float32())
    lost = table.set_column(table.schema.get_field_index("opacity"), table.schema.field("opacity"), opacity)
    pq.write_table(lost, path)
    crops = open_crops([store.url], where="slide_id = 'b-2050'")
    assert crops.without_pixels == 2
    assert crops.object_id.tolist() == [i for i in range(25) if i not in (3, 4)]


def test_a_curation_keeps_and_weighs_crops(run: RunStore, tmp_path: Path) -> None:
    curation = tmp_path / "it's [curated].parquet"
    write_curation(
        curation,
        [
            ("a-2030", 3, True, 2.0),
            ("a-2030", 4, False, 1.0),
            ("h-hostile", 0, True, 0.5),
            ("gone", 0, True, 1.0),
        ],
    )
    table = open_crops([run.url], curation=str(curation))
    kept = [(row["slide_id"], row["object_id"], row["weight"]) for row in table.rows.to_pylist()]
    assert sorted(kept) == [("a-2030", 3, 2.0), ("h-hostile", 0, 0.5)]
    assert len(open_crops([run.url], curation=str(curation), where="slide_id LIKE 'a%'")) == 1


def test_a_curation_in_s3_serves_a_run_there(s3_run: tuple[str, StoreConfig], tmp_path: Path) -> None:  # noqa: F811
    url, access = s3_run
    store = write_small_run(url, config=access)
    write_curation(tmp_path / "local.parquet", [("a-2030", 3, True, 2.0)])
    store.files.write("curation.parquet", (tmp_path / "local.parquet").read_bytes())
    assert len(open_crops([url], curation=f"{url}/curation.parquet", access=access)) == 1
    local = write_small_run(tmp_path / "run")
    assert len(open_crops([local.url], curation=f"{url}/curation.parquet", access=access)) == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a-2030", 3, True, 1.0), ("a-2030", 3, True, 1.0)], "names 1 crops more than once"),
        ([("a-2030", 3, True, -1.0)], "negative or not finite"),
        ([("a-2030", 3, True, float("nan"))], "negative or not finite"),
        ([("a-2030", 3, False, 1.0)], "contain no crops that .* keeps"),
    ],
)
def test_a_curation_that_makes_no_sense_is_refused(
    run: RunStore, tmp_path: Path, rows: list[tuple[str, int, bool, float]], message: str
) -> None:
    write_curation(tmp_path / "curation.parquet", rows)
    with pytest.raises(UsageError, match=message):
        open_crops([run.url], curation=str(tmp_path / "curation.parquet"))


def write_curation(path: Path, rows: list[tuple[str, int, bool, float]]) -> None:
    slide_id, object_id, keep, weight = zip(*rows, strict=True)
    columns = {
        "slide_id": pa.array(slide_id),
        "object_id": pa.array(object_id, pa.int32()),
        "cluster": pa.array([0] * len(rows), pa.int32()),
        "keep": pa.array(keep),
        "weight": pa.array(weight, pa.float32()),
    }
    pq.write_table(pa.table(columns), path)


def test_images_of_a_folder_are_labelled_by_their_class(folder: Path) -> None:
    table = open_crops([str(folder)])
    paths = sorted(path for path in folder.glob("*/*") if path.suffix == ".png")
    images = [read_image(path, name=str(path)) for path in paths]
    found = table.fetch(np.arange(10), side_px=24)
    assert table.classes == ("azolla", "Ænigma 一")
    assert [table.classes[label] for label in table.label] == [path.parent.name for path in paths]
    assert np.array_equal(found.pixels, [resize_to(image, size_px=24) for image in images])
    sides = np.array([(image.shape[1], image.shape[0]) for image in images])
    assert np.allclose(found.shape, sides / sides.max(axis=1, keepdims=True))
    assert table.rows["group"].to_pylist() == ["labelled"] * 10
    assert table.rows["label"].to_pylist()[:1] == ["azolla"]
    with pytest.raises(UsageError, match="several sizes"):
        table.fetch(np.arange(2))


def test_runs_and_folders_go_together(run: RunStore, folder: Path) -> None:
    table = open_crops([str(folder), run.url], where="slide_id = 'a-2030'")
    assert len(table) == 50
    assert (table.label[10:] == -1).all()
    assert table.rows["label"].null_count == 40
    batches = list(CropStream(table, batch=25, seed=0, side_px=16, buffer=25).epoch(0))
    for one in batches:
        assert np.array_equal(one.label, table.label[one.row])
        assert np.array_equal(one.pixels, table.fetch(one.row, side_px=16).pixels)
        assert np.allclose(one.shape, table.fetch(one.row, side_px=16).shape)


def test_an_image_that_does_not_decode_is_marked(folder: Path) -> None:
    (folder / "azolla" / "2.png").write_bytes(b"no image")
    found = open_crops([str(folder)]).fetch(np.arange(10), side_px=16)
    assert np.flatnonzero(found.failed).tolist() == [2]
    assert "it is not in a known image format" in str(found.faults[0])
    assert (found.pixels[2] == 128).all()


@pytest.mark.parametrize("lost", ["crop", "index", "file"])
def test_damaged_arrays_mark_their_crops_and_no_others(tmp_path: Path, lost: str) -> None:
    store = write_small_run(tmp_path / "run")
    footer = store.footer("b-2050")
    assert footer is not None
    shard = Path(store.root) / footer.arrays.path / "crops/c/0/0/0/0"
    content = bytearray(shard.read_bytes())
    if lost == "file":
        shard.unlink()
    else:
        content[5 if lost == "crop" else -9] ^= 255
        shard.write_bytes(content)
    table = open_crops([store.url])
    failed = np.flatnonzero(table.fetch(np.arange(77)).failed)
    assert failed.tolist() == ([40] if lost == "crop" else list(range(40, 65)))


def test_a_forged_path_of_arrays_is_not_followed(run: RunStore) -> None:
    with pytest.raises(StoreError, match="damaged or forged"):
        read_encoded_crops(run, "arrays/../../etc/x.zarr", [0])


def test_wells_are_split_whole(run: RunStore) -> None:
    table = open_crops([run.url], where="slide_id <> 'm-many'")
    train, validation = table.split_groups(0.2, seed=1)
    wells = [set(part.rows["group"].to_pylist()) for part in (train, validation)]
    assert not wells[0] & wells[1]
    assert wells[0] | wells[1] == {WELL, HOSTILE_WELL, "34"}
    assert len(train) + len(validation) == len(table)
    again = table.split_groups(0.2, seed=1)[1]
    assert again.rows.equals(validation.rows)


def test_a_single_well_is_split_by_slides_and_a_single_slide_not_at_all(run: RunStore) -> None:
    table = open_crops([run.url], where=f"well = '{WELL}'")
    train, validation = table.split_groups(0.3, seed=0)
    assert not set(train.unit.tolist()) & set(validation.unit.tolist())
    assert len(train) > len(validation) > 0
    with pytest.raises(UsageError, match="all crops are of one slide"):
        open_crops([run.url], where="slide_id = 'a-2030'").split_groups(0.3, seed=0)


def test_a_folder_is_split_by_class(tmp_path: Path) -> None:
    table = open_crops([str(write_images(tmp_path / "x", {"a": 20, "b": 5, "single": 1}))])
    train, validation = table.split_groups(0.2, seed=0)
    assert np.bincount(validation.label, minlength=3).tolist() == [4, 1, 0]
    assert np.bincount(train.label, minlength=3).tolist() == [16, 4, 1]


def test_labels_may_be_given(run: RunStore) -> None:
    table = open_crops([run.url], where="slide_id = 'c-2080'")
    label = np.arange(12) % 3 - 1
    labelled = table.with_labels(label, ["a", "b"])
    assert labelled.rows["label"].to_pylist()[:4] == [None, "a", "b", None]
    assert labelled.take([2, 1]).label.tolist() == [1, 0]


def test_state_is_small_and_travels(run: RunStore) -> None:
    table = open_crops([run.url])
    per_row = [array.nbytes for array in (table.unit, table.object_id, table.log_aspect)]
    assert sum(per_row) / len(table) == 10
    moved: CropTable = pickle.loads(pickle.dumps(table))
    assert np.array_equal(moved.fetch(np.array([7, 99])).pixels, table.fetch(np.array([7, 99])).pixels)


def test_sources_that_cannot_be_are_refused(run: RunStore, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no crops were named"):
        open_crops([])
    with pytest.raises(UsageError, match="neither a run nor a compacted dataset"):
        open_crops([str(tmp_path / "nowhere")])
    with pytest.raises(UsageError, match="no source is a run"):
        open_crops([str(folder)], where="isolated")
    with pytest.raises(UsageError, match="contain no crops that meet"):
        open_crops([run.url], where="score > 2")
    with pytest.raises(QueryError, match="colour"):
        open_crops([run.url], where="colour > 2")
    with pytest.raises(QueryError, match="not readable as Parquet"):
        open_crops([run.url], curation=str(folder / "azolla" / "0.png"))
    with pytest.raises(RunNotFound):
        open_crops([str(unfinished(tmp_path))])


def unfinished(folder: Path) -> Path:
    (folder / "half").mkdir()
    (folder / "half" / "compacting.json").write_text("{}")
    return folder / "half"
