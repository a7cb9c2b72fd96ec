"""Slides are found and named the same way by every road; catalogs survive hands and hostile names."""

from __future__ import annotations

import os
import shutil
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.grey_slides import write_grey_slide, write_grey_tiff
from support.slides_on_disk import without_findings

from fossilray.core.errors import CatalogError, UsageError
from fossilray.core.records import CatalogRow
from fossilray.core.schemas import CATALOG_SCHEMA
from fossilray.core.slide_names import check_slide_id
from fossilray.slides.catalog import (
    Catalog,
    find_slides,
    parse_name,
    read_catalog_file,
    slide_id_for,
    write_catalog,
)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archive of slides")
    write_grey_slide(root / "6407_6-5" / "6407_6-5 2030 mDC.mrxs")
    write_grey_slide(root / "34_10-A-12" / "box" / "same.mrxs")
    write_grey_slide(root / "6407_6-5" / "same.mrxs")
    write_grey_tiff(root / "plain.tif")
    write_grey_tiff(root / "no resolution.TIFF", mpp=None)
    (root / "note.mrxs").write_text("buy milk")
    (root / "empty.svs").touch()
    (root / "readme.txt").write_text("not a slide")
    orphan = root / "orphan"
    shutil.copytree(root / "6407_6-5" / "same", orphan)
    return root


def test_folder_lists_slides_with_facts_and_refuses_the_rest(archive: Path) -> None:
    found = find_slides(str(archive))
    assert {Path(row.path).name for row in found.rows} == {
        "6407_6-5 2030 mDC.mrxs",
        "same.mrxs",
        "plain.tif",
        "no resolution.TIFF",
    }
    assert len(found.rows) == len({row.slide_id for row in found.rows}) == 5
    row = next(row for row in found.rows if "2030" in row.path)
    assert (row.vendor, row.levels, row.well, row.measured_depth_m) == ("mirax", 2, "6407/6-5", 2030.0)
    assert row.mpp == pytest.approx(0.25)
    assert row.bounds_width
    assert row.width
    assert row.width > row.bounds_width >= 400
    silent = next(row for row in found.rows if row.path.endswith(".TIFF"))
    assert (silent.mpp, silent.width) == (None, 400)
    box = next(row for row in found.rows if "box" in row.path)
    assert box.well == "34/10-A-12"
    reasons = {Path(refused.path).name: refused.reason for refused in found.refused}
    assert set(reasons) == {"note.mrxs", "empty.svs", "orphan"}
    assert "0 bytes" in reasons["empty.svs"]
    assert "orphan.mrxs is missing" in reasons["orphan"]


def test_every_road_gives_the_same_ids(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_folder = find_slides(str(archive)).rows
    by_glob = find_slides(f"{archive}/**/*.*").rows
    write_catalog(Catalog(by_folder, []), tmp_path / "catalog.csv")
    write_catalog(Catalog(by_folder, []), tmp_path / "catalog.parquet")
    monkeypatch.chdir(archive.parent)
    by_relative_folder = find_slides(archive.name + "/").rows
    assert by_glob == by_relative_folder == by_folder
    for name in ("catalog.csv", "catalog.parquet"):
        assert without_findings(find_slides(str(tmp_path / name)).rows) == without_findings(by_folder)
    assert [row.slide_id for row in find_slides(f"{archive}/*.tif").rows] == ["plain.tif"]
    assert [row.slide_id for row in find_slides(str(archive / "plain.tif")).rows] == ["plain.tif"]


def test_nothing_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="nothing at"):
        find_slides(str(tmp_path / "absent"))
    assert find_slides(f"{tmp_path}/*.mrxs") == Catalog([], [])


def test_links_in_a_circle_are_walked_once(tmp_path: Path) -> None:
    write_grey_tiff(tmp_path / "a" / "one.tif")
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert len(find_slides(str(tmp_path)).rows) == 1


@pytest.mark.parametrize(
    "name",
    [
        ".hidden",
        "with space",
        "Ålesund æøå",
        'quo"te',
        "apo'strophe",
        "new\nline",
        "..dots",
        "semi;colon",
        "a,b",
    ],
)
def test_hostile_names_are_found_named_safely_and_survive_the_catalog(tmp_path: Path, name: str) -> None:
    path = write_grey_slide(tmp_path / "slides" / "plain.mrxs")
    path.rename(path.with_name(f"{name}.mrxs"))
    path.with_suffix("").rename(path.with_name(name))
    found = find_slides(str(tmp_path / "slides"))
    assert [Path(row.path).stem for row in found.rows] == [name]
    assert check_slide_id(found.rows[0].slide_id)
    write_catalog(found, tmp_path / "catalog.csv")
    assert read_catalog_file(tmp_path / "catalog.csv").rows == without_findings(found.rows)


