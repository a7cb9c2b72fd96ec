"""Darwin Core archives, Tilia workbooks and StrataBugs matrices, read by other programs."""

import csv
import json
import zipfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import openpyxl
import pytest
from dwca.read import DwCAReader
from support.classified_run import predict
from support.cli_runner import invoke, run_command
from support.small_run import COUNTS, HOSTILE_WELL, WELL, write_small_run

from fossilray.analysis.export.darwin_core import DWC, OCCURRENCE_TERMS
from fossilray.store import RunStore
from fossilray.store.query.connection import run_query

ARCHIVE = ("--format", "dwca", "--creator", "Geo <Survey> & Søn", "--licence", "CC0 1.0")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    run = write_small_run(tmp_path_factory.mktemp("runs") / "run")
    predict(run, "genera")
    return run


@pytest.fixture(scope="module")
def labelled(store: RunStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labels")
    (folder / "labels.csv").write_text(
        "slide_id,object_id,genus\na-2030,0,Tasmanites\na-2030,39,Wetzeliella\n"
    )
    run_command("labels", "import", folder / "labels.csv", "--run", store.url, "--to", folder / "set")
    return folder / "set"


def predicted(store: RunStore, slide_id: str) -> Counter[str]:
    sql = f"SELECT genus FROM predictions WHERE slide_id = '{slide_id}' AND genus IS NOT NULL"
    return Counter(run_query(store, sql)["genus"].to_pylist())


def test_an_archive_is_read_by_a_reader_of_darwin_core(store: RunStore, tmp_path: Path) -> None:
    out = tmp_path / "census.zip"
    output = run_command("export", store.url, "--out", out, *ARCHIVE)
    with DwCAReader(out) as archive:
        assert archive.descriptor.core.type == f"{DWC}Occurrence"
        assert archive.metadata.find("dataset/title").text.startswith("Microfossils of ")
        assert archive.metadata.find("dataset/creator/organizationName").text == "Geo <Survey> & Søn"
        assert archive.descriptor.core.terms == {f"{DWC}{term}" for term in OCCURRENCE_TERMS}
        rows = [{name.removeprefix(DWC): value for name, value in row.data.items()} for row in archive]
    named = sum(count - 1 for count in COUNTS.values() if count)
    assert len(rows) == named
    assert f"{named} occurrences" in output
    assert "3 objects have no genus" in output
    assert len({row["occurrenceID"] for row in rows}) == named
    (first,) = [row for row in rows if row["catalogNumber"] == "a-2030:3"]
    assert first["basisOfRecord"] == "FossilSpecimen"
    assert first["locality"] == WELL
    assert float(first["minimumDepthInMeters"]) == float(first["maximumDepthInMeters"]) == 2030
    assert first["identificationVerificationStatus"].startswith("unverified")
    (stored,) = run_query(
        store, "SELECT * FROM objects WHERE slide_id = 'a-2030' AND object_id = 3"
    ).to_pylist()
    box = [stored[name] for name in ("x_min", "y_min", "x_max", "y_max")]
    assert json.loads(first["dynamicProperties"])["boxLevel0Px"] == box
    assert Counter(row["scientificName"] for row in rows if row["eventID"] == "b-2050") == predicted(
        store, "b-2050"
    )


def test_the_descriptor_of_an_archive_has_the_form_of_the_text_guide(store: RunStore, tmp_path: Path) -> None:
    out = tmp_path / "census.zip"
    run_command("export", store.url, "--out", out, "--slide", "a-2030", *ARCHIVE)
    text = "{http://rs.tdwg.org/dwc/text/}"
    with zipfile.ZipFile(out) as archive:
        assert sorted(archive.namelist()) == ["eml.xml", "meta.xml", "occurrence.txt"]
        root = ElementTree.fromstring(archive.read("meta.xml"))
        lines = archive.read("occurrence.txt").decode().splitlines()
    assert root.tag == f"{text}archive"
    assert root.get("metadata") == "eml.xml"
    core = root.find(f"{text}core")
    assert core is not None
    assert core.get("fieldsTerminatedBy") == "\\t"
    assert core.findtext(f"{text}files/{text}location") == "occurrence.txt"
    fields = [(field.get("index"), field.get("term")) for field in core.iter(f"{text}field")]
    assert fields == [(str(i), f"{DWC}{term}") for i, term in enumerate(OCCURRENCE_TERMS)]
    assert {line.count("\t") for line in lines} == {len(OCCURRENCE_TERMS) - 1}


def test_labels_go_before_predictions_and_the_file_states_it(
    store: RunStore, labelled: Path, tmp_path: Path
) -> None:
    out = tmp_path / "census.zip"
    run_command("export", store.url, "--out", out, "--labels", labelled, *ARCHIVE)
    with DwCAReader(out) as archive:
        assert "labels of set, else predictions genera" in archive.metadata.findtext("dataset/abstract/para")
        rows = {
            row.data[f"{DWC}catalogNumber"]: {
                name.removeprefix(DWC): value for name, value in row.data.items()
            }
            for row in archive
        }
    assert rows["a-2030:0"]["scientificName"] == "Tasmanites"
    assert rows["a-2030:0"]["identificationVerificationStatus"] == "identified by a person"
    assert rows["a-2030:39"]["scientificName"] == "Wetzeliella"
    assert rows["a-2030:1"]["identifiedBy"] == "genera"


def test_a_tilia_workbook_has_depths_names_and_counts_where_the_manual_has_them(
    store: RunStore, tmp_path: Path
) -> None:
    out = tmp_path / "census.xlsx"
    run_command("export", store.url, "--format", "tilia", "--well", WELL, "--out", out)
    book = openpyxl.load_workbook(out)
    assert book.sheetnames == ["Data", "Notes"]
    sheet = book["Data"]
    assert [sheet.cell(1, column).value for column in range(1, 8)] == [
        *("Code", "Name", "Element", "Units", "Context", "Taphonomy", "Group")
    ]
    assert [sheet.cell(1, column).value for column in (8, 9, 10)] == [203000, 205000, 208000]
    assert [sheet.cell(2, column).value for column in (8, 9, 10)] == ["a-2030", "b-2050", "c-2080"]
    assert sheet.cell(3, 8).value == 0
    for row in range(5, sheet.max_row + 1):
        taxon = sheet.cell(row, 2).value
        assert sheet.cell(row, 4).value == "NISP"
        for column in (8, 9, 10):
            expected = predicted(store, sheet.cell(2, column).value)[taxon]
            assert sheet.cell(row, column).value == expected
    notes = {row[0].value: row[1].value for row in book["Notes"].iter_rows()}
    assert notes["Names"] == "predictions genera"
    assert notes["Site"] == WELL
    assert notes["Objects without a name, not counted"] == 3


def test_a_matrix_has_samples_analyses_and_barren_ones(store: RunStore, tmp_path: Path) -> None:
    out = tmp_path / "census.csv"
    run_command("export", store.url, "--format", "stratabugs", "--well", WELL, "--out", out)
    with out.open(newline="") as file:
        head, qualifiers, situations, *rows = list(csv.reader(file))
    assert head[:5] == ["Well", "Sample", "Top depth (m)", "Base depth (m)", "Sample type"]
    assert (qualifiers[0], situations[0]) == ("Qualifier", "Situation")
    assert [row[1] for row in rows] == ["a-2030", "b-2050", "c-2080"]
    for row in rows:
        counts = {taxon: int(cell) for taxon, cell in zip(head[8:], row[8:], strict=True) if cell}
        assert counts == predicted(store, row[1])
        assert row[5] == "analysed"
    run_command("export", store.url, "--format", "stratabugs", "--well", HOSTILE_WELL, "--out", out)
    with out.open(newline="") as file:
        (row,) = list(csv.reader(file))[3:]
    assert row[5] == "barren"


def test_a_sample_of_which_nothing_is_labelled_is_not_barren(
    store: RunStore, labelled: Path, tmp_path: Path
) -> None:
    out = tmp_path / "census.csv"
    words = ("--format", "stratabugs", "--well", WELL, "--labels", labelled, "--predictions", "none")
    run_command("export", store.url, *words, "--out", out)
    with out.open(newline="") as file:
        rows = list(csv.reader(file))[3:]
    assert [row[5] for row in rows] == ["analysed", "prepared", "prepared"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "dwca", "--out", "a.zip"], "give --creator and --licence"),
        ([*ARCHIVE, "--out", "a.txt"], "is no .zip"),
        (["--format", "tilia", "--out", "a.xlsx"], "name it with --well"),
        (["--format", "tilia", "--out", "a.csv", "--well", WELL], "is no .xlsx"),
        (["--format", "stratabugs", "--out", "a.csv", "--well", "nowhere"], "no slides of well 'nowhere'"),
        (
            ["--format", "stratabugs", "--out", "a.csv", "--well", WELL, "--predictions", "none"],
            "no object has a name",
        ),
        (["--format", "csv", "--out", "a.csv", "--well", WELL], "--well applies to --format tilia"),
    ],
)
def test_what_an_export_lacks_is_named(store: RunStore, words: list[str], message: str) -> None:
    result = invoke("export", store.url, *words)
    assert result.exit_code != 0
    assert message in str(result.exception)
