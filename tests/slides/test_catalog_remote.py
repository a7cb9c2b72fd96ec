"""Slides in an object store are found, named and refused as they are on a disk, at the price of few requests."""

# ruff: noqa: F811 (fixtures are imported by the name they are asked for)

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from support.grey_slides import write_grey_slide, write_grey_tiff
from support.remote_slides import counted, put, upload
from support.s3_bucket import s3_endpoint, s3_run  # noqa: F401 (fixtures)
from support.slides_on_disk import without_findings

from fossilray.core.config import AccessConfig, SlidesConfig, StoreConfig
from fossilray.core.errors import CatalogError
from fossilray.core.records import CatalogRow
from fossilray.core.slide_names import check_slide_id
from fossilray.slides.catalog import Catalog, find_slides, read_catalog_file, write_catalog
from fossilray.slides.remote.staging import Stager
from fossilray.slides.slide import open_slide

S3 = tuple[str, StoreConfig]
KNOWN_LATER = ("bounds_x", "bounds_y", "bounds_width", "bounds_height")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("slides")
    write_grey_slide(root / "6407_6-5" / "6407_6-5 2030 mDC.mrxs")
    write_grey_slide(root / "6407_6-5" / "same.mrxs")
    write_grey_slide(root / "34_10-A-12" / "box" / "same.mrxs")
    write_grey_tiff(root / "plain.tif")
    write_grey_tiff(root / "no resolution.TIFF", mpp=None)
    write_grey_tiff(root / "6407_6-5" / "same" / "part of a slide.tif")
    for broken in ("no slidedat", "no index", "empty data", "damaged", "leads out", "alone"):
        write_grey_slide(root / "broken" / f"{broken}.mrxs")
    (root / "broken" / "no slidedat" / "Slidedat.ini").unlink()
    (root / "broken" / "no index" / "Index.dat").unlink()
    (root / "broken" / "empty data" / "Data0000.dat").write_bytes(b"")
    (root / "broken" / "damaged" / "Slidedat.ini").write_text("nothing of the kind")
    slidedat = root / "broken" / "leads out" / "Slidedat.ini"
    slidedat.write_bytes(slidedat.read_bytes().replace(b"Data0000.dat", b"../../../etc/passwd"))
    shutil.rmtree(root / "broken" / "alone")
    (root / "note.mrxs").write_text("buy milk")
    (root / "note.svs").write_text("buy milk")
    (root / "empty.svs").touch()
    (root / "readme.txt").write_text("not a slide")
    shutil.copytree(root / "6407_6-5" / "same", root / "orphan")
    return root


def without_bounds(rows: list[CatalogRow], root: str) -> list[CatalogRow]:
    """Rows as they compare: paths below the root, nothing that only pixels or OpenSlide tell, no bounds of MIRAX."""
    return [
        replace(
            row,
            path=row.path.removeprefix(root),
            **dict.fromkeys(("planes", "scan_id", "doubts")),
            **(dict.fromkeys(KNOWN_LATER) if row.vendor == "mirax" else {}),
        )
        for row in rows
    ]


def test_folder_in_s3_lists_what_the_same_folder_on_a_disk_lists(archive: Path, s3_run: S3) -> None:
    url, config = s3_run
    upload(archive, url, config)
    here, there = find_slides(str(archive)), find_slides(url, access=config)
    assert len(here.rows) == 6
    assert without_bounds(there.rows, url) == without_bounds(here.rows, str(archive))
    assert [(one.slide_id, one.path.removeprefix(url), one.reason) for one in there.refused] == [
        (one.slide_id, one.path.removeprefix(str(archive)), one.reason) for one in here.refused
    ]
    assert len(there.refused) == 10
    assert find_slides(f"{url}/", access=config) == there


def test_every_road_in_s3_gives_the_same_ids(archive: Path, s3_run: S3, tmp_path: Path) -> None:
    url, config = s3_run
    upload(archive, url, config)
    folder = find_slides(url, access=config)
    write_catalog(folder, tmp_path / "catalog.csv")
    write_catalog(folder, tmp_path / "catalog.parquet")
    listed = without_findings(folder.rows)
    assert read_catalog_file(tmp_path / "catalog.csv").rows == listed
    for name in ("catalog.csv", "catalog.parquet"):
        put(f"{url}/{name}", (tmp_path / name).read_bytes(), config)
        assert find_slides(str(tmp_path / name)).rows == listed
        assert find_slides(f"{url}/{name}", access=config).rows == listed
    (one,) = find_slides(f"{url}/plain.tif", access=config).rows
    assert one == next(row for row in folder.rows if row.slide_id == "plain.tif")
    (mirax,) = find_slides(f"{url}/6407_6-5/same.mrxs", access=config).rows
    assert (mirax.slide_id, mirax.vendor) == ("same", "mirax")


def test_globs_match_as_on_a_disk(archive: Path, s3_run: S3) -> None:
    url, config = s3_run
    upload(archive, url, config)
    for pattern in ("*.tif", "**/*.mrxs", "6407_6-5/*", "*/box/s??e.mrxs", "**/*.*", "*.none"):
        here, there = find_slides(f"{archive}/{pattern}"), find_slides(f"{url}/{pattern}", access=config)
        assert without_bounds(there.rows, url) == without_bounds(here.rows, str(archive))
        assert [one.slide_id for one in there.refused] == [one.slide_id for one in here.refused]