def test_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    shutil.copy(write_grey_tiff(tmp_path / "a.tif"), os.fsencode(tmp_path) + b"/\xff.tif")
    found = find_slides(str(tmp_path))
    assert len(found.rows) == 1
    assert "UTF-8" in found.refused[0].reason
    found.refused[0].path.encode()


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=60)
HOSTILE = st.one_of(NAMES, st.text("ab._- A/", min_size=1, max_size=12))


@settings(max_examples=200, deadline=None)
@given(st.lists(HOSTILE, min_size=1, max_size=3), st.sampled_from([".mrxs", ".svs", ".svs.mrxs", ".MRXS"]))
def test_ids_are_safe_file_names_of_bounded_length(parts: list[str], suffix: str) -> None:
    path = PurePosixPath("/".join(parts).strip("/") + suffix)
    slide_id = slide_id_for(path)
    assert check_slide_id(slide_id) == slide_id
    assert slide_id.isascii()
    assert slide_id[0].isalnum()
    assert len(slide_id) <= 120
    assert not set(slide_id) & set("/\\ %*?[]'\"\n")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("ab._-A/", min_size=1, max_size=7), min_size=2, max_size=30))
def test_two_paths_never_share_an_id(names: list[str]) -> None:
    suffixes = (".mrxs", ".svs", ".svs.mrxs", ".MRXS")
    paths = {PurePosixPath(name.strip("/") + suffix) for name in names for suffix in suffixes}
    assert len({slide_id_for(path) for path in paths}) == len(paths)


def test_ids_stay_readable() -> None:
    assert slide_id_for(PurePosixPath("slide-0001.mrxs")) == "slide-0001"
    assert slide_id_for(PurePosixPath("well/A17.svs")) == "well__A17.svs"
    assert slide_id_for(PurePosixPath("6407_6-5 2030 mDC.mrxs")).startswith("6407_6-5_2030_mDC-")
    look_alike = slide_id_for(PurePosixPath("6407_6-5 2030 mDC.mrxs"))
    assert slide_id_for(PurePosixPath(f"{look_alike}.mrxs")) != look_alike


@pytest.mark.parametrize(
    ("stem", "well", "depth"),
    [
        ("6407_6-5 2030 mDC", "6407/6-5", 2030.0),
        ("NO_6407_6-5_1520.5m_SWC", "6407/6-5", 1520.5),
        ("34_10-A-12 2133,4 m DC", "34/10-A-12", 2133.4),
        ("6407-6-5", "6407/6-5", None),
        ("NO 6407_6-5 S 2030m", "6407/6-5 S", 2030.0),
        ("15_9-19 A 10000 ft", "15/9-19 A", 3048.0),
        ("211_19-6_9000feet_DC", "211/19-6", 2743.2),
        ("1_3-3-2500m", "1/3-3", 2500.0),
        ("2030 mDC", None, 2030.0),
        ("2019-06-05 scan", None, None),
        ("12-6-19", None, None),
        ("7-6-2019", None, None),
        ("6407_6-5 2030-2040 mDC", "6407/6-5", 2035.0),
        ("6407_6-5 2000 m TVD", "6407/6-5", None),
        ("6407_6-5 25 mm", "6407/6-5", None),
        ("6407_6-5 1,234.5 m", "6407/6-5", None),
        ("6407_6-5 100 m 200 m", "6407/6-5", None),
        ("slide_0001", None, None),
        ("A17", None, None),
        ("", None, None),
        ("40x 0.25um", None, None),
    ],
)
def test_names_give_well_and_depth_where_they_can(stem: str, well: str | None, depth: float | None) -> None:
    named = parse_name(stem)
    assert (named.well, named.measured_depth_m) == (well, depth)


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
ROWS = st.lists(
    st.builds(
        CatalogRow,
        slide_id=st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,20}", fullmatch=True),
        path=TEXT.map(lambda name: os.path.abspath("/archive/" + name.replace("\0", ""))),  # noqa: PTH100
        vendor=st.none() | TEXT,
        width=st.none() | st.integers(0, 10**6),
        mpp=st.none() | st.floats(0.01, 20),
        well=st.none() | TEXT.map(str.strip).filter(bool),
        measured_depth_m=st.none() | st.floats(0, 9000),
    ),
    max_size=5,
    unique_by=lambda row: row.slide_id,
)


