"""What a folder holds beside slides is counted by ending and reason; slides are found by content and by series."""

# ruff: noqa: F811 (fixtures are imported by the name under which tests take them)

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import tifffile
from support.dicom_slides import CT_IMAGE, IMPLICIT, write_dicom
from support.grey_slides import GREY, write_grey_slide, write_grey_tiff
from support.remote_slides import upload
from support.s3_bucket import s3_endpoint, s3_run  # noqa: F401 (fixtures)

from fossilray.core.config import SlidesConfig, StoreConfig
from fossilray.core.records import CatalogRow, RejectedFile
from fossilray.core.slide_names import SLIDE_SUFFIXES, slide_id_for
from fossilray.slides.catalog import Catalog, find_slides
from fossilray.slides.catalog.census import Census, is_own_folder
from fossilray.slides.catalog.series import catalog_of
from fossilray.slides.dicom import read_series
from fossilray.slides.remote.staging import Stager
from fossilray.slides.slide import open_slide

S3 = tuple[str, StoreConfig]
SLIDE = np.kron(np.arange(30, dtype=np.uint8).reshape(5, 6) * 8, np.ones((40, 40), np.uint8))[
    ..., None
].repeat(3, 2)


def touch(root: Path, *names: str, content: bytes = b"x") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archive")
    write_grey_slide(root / "a" / "one.mrxs")
    write_grey_tiff(root / "two.tif")
    write_dicom(root / "series" / "level0.dcm", SLIDE, series="2.25.1")
    write_dicom(root / "series" / "level1.dcm", SLIDE[::2, ::2], series="2.25.1", mpp=0.5)
    write_dicom(root / "series" / "other.dcm", SLIDE, series="2.25.2")
    for number in range(4):
        write_dicom(root / "scans" / f"1.2.3.{number}", SLIDE, series="2.25.3", sop_class=CT_IMAGE)
    write_dicom(root / "noname" / "IM0001", SLIDE, series="2.25.4")
    write_grey_tiff(root / "noname" / "scan.qptiff")
    tifffile.imwrite(root / "noname" / "photo.btf", GREY, photometric="rgb")
    touch(root, *(f"fields/{number}.jpg" for number in range(12)), "fields/a.PNG")
    touch(root, "b.zip", "c.zip", "d.vsi", "e.nd2", "notes.docx")
    touch(
        root, ".hidden", "Thumbs.db", "~$list.xlsx", "catalog.csv", "two.json", "two.tif.json", "fields.json"
    )
    return root


SENTENCE = (
    "6 slides; 4 DICOM files read as 3 slides; 1 without an ending read; 1 .qptiff read; "
    "12 .jpg, 1 .png passed over: images beside slides, see docs/guide/fields.md; "
    "4 without an ending, 1 .docx passed over; 2 .zip passed over: archives (unpack those that hold slides); "
    "1 .nd2, 1 .vsi passed over: formats that OpenSlide does not read, see docs/guide/formats.md; "
    "1 .btf passed over: no tiled TIFF"
)


def test_what_a_folder_holds_is_named_by_ending_and_reason(archive: Path) -> None:
    found = find_slides(str(archive))
    assert found.notes[0] == SENTENCE
    assert found.refused == []
    assert [row.slide_id for row in found.rows] == [
        "a__one",
        "noname__IM0001",
        "noname__scan.qptiff",
        "series__level0.dcm",
        "series__other.dcm",
        "two.tif",
    ]


def test_globs_find_the_same_slides(archive: Path) -> None:
    by_folder, by_glob = find_slides(str(archive)), find_slides(f"{archive}/**/*")
    assert by_glob.rows == by_folder.rows
    assert by_glob.notes == by_folder.notes
    assert find_slides(f"{archive}/*.nope").notes == ("no name matches",), "the folder is not empty"


def test_an_object_store_has_the_same_census_and_slides(archive: Path, s3_run: S3) -> None:
    url, config = s3_run
    upload(archive, url, config)
    here, there = find_slides(str(archive)), find_slides(url, access=config)
    assert [row.slide_id for row in there.rows] == [row.slide_id for row in here.rows]
    assert there.refused == []
    # OpenSlide alone knows which of the rows are DICOM.
    assert there.notes[0].split("; ")[0] == here.notes[0].split("; ")[0]
    assert there.notes[0].split("; ")[2:] == here.notes[0].split("; ")[2:]
    by_glob = find_slides(f"{url}/**/*", access=config)
    assert by_glob.rows == there.rows
    assert by_glob.notes == there.notes


