"""The same scan under several names, and wells under several spellings."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from support.cli_runner import invoke
from support.slides_on_disk import discs, write_slide

from fossilray.core.copies import find_copies
from fossilray.core.records import CatalogRow
from fossilray.core.site_names import normalise_well, well_key
from fossilray.slides.catalog import Catalog, find_slides
from fossilray.slides.catalog.wells import keep_spelling, merge_wells
from fossilray.synthetic.writers.pixels import ArrayPixels
from fossilray.synthetic.writers.tiff import TiffOptions, write_pyramidal_tiff


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slides a and b, a copy of a below another name, and a TIFF with its copy."""
    folder = tmp_path_factory.mktemp("copies")
    for name in ("a", "b"):
        write_slide(folder / f"{name}.mrxs", size=1024)
    write_pyramidal_tiff(folder / "t.tif", ArrayPixels(image=discs(1024)), TiffOptions(tile_px=256))
    (folder / "again").mkdir()
    shutil.copy(folder / "a.mrxs", folder / "again" / "renamed.mrxs")
    shutil.copytree(folder / "a", folder / "again" / "renamed")
    shutil.copy(folder / "t.tif", folder / "again" / "other.tif")
    return folder


def test_a_renamed_copy_is_marked_with_its_original_and_other_slides_are_not(folder: Path) -> None:
    catalog = find_slides(str(folder))
    marked = {
        row.slide_id: [doubt.sentence for doubt in row.doubts or () if doubt.code == "same-scan"]
        for row in catalog.rows
    }
    pairs = find_copies(catalog.rows)
    assert {frozenset(pair) for pair in pairs.items()} == {
        frozenset(("a", "again__renamed")),
        frozenset(("t", "again__other")),
    } or len(pairs) == 2
    assert [name for name, sentences in marked.items() if not sentences] == ["b"]
    assert sum("2 slides are the same scans" in note for note in catalog.notes) == 1


def test_copies_are_left_out_by_choice_and_listed_with_the_reason(folder: Path) -> None:
    catalog = find_slides(str(folder), unique_scans=True)
    assert len(catalog.rows) == 3
    assert [file.error for file in catalog.refused] == ["SameScan", "SameScan"]
    assert all("is the same scan as" in file.reason for file in catalog.refused)


def test_one_path_under_two_ids_is_a_copy(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "c.csv"
    with table.open("w", newline="") as file:
        rows = [
            ("slide_id", "path"),
            ("x", folder / "a.mrxs"),
            ("y", folder / "a.mrxs"),
            ("z", folder / "b.mrxs"),
        ]
        csv.writer(file).writerows(rows)
    assert find_copies(find_slides(str(table)).rows) == {"y": "x"}


def test_a_chain_of_equal_paths_and_scans_has_one_original() -> None:
    rows = [
        CatalogRow("a", "/1", scan_id="s"),
        CatalogRow("b", "/2", scan_id="s"),
        CatalogRow("c", "/2"),
        CatalogRow("d", "/3"),
        CatalogRow("e", "/4", scan_id="t"),
    ]
    assert find_copies(reversed(rows)) == {"b": "a", "c": "a"}


@pytest.mark.parametrize(
    ("text", "well"),
    [
        ("NO 6407/6-5", "6407/6-5"),
        ("6407_6-5", "6407/6-5"),
        ("6407/6\u20135", "6407/6-5"),
        ("no 6407 / 6 - 5", "6407/6-5"),
        ("NO_6407/6-5 A", "6407/6-5 A"),
        ("Wonga  1", "Wonga 1"),
        ("L-30", "L-30"),
        ("22/12a-3", "22/12a-3"),
    ],
)
def test_wells_are_written_as_names_of_slides_give_them(text: str, well: str) -> None:
    assert normalise_well(text) == well


def test_spellings_of_a_well_become_one_and_are_named() -> None:
    wells = ["6407_6-5", "NO 6407/6-5", "6407/6-5", "Wonga-1", "WONGA 1", "Wonga-1", "A-12", "A1-2", None]
    catalog = merge_wells(
        Catalog([CatalogRow(f"s{n}", f"/{n}", well=well) for n, well in enumerate(wells)], [])
    )
    assert [row.well for row in catalog.rows] == [*["6407/6-5"] * 3, *["Wonga-1"] * 3, "A-12", "A1-2", None]
    assert len(catalog.notes) == 2
    assert "'6407_6-5'" in catalog.notes[0]
    assert catalog.notes[0].endswith("are one: 6407/6-5")


def test_a_run_keeps_its_spelling() -> None:
    frozen = [CatalogRow("a", "/a", well="6407_6-5"), CatalogRow("b", "/b", well="6407/6-5")]
    added = [CatalogRow(name, f"/{name}", well="NO 6407/6-5") for name in ("a", "b", "c")]
    assert [row.well for row in keep_spelling(added, frozen)] == ["6407_6-5", "6407/6-5", "6407/6-5"]
    assert well_key("6407_6-5") == well_key("6407/6-5")


def test_status_verify_and_the_view_name_committed_copies(
    folder: Path, shared_ray: str, tmp_path: Path
) -> None:
    run = str(tmp_path / "run")
    quick = ("detector.kind=classical", "embedder.weights=none", "workers.count=1")
    settings = [word for each in quick for word in ("--set", each)]
    done = invoke("process", folder, "--run", run, "--address", shared_ray, *settings)
    assert done.exit_code == 0, done.output
    assert "2 slides are the same scans" in done.output
    assert "2 slides are the same scans" in " ".join(invoke("status", run).output.split())
    verified = invoke("verify", run)
    assert verified.exit_code == 0
    assert "is the same scan as" in " ".join(verified.output.split())
    rows = invoke("query", run, "SELECT count(copy_of), count(*) FROM slides", "--format", "csv").output
    assert rows.splitlines()[-1] == "2,5"