@settings(max_examples=50, deadline=None)
@given(rows=ROWS, suffix=st.sampled_from([".csv", ".parquet"]))
def test_catalog_written_and_read_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, rows: list[CatalogRow], suffix: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"round{suffix}"
    write_catalog(Catalog(rows, []), path)
    assert read_catalog_file(path).rows == rows


def read_text(tmp_path: Path, text: str) -> list[CatalogRow]:
    path = tmp_path / "by hand.csv"
    path.write_text(text, encoding="utf-8")
    return read_catalog_file(path).rows


def test_catalog_from_a_spreadsheet_is_read(tmp_path: Path) -> None:
    (row,) = read_text(
        tmp_path, "\ufeffslide_id;path;mpp;measured_depth_m\r\na;sub/a.mrxs;0,25;2133,4\r\n;;;\r\n"
    )
    assert row == CatalogRow("a", str(tmp_path / "sub" / "a.mrxs"), mpp=0.25, measured_depth_m=2133.4)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "no column slide_id"),
        ("slide_id\na", "no column path"),
        ("slide_id,path,path\na,b,c", "'path' twice"),
        ("slide_id,path,measured_depth_m\na,b,deep", "line 2: measured_depth_m is 'deep', not a number"),
        ("slide_id,path,measured_depth_m\na,b,nan", "measured_depth_m"),
        (
            "slide_id,path,mpp\na,b,-1",
            "mpp is '-1', not between 0.01 and 20 um per pixel; correct it",
        ),
        ("slide_id,path,width\na,b,1.5", "not a whole number"),
        ("slide_id,path,Note,note\na,b,1,2", "'note' twice"),
        ("slide_id,path,\na,b,1", "a value in a column without a name"),
        ("slide_id,path\na,b\na,c", "line 3: slide_id a is in line 2 already"),
        ("slide_id,path\n../../etc/passwd,b", "line 2: slide_id"),
        ("slide_id,path\n,b", "slide_id is empty"),
        ("slide_id,path\na,b,c", "3 values for 2 columns"),
        ('slide_id,path\na,"b', "a catalog of slides"),
    ],
)
def test_faults_in_a_catalog_are_named(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(CatalogError, match=fault):
        read_text(tmp_path, text)


def test_file_that_is_no_catalog_is_told(tmp_path: Path) -> None:
    for name in ("a.csv", "a.parquet"):
        (tmp_path / name).write_bytes(b"\xff\xfe\0\0 nonsense")
        with pytest.raises(CatalogError, match="a catalog of slides"):
            find_slides(str(tmp_path / name))


def test_catalog_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="cannot write"):
        write_catalog(Catalog([], []), tmp_path / "file" / "catalog.csv")
    with pytest.raises(UsageError, match=r"c\.xls ends in none of \.csv, \.xlsx, \.ods, \.parquet"):
        write_catalog(Catalog([], []), tmp_path / "c.xls")


def test_empty_catalog_has_every_column(tmp_path: Path) -> None:
    write_catalog(Catalog([], []), tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text(encoding="utf-8-sig").strip().split(",") == [
        name for name in CATALOG_SCHEMA.names if name != "extra"
    ]
    assert read_catalog_file(tmp_path / "a.csv").rows == []


def test_folders_and_pipes_with_the_name_of_a_slide_are_refused_rows(tmp_path: Path) -> None:
    (tmp_path / "folder.svs").mkdir()
    write_grey_tiff(tmp_path / "folder.svs" / "inside.tif")
    os.mkfifo(tmp_path / "pipe.tif")
    write_grey_slide(tmp_path / "dotted.tif.mrxs")
    for target in (str(tmp_path), f"{tmp_path}/*"):
        refused = {Path(one.path).name: one.reason for one in find_slides(target).refused}
        assert refused.keys() == {"folder.svs", "pipe.tif"}
        assert "is a folder; rename it" in refused["folder.svs"]
        assert "is a pipe" in refused["pipe.tif"]
    assert {Path(row.path).name for row in find_slides(str(tmp_path)).rows} == {
        "inside.tif",
        "dotted.tif.mrxs",
    }