def test_the_files_of_a_series_are_staged_together(archive: Path, s3_run: S3) -> None:
    url, config = s3_run
    upload(archive, url, config)
    stager = Stager(SlidesConfig(), config)
    for name, levels in (("series/level0.dcm", 2), ("series/other.dcm", 1), ("noname/IM0001", 1)):
        with stager.local(f"{url}/{name}") as path, open_slide(path) as slide:
            assert len(slide.info.levels) == levels
            assert np.array_equal(slide.read(0, 0, 0, 240, 200), SLIDE)
    stager.close()


def test_a_folder_without_a_slide_names_what_it_holds(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png", "list.csv", ".hidden")
    assert find_slides(str(tmp_path)).notes == ("no slide that can be read (2 refused); 1 .csv passed over",)
    (tmp_path / "none").mkdir()
    assert find_slides(str(tmp_path / "none")).notes == ("the folder is empty",)
    touch(tmp_path / "refused", "a.svs", "b.xyz")
    assert find_slides(str(tmp_path / "refused")).notes == (
        "no slide that can be read (1 refused); 1 .xyz passed over",
    )


def test_a_folder_of_slides_alone_has_no_census(tmp_path: Path) -> None:
    write_grey_slide(tmp_path / "a.mrxs")
    write_grey_tiff(tmp_path / "b.tif")
    touch(tmp_path, "catalog.csv", "b.json", ".DS_Store", "a/Thumbs.db", "a/left over.bin")
    assert find_slides(str(tmp_path)).notes[:1] != ("2 slides",)
    assert not any("passed over" in note for note in find_slides(str(tmp_path)).notes)


def test_many_endings_end_in_a_number(tmp_path: Path) -> None:
    write_grey_tiff(tmp_path / "a.tif")
    for number in range(14):
        touch(tmp_path, *(f"{copy}.x{number:02}" for copy in range(20 - number)))
    (note,) = find_slides(str(tmp_path)).notes
    listed = ", ".join(f"{20 - number} .x{number:02}" for number in range(10))
    assert note == f"1 slide; {listed} passed over; and 34 other files passed over"


def test_content_of_an_ending_is_looked_at_a_thousand_times(tmp_path: Path) -> None:
    looked = []

    def read(name: str) -> None:
        looked.append(name)

    census = Census()
    names = [f"{number}.bin" for number in range(3000)]
    assert census.sort(names, is_slide=lambda name: False, read=read) == []
    assert len(looked) == 1000
    (note,) = census.notes(Catalog([], []), dicom_files=0)
    assert note == "no slide; 3,000 .bin passed over: the content of the first 1,000 is no slide's"


def test_what_fossilray_wrote_is_not_counted(tmp_path: Path) -> None:
    write_grey_tiff(tmp_path / "a.tif")
    touch(tmp_path / "run", "run.json", "attempts/1.bin", "objects/well/a.xyz", "pictures/a.jpg")
    assert find_slides(str(tmp_path)).notes == ()
    assert not is_own_folder({"run.json", "slides"})
    assert not is_own_folder({"rounds", "shards", "data"})


def test_parts_of_virtual_slides_are_not_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a.vms", "a(1,0).jpg", "a_macro.jpg", "a.opt", "ab.jpg")
    (note,) = find_slides(str(tmp_path)).notes
    assert (
        note
        == "no slide that can be read (1 refused); 1 .jpg passed over: images beside slides, see docs/guide/fields.md"
    )


@pytest.mark.parametrize("suffix", sorted(SLIDE_SUFFIXES - {".mrxs", ".dcm", ".vms", ".vmu"}))
def test_openslide_recognises_a_slide_by_content_under_each_ending(tmp_path: Path, suffix: str) -> None:
    write_grey_tiff(tmp_path / f"a{suffix}")
    (row,) = find_slides(str(tmp_path)).rows
    assert (row.slide_id, row.vendor, row.mpp) == (f"a{suffix}", "generic-tiff", pytest.approx(0.25))


def test_a_series_without_slides_is_refused_once(tmp_path: Path) -> None:
    for number in range(5):
        write_dicom(tmp_path / f"{number}.dcm", SLIDE, series="2.25.3", sop_class=CT_IMAGE)
    (file,) = find_slides(str(tmp_path)).refused
    assert "another kind than a whole-slide image" in file.reason


def test_a_series_in_an_encoding_that_is_not_read_is_unsupported(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", SLIDE, series="2.25.3", syntax=IMPLICIT)
    assert read_series(path.read_bytes()) == read_series(path.read_bytes()[:4096])
    (file,) = find_slides(str(tmp_path)).refused
    assert (file.error, "gdcmconv --raw" in file.reason) == ("UnsupportedSlide", True)


def test_damaged_dicom_has_no_series(tmp_path: Path) -> None:
    content = write_dicom(tmp_path / "a.dcm", SLIDE, series="2.25.3").read_bytes()
    for length in range(0, 400, 7):
        assert read_series(content[:length]) is None
    rng = np.random.default_rng(3)
    for _ in range(300):
        damaged = bytearray(content[:600])
        for at in rng.integers(132, 600, 4):
            damaged[at] = rng.integers(256)
        read_series(bytes(damaged))


@pytest.mark.parametrize(
    ("path", "slide_id"),
    [
        ("a.czi.mrxs", "a.czi"),
        ("b/c.dcm.mrxs", "b__c.dcm"),
        ("a.mrxs", "a"),
        ("a.svs", "a.svs"),
        ("a.tif.mrxs", "a.tif-f6758d7ddbcc"),
        ("s.MRXS", "s.MRXS"),
    ],
)
def test_ids_of_slides_with_the_first_endings_stay(path: str, slide_id: str) -> None:
    assert slide_id_for(PurePosixPath(path)) == slide_id


def test_two_slides_never_share_an_id() -> None:
    names = ("a.czi.mrxs", "a.czi", "b.dcm.mrxs", "b.dcm", "c.tif")
    entries = [
        RejectedFile(slide_id_for(PurePosixPath(name)), f"/root/{name}", "why") for name in names[:3]
    ] + [CatalogRow(slide_id=slide_id_for(PurePosixPath(name)), path=f"/root/{name}") for name in names[3:]]
    catalog = catalog_of(entries, lambda path: PurePosixPath(path).relative_to("/root"))
    ids = {entry.path: entry.slide_id for entry in [*catalog.rows, *catalog.refused]}
    assert len(set(ids.values())) == len(names)
    assert ids["/root/a.czi.mrxs"] == "a.czi"
    assert ids["/root/b.dcm.mrxs"] == "b.dcm"
    assert ids["/root/a.czi"].startswith("a.czi-")


def test_copied_series_in_two_folders_are_two_slides(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a" / "1.dcm", SLIDE, series="2.25.1")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    found = find_slides(str(tmp_path))
    assert len(found.rows) == 2
    assert any("same scan" in note for note in found.notes)


LEICA = (
    '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
    '<collection name="a" sizeX="256000" sizeY="240000"><barcode>x</barcode><image name="m">'
    "<creationDate>2010</creationDate>"
    '<device model="m" version="1"/><pixels sizeX="240" sizeY="200"><dimension sizeX="240" sizeY="200" r="0" ifd="0"/>'
    '</pixels><view sizeX="60000" sizeY="50000" offsetX="0" offsetY="0"/><scanSettings><objectiveSettings><objective>20'
    "</objective></objectiveSettings><illuminationSettings><numericalAperture>0.4</numericalAperture><illuminationSource>"
    "brightfield</illuminationSource></illuminationSettings></scanSettings></image></collection></scn>"
)


@pytest.mark.parametrize(
    ("name", "vendor", "tags"),
    [
        ("a.scn", "leica", {"description": LEICA, "bigtiff": True}),
        (
            "a.tif",
            "trestle",
            {"software": "MedScan", "description": "Background Color=C8C8C8;Objective Power=20"},
        ),
        ("a.svs", "aperio", {"description": "Aperio Image Library v1\n240x200|MPP = 0.25|AppMag = 40"}),
    ],
)
def test_slides_of_scanners_are_found_and_read(
    tmp_path: Path, name: str, vendor: str, tags: dict[str, object]
) -> None:
    tifffile.imwrite(tmp_path / name, SLIDE, tile=(64, 64), photometric="rgb", metadata=None, **tags)
    (row,) = find_slides(str(tmp_path)).rows
    assert (row.slide_id, row.vendor) == (name, vendor)
    with open_slide(tmp_path / name, mpp=0.25) as slide:
        bounds = slide.info.bounds
        assert np.array_equal(slide.read(0, bounds.x_min, bounds.y_min, 240, 200), SLIDE)
