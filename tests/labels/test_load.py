"""Labels from folders and tables: which crops are read, left out with a reason, or kept together by a split."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from sklearn.model_selection import train_test_split
from support.irregular_files import irregular
from support.labelled_folders import picture, write_folder
from support.small_run import CROP_PX, commit_slide

from fossilray.core.config import CropsConfig, RunConfig
from fossilray.core.errors import StoreError, UsageError
from fossilray.labels.label_set import LabelSet
from fossilray.labels.load import load_labels
from fossilray.labels.near_duplicates import group_duplicates
from fossilray.labels.sources import parse_labels
from fossilray.models.heads.splits import stratified_split
from fossilray.store import RunStore
from fossilray.store.run.run_record import describe_run


def test_a_folder_of_classes_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    found = load_labels(write_folder(tmp_path, {"b": 2, "a": 3}))
    assert found.crops.classes == ("a", "b")
    assert found.crops.label.tolist() == [0, 0, 0, 1, 1]
    assert found.names == ("a/0.png", "a/1.png", "a/2.png", "b/0.png", "b/1.png")
    assert found.crops.pixels.shape == (5, 224, 224, 3)
    assert found.crops.shape.tolist() == [[1.0, 0.75]] * 5
    assert found.findings.unreadable == ()
    assert found.findings.duplicates == ()
    assert found.vectors is None


def test_unreadable_images_are_left_out_with_the_reason(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"a": 2, "b": 2})
    (folder / "a" / "broken.jpg").write_bytes(b"\xff\xd8\xff but no more")
    (folder / "a" / "empty.png").write_bytes(b"")
    (folder / "a" / "notes.txt").write_text("not an image")
    (folder / "a" / "._0.png").write_bytes(b"what macOS leaves beside files")
    found = load_labels(folder)
    assert len(found) == 4
    assert [name for name, _ in found.findings.unreadable] == ["a/broken.jpg", "a/empty.png"]
    assert "it is not in a known image format" in found.findings.unreadable[0][1]


def test_a_name_in_two_spellings_of_unicode_is_one_class(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"Søkø ‹é›": 1, "Ωmega": 2})
    other = folder / unicodedata.normalize("NFD", "Søkø ‹é›")
    other.mkdir(exist_ok=True)
    Pillow.fromarray(picture(99)).save(other / "from a mac.png")
    found = load_labels(folder)
    assert found.crops.classes == ("Søkø ‹é›", "Ωmega")
    assert np.bincount(found.crops.label).tolist() == [2, 2]


def test_a_table_of_files_is_read_from_its_own_folder(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"x": 2, "y": 2})
    table = tmp_path / "labels.csv"
    table.write_text(
        "\ufeffpath;genus\r\nx/0.png;Azolla\r\nx/1.png; Azolla \r\ny/0.png;Åse\r\ny/1.png;\r\ngone.png;Åse\r\n",
        encoding="utf-8",
    )
    assert folder == tmp_path
    found = load_labels(table)
    assert found.crops.classes == ("Azolla", "Åse")
    assert found.crops.label.tolist() == [0, 0, 1]
    assert found.findings.unlabelled == 1
    assert found.findings.unreadable == (("gone.png", "No such file or directory"),)
    assert found.findings.singletons == ("Åse",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,genus\na,b\n", "expected path and genus"),
        ("", "columns none"),
        ("path,genus\na.png,x\na.png,y\n", "labels 1 rows more than once, the first a.png"),
        ("slide_id,object_id,genus\na,1,x\n", "name it with --run"),
    ],
)
def test_an_invalid_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "labels.csv"
    table.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_labels(table)
    table.write_bytes("path,genus\nå.png,ø\n".encode("latin-1"))
    with pytest.raises(UsageError, match=r"å\.png"):
        load_labels(table)


def test_labels_that_leave_one_class_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="crops of one class"):
        load_labels(write_folder(tmp_path / "one", {"a": 2}))
    with pytest.raises(UsageError, match="holds no <class>/<image>"):
        load_labels(tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        load_labels(tmp_path / "absent")


def test_a_table_of_objects_brings_the_crops_and_vectors_of_the_run(tmp_path: Path) -> None:
    store = RunStore.open(str(tmp_path / "run"))
    store.create_or_check(
        describe_run(
            RunConfig(crops=CropsConfig(size_px=CROP_PX)), {"embedder/backbone.safetensors": "cd" * 32}
        )
    )
    for number, slide_id in enumerate(("one", "two")):
        commit_slide(store, slide_id, count=5, well="w", depth_m=None, seed=number)
    table = tmp_path / "labels.csv"
    table.write_text("slide_id,object_id,genus\ntwo,3,b\none,0,a\none,4,b\none,77,a\nnone,0,a\n")
    found = load_labels(table, run=store)
    assert found.names == ("two #3", "one #0", "one #4")
    assert [found.crops.classes[c] for c in found.crops.label] == ["b", "a", "b"]
    assert found.crops.pixels.shape == (3, CROP_PX, CROP_PX, 3)
    assert found.vectors is not None
    assert found.vectors.shape == (3, 12)
    assert found.backbone_sha256 == "cd" * 32
    assert [name for name, _ in found.findings.unreadable] == ["one #77", "none #0"]
    table.write_text("slide_id,object_id,genus\ntwo,x,b\n")
    with pytest.raises(UsageError, match="object_id is 'x', not a whole number"):
        load_labels(table, run=store)


def test_a_picture_saved_again_rotated_or_brightened_is_the_same_picture(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"a": 6, "b": 6})
    first = Pillow.open(folder / "a" / "0.png")
    first.save(folder / "b" / "again.jpg", quality=60)
    first.resize((60, 45)).save(folder / "b" / "small.png")
    first.transpose(Pillow.Transpose.ROTATE_90).save(folder / "a" / "turned.png")
    first.transpose(Pillow.Transpose.FLIP_LEFT_RIGHT).point(lambda v: int(v * 0.8)).save(
        folder / "a" / "dark.png"
    )
    (folder / "b" / "copy.png").write_bytes((folder / "b" / "1.png").read_bytes())
    findings = load_labels(folder).findings
    assert [set(group) for group in findings.duplicates] == [
        {"a/0.png", "a/dark.png", "a/turned.png", "b/again.jpg", "b/small.png"},
        {"b/1.png", "b/copy.png"},
    ]
    assert findings.conflicts == (
        ("a/0.png (a)", "a/dark.png (a)", "a/turned.png (a)", "b/again.jpg (b)", "b/small.png (b)"),
    )


def test_different_pictures_are_different() -> None:
    pixels = np.stack([picture(seed, (64, 64)) for seed in range(60)])
    assert group_duplicates(pixels, [str(i) for i in range(60)]).tolist() == list(range(60))
    same = np.full((3, 64, 64, 3), 200, np.uint8)
    same[1] = pixels[0]
    assert group_duplicates(same, ["x", "y", "x"]).tolist() == [0, 1, 0]


def test_without_duplicates_a_split_is_scikit_learns_of_the_same_seed() -> None:
    label = np.repeat(np.arange(4), (20, 10, 30, 5))
    train, test = train_test_split(np.arange(65), test_size=0.2, stratify=label, random_state=7)
    found = stratified_split(label, np.arange(65), seed=7)
    assert found.train.tolist() == train.tolist()
    assert found.test.tolist() == test.tolist()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 25), min_size=2, max_size=6).filter(
        lambda counts: sum(c > 4 for c in counts) >= 2
    ),
    st.integers(0, 100),
)
def test_no_picture_lies_on_both_sides_and_every_crop_on_one(counts: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(len(counts)), counts)
    group = rng.integers(0, len(label), len(label))
    try:
        split = stratified_split(label, group, seed=seed)
    except UsageError:  # too few crops to evaluate every class
        return
    assert sorted([*split.train, *split.test]) == list(range(len(label)))
    assert not set(group[split.train]) & set(group[split.test])
    assert len(split.test)
    single = np.flatnonzero(np.bincount(label[np.unique(group, return_index=True)[1]]) == 1)
    first = np.unique(group, return_index=True)[1]
    assert not np.isin(label[np.intersect1d(split.test, first)], single).any()


@irregular
def test_tables_images_and_label_sets_that_are_no_regular_files_are_refused_at_once(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    reason = r"it is a (pipe|device|socket|folder), not a regular file"
    crops = tmp_path / "crops"
    for genus in ("Alnus", "Betula"):
        (crops / genus).mkdir(parents=True)
        Pillow.fromarray(picture(len(genus))).save(crops / genus / "whole.png")
    make(crops / "Alnus" / "odd.png")
    assert [name for name, _ in load_labels(crops).findings.unreadable] == ["Alnus/odd.png"]
    if make is Path.mkdir:
        return  # a folder in place of a table is read as a folder of images
    for name in ("labels.csv", "project.xml"):
        make(tmp_path / name)
        for read in (load_labels, parse_labels):
            with pytest.raises(UsageError, match=reason):
                read(tmp_path / name)
    label_set = tmp_path / "set"
    label_set.mkdir()
    make(label_set / "labels.json")
    with pytest.raises(StoreError, match=reason):
        LabelSet.open(label_set)
    (label_set / "labels.json").unlink()
    LabelSet.open_or_create(label_set)
    (label_set / "rounds").mkdir(exist_ok=True)
    make(label_set / "rounds" / "00001.parquet")
    with pytest.raises(StoreError, match=reason):
        LabelSet.open(label_set).labels()