def test_relative_paths_of_a_catalog_in_s3_count_from_its_folder(s3_run: S3) -> None:
    url, config = s3_run
    put(
        f"{url}/lists/by hand.csv",
        b"slide_id,path\na,../x/a.mrxs\nb,b c.mrxs\nd,s3://elsewhere/d.mrxs\ne,../../../../e.mrxs\n",
        config,
    )
    rows = find_slides(f"{url}/lists/by hand.csv", access=config).rows
    bucket = "/".join(url.split("/")[:3])
    assert [row.path for row in rows] == [
        f"{url}/x/a.mrxs",
        f"{url}/lists/b c.mrxs",
        "s3://elsewhere/d.mrxs",
        f"{bucket}/e.mrxs",
    ]


def test_local_catalog_may_list_slides_in_s3(tmp_path: Path) -> None:
    catalog = tmp_path / "mixed.csv"
    catalog.write_text("slide_id,path\na,s3://bucket//odd key/../a.mrxs\nb,b.mrxs\n")
    assert [row.path for row in read_catalog_file(catalog).rows] == [
        "s3://bucket//odd key/../a.mrxs",
        str(tmp_path / "b.mrxs"),
    ]


def test_listing_and_facts_cost_few_requests(
    archive: Path, s3_run: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, config = s3_run
    upload(archive, url, config)
    with counted(monkeypatch) as asked:
        found = find_slides(url, access=config)
    assert asked.listings == 1
    assert asked.looks == 1
    slides = len(found.rows) + len(found.refused)
    assert len(asked.reads) <= slides + 3
    assert asked.bytes < 16_000 * slides
    assert max(sum(size for read, size in asked.reads if read == url) for url, _ in asked.reads) < 64_000


def test_more_files_than_one_answer_lists(s3_run: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    url, config = s3_run
    for number in range(12):
        put(f"{url}/{number:02d}.svs", b"", config)
    monkeypatch.setattr("fossilray.slides.remote.source.FILES_PER_LISTING", 5)
    with counted(monkeypatch) as asked:
        assert len(find_slides(url, access=config).refused) == 12
    assert asked.listings == 3


def test_odd_keys_are_found_read_and_named_safely(s3_run: S3, tmp_path: Path) -> None:
    url, config = s3_run
    names = {"a b", "ø%20", "a+b&c=d", "#", "semi;colon", "quo'te\"", "[x]", "*", "a?b", "~", "é" * 90}
    write_grey_slide(tmp_path / "plain.mrxs")
    for file in tmp_path.rglob("*.*"):
        for name in names:
            key = str(file.relative_to(tmp_path)).replace("plain", name)
            put(f"{url}/{key}", file.read_bytes(), config)
    found = find_slides(url, access=config)
    assert {row.path for row in found.rows} == {f"{url}/{name}.mrxs" for name in names}
    assert {row.vendor for row in found.rows} == {"mirax"}
    assert not found.refused
    assert len({check_slide_id(row.slide_id) for row in found.rows}) == len(names)


def test_keys_that_are_no_paths_stay_apart(s3_run: S3, tmp_path: Path) -> None:
    url, config = s3_run
    write_grey_tiff(tmp_path / "a.tif")
    for key in ("x/a.tif", "x//a.tif", "x/./a.tif", "x/../a.tif", "/a.tif"):
        put(f"{url}/{key}", (tmp_path / "a.tif").read_bytes(), config)
    put(f"{url}/folder.mrxs/", b"", config)
    put(f"{url}/x/", b"", config)
    found = find_slides(url, access=config)
    assert {row.path.removeprefix(url + "/") for row in found.rows} == {
        "x/a.tif",
        "x//a.tif",
        "x/./a.tif",
        "x/../a.tif",
        "/a.tif",
    }
    assert len({row.slide_id for row in found.rows}) == 5
    assert not found.refused


def test_nothing_there_is_told(s3_run: S3) -> None:
    url, config = s3_run
    for target in (f"{url}/absent", "s3://no-such-bucket-here/x", "s3://"):
        with pytest.raises(CatalogError):
            find_slides(target, access=config)
    assert find_slides(f"{url}/*.mrxs", access=config) == Catalog([], [])


def test_store_that_does_not_answer_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    access = AccessConfig(endpoint_url="http://127.0.0.1:9", region="us-east-1", tries=1, timeout_s=2)
    with pytest.raises(CatalogError, match="cannot read s3://bucket/slides") as caught:
        find_slides("s3://bucket/slides", access=access)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_address_with_credentials_is_refused() -> None:
    with pytest.raises(CatalogError, match="must not hold credentials") as caught:
        find_slides("s3://key:very-secret@bucket/slides")
    assert "very-secret" not in str(caught.value)


def test_unknown_protocol_is_told() -> None:
    with pytest.raises(CatalogError, match="cannot reach nonsense://"):
        find_slides("nonsense://bucket/slides")


def test_other_object_stores_go_the_same_road(archive: Path, tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    store.put(f"{archive}/", "/bucket/slides", recursive=True)
    here, there = find_slides(str(archive)), find_slides("memory://bucket/slides")
    assert without_bounds(there.rows, "memory://bucket/slides") == without_bounds(here.rows, str(archive))
    assert [one.reason for one in there.refused] == [one.reason for one in here.refused]
    stager = Stager(SlidesConfig(scratch=str(tmp_path)), StoreConfig())
    same = next(row.path for row in there.rows if row.path.endswith("box/same.mrxs"))
    with stager.local(same) as path, open_slide(path) as slide:
        assert slide.info.width
    stager.close()
    store.rm("/bucket", recursive=True)
