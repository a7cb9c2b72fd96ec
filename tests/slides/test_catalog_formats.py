"""Catalogs as the user's document: every format and encoding comes back as it was, and doubtful cells are refused."""

# ruff: noqa: F811 (fixtures are imported by the name they are asked for)

from __future__ import annotations

import os
import re
from pathlib import Path

import openpyxl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from support.remote_slides import put
from support.s3_bucket import s3_endpoint, s3_run  # noqa: F401 (fixtures)

from fossilray.core.config import StoreConfig
from fossilray.core.errors import CatalogError
from fossilray.core.records import CatalogRow, Doubt, ExtraValue
from fossilray.slides.catalog import Catalog, find_slides, read_catalog_file, write_catalog

FORMATS = (".csv", ".xlsx", ".ods", ".parquet")
LIST = "slide_id;path;mpp;well;measured_depth_m;lithology\r\na;a.mrxs;0,25;Brønn 1;2030,5;skifer, grå\r\n;;;;;\r\n"
A_LIST = [
    CatalogRow(
        "a",
        "/archive/a.mrxs",
        mpp=0.25,
        well="Brønn 1",
        measured_depth_m=2030.5,
        extra=(ExtraValue("lithology", "skifer, grå"),),
    )
]

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
VALUE = TEXT.map(str.strip).filter(bool) | st.sampled_from(
    ["66", "1.50", "007", "=1+1", "#N/A", "TRUE", "2,030"]
)
NAMES = ("lithology", "Age (Ma)", "=cmd", "extra", "Prøve")
ROWS = st.lists(
    st.builds(
        CatalogRow,
        slide_id=st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,20}", fullmatch=True),
        path=TEXT.map(lambda name: os.path.abspath("/archive/" + name.replace("\0", ""))),  # noqa: PTH100
        vendor=st.none() | TEXT.filter(str.strip),
        width=st.none() | st.integers(0, 10**6),
        mpp=st.none() | st.floats(0.01, 20),
        well=st.none() | TEXT.map(str.strip).filter(bool),
        measured_depth_m=st.none()
        | st.floats(-500, 15_000)
        | st.integers(0, 10**7).map(lambda mm: mm / 1000),
        planes=st.none() | st.integers(1, 30),
        scan_id=st.none() | st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True),
        extra=st.none()
        | st.lists(
            st.builds(ExtraValue, st.sampled_from(NAMES), VALUE),
            min_size=1,
            max_size=4,
            unique_by=lambda value: value.column,
        ).map(lambda values: tuple(sorted(values, key=lambda value: NAMES.index(value.column)))),
    ),
    max_size=4,
    unique_by=lambda row: row.slide_id,
)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, suffix=st.sampled_from(FORMATS))
def test_a_catalog_written_in_each_format_reads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, rows: list[CatalogRow], suffix: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"round{suffix}"
    # The order of columns is that of the first rows that have them.
    all_columns = CatalogRow("all", "/archive/all", extra=tuple(ExtraValue(name, "x") for name in NAMES))
    rows = [all_columns, *(row for row in rows if row.slide_id != "all")]
    write_catalog(Catalog(rows, []), path)
    assert read_catalog_file(path).rows == rows


def test_findings_are_written_for_people_and_found_again_when_read(tmp_path: Path) -> None:
    row = CatalogRow(
        "a", "/archive/a.mrxs", mpp=0.25, mpp_from="slide", doubts=(Doubt("same-scan", None, "It is b."),)
    )
    for suffix in FORMATS:
        write_catalog(Catalog([row], []), tmp_path / f"c{suffix}")
        assert read_catalog_file(tmp_path / f"c{suffix}").rows == [
            CatalogRow("a", "/archive/a.mrxs", mpp=0.25)
        ]
    assert "same-scan: It is b." in (tmp_path / "c.csv").read_text(encoding="utf-8-sig")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("separator", [";", "\t", ","])
@pytest.mark.parametrize("first_line", ["", "sep={}\r\n", "sep={}{}{}\r\n"])
def test_every_way_in_which_excel_saves_a_list_is_read(
    tmp_path: Path, encoding: str, separator: str, first_line: str
) -> None:
    cells = [line.split(";") for line in LIST.splitlines()]
    quoted = [[f'"{cell}"' if "," in cell else cell for cell in line] for line in cells]
    lines = [separator.join([*line, "", ""]) for line in quoted]
    lines[0] = lines[0].upper().replace("LITHOLOGY", "lithology")
    path = tmp_path / "list.txt"
    path.write_bytes((first_line.replace("{}", separator) + "\r\n".join(lines)).encode(encoding))
    found = find_slides(str(path))
    assert [Path(row.path).name for row in found.rows] == ["a.mrxs"]
    assert [as_in_archive(row) for row in found.rows] == A_LIST
    assert len(found.notes) == (encoding == "cp1252")


def as_in_archive(row: CatalogRow) -> CatalogRow:
    return CatalogRow(**{**vars(row), "path": f"/archive/{Path(row.path).name}"})


def test_a_workbook_under_the_name_of_a_csv_and_the_reverse_are_read(tmp_path: Path) -> None:
    for suffix in FORMATS:
        write_catalog(Catalog(A_LIST, []), tmp_path / f"c{suffix}")
        for other in FORMATS:
            (tmp_path / f"renamed{other}").write_bytes((tmp_path / f"c{suffix}").read_bytes())
            assert find_slides(str(tmp_path / f"renamed{other}")).rows == A_LIST


@pytest.mark.parametrize(
    ("cells", "fault"),
    [
        (
            "depth;2,030",
            "line 2: measured_depth_m is '2,030', which can be read as 2030 and as 2.03; write 2030 or 2.03",
        ),
        (
            "depth;2.030",
            "line 2: measured_depth_m is '2.030', which can be read as 2030 and as 2.03; write 2030 or 2.03",
        ),
        ("depth;950.125", "write 950125 or 950.1250"),
        ("depth;20.500", "write 20500 or 20.5"),
        ("depth;-501", "line 2: measured_depth_m is '-501', not between -500 and 15,000 m"),
        (
            "depth;20300",
            "measured_depth_m is '20300', not between -500 and 15,000 m; is it in feet? 20,300 ft are 6,187.4 m",
        ),
        (
            "mpp;250",
            "line 2: mpp is '250', not between 0.01 and 20 um per pixel; is it in nm? 250 nm are 0.25 um",
        ),
        (
            "mpp;0.00025",
            "mpp is '0.00025', not between 0.01 and 20 um per pixel; is it in mm? 0.00025 mm are 0.25 um",
        ),
        ("mpp;0", "mpp is '0', not between"),
        ("mpp;0.25 um", "mpp is '0.25 um', not a number"),
        ("width;1.5", "width is '1.5', not a whole number"),
        ("width;2,000", "width is '2,000', which can be read as 2000 and as 2"),
        ("levels;4000000000", "levels is '4000000000', larger than that of any slide"),
    ],
)
def test_a_doubtful_number_is_refused_by_line_column_and_value(
    tmp_path: Path, cells: str, fault: str
) -> None:
    name, _, value = cells.partition(";")
    path = tmp_path / "by hand.csv"
    path.write_text(f"slide_id;path;{name.replace('depth', 'measured_depth_m')}\na;a.mrxs;{value}\n")
    with pytest.raises(CatalogError) as caught:
        read_catalog_file(path)
    assert fault in str(caught.value)
    assert str(caught.value).endswith("; correct it and start the same command again")
    assert "writes a new one" not in str(caught.value)


@pytest.mark.parametrize(
    ("column", "values", "read"),
    [
        ("measured_depth_m", ["2,030", "2,031.5"], [2030, 2031.5]),
        ("measured_depth_m", ["2.030", "2.031,5"], [2030, 2031.5]),
        ("measured_depth_m", ["950.125", "2031.5"], [950.125, 2031.5]),
        ("measured_depth_m", ["2 030,5"], [2030.5]),
        ("mpp", ["1,234", "0,250"], [1.234, 0.25]),
        ("width", ["1,024", "100.352"], [1024, 100_352]),
    ],
)
def test_what_the_column_settles_is_read(
    tmp_path: Path, column: str, values: list[str], read: list[float]
) -> None:
    path = tmp_path / "by hand.csv"
    lines = [f"s{i};{i}.mrxs;{value}" for i, value in enumerate(values)]
    path.write_text("\n".join([f"slide_id;path;{column}", *lines]), encoding="utf-8")
    assert [getattr(row, column) for row in read_catalog_file(path).rows] == read


def test_cells_of_a_workbook_are_named_by_sheet_and_cell(tmp_path: Path) -> None:
    path = tmp_path / "wells.xlsx"
    book = openpyxl.Workbook()
    for bad, fault in (
        ({"measured_depth_m": "2.030"}, "cell D3 of sheet 'Sheet': measured_depth_m is '2.030'"),
        ({"mpp": 250}, "cell C3 of sheet 'Sheet': mpp is '250', not between"),
        ({"well": "34/7-1", "slide_id": "a"}, "cell A3 of sheet 'Sheet': slide_id a is in row 2"),
        ({"slide_id": "../x"}, "cell A3 of sheet 'Sheet': slide_id"),
    ):
        book.active.delete_rows(1, 9)
        book.active.append(["slide_id", "path", "mpp", "measured_depth_m", "well"])
        book.active.append(["a", "a.mrxs", 0.25, 2030.5, "34/7-1"])
        row = {"slide_id": "b", "path": "b.mrxs", "mpp": 0.25, "measured_depth_m": 2030, "well": None} | bad
        book.active.append(list(row.values()))
        book.save(path)
        with pytest.raises(CatalogError, match=re.escape(fault)):
            find_slides(str(path))


def test_a_well_that_the_spreadsheet_took_for_a_date_is_refused(tmp_path: Path) -> None:
    table = pa.table({"slide_id": ["a"], "path": ["a.mrxs"], "well": pa.array([19_000], pa.date32())})
    parquet.write_table(table, tmp_path / "c.parquet")
    with pytest.raises(
        CatalogError, match=r"row 1: well is the date 2022-01-08, into which the spreadsheet turned"
    ):
        read_catalog_file(tmp_path / "c.parquet")


def test_a_column_of_pairs_stands_for_the_columns_it_names(tmp_path: Path) -> None:
    pairs = [[{"column": "age", "value": "66"}], None]
    table = pa.table(
        {"slide_id": ["a", "b"], "path": ["a", "b"], "extra": pairs, "note": [float("nan"), 1.0]}
    )
    parquet.write_table(table, tmp_path / "c.parquet")
    rows = read_catalog_file(tmp_path / "c.parquet").rows
    assert [row.extra for row in rows] == [(ExtraValue("age", "66"),), (ExtraValue("note", "1"),)]


def mangled(text: str, *, taken_for: str) -> str:
    return text.encode().decode(taken_for)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    for name in ("brønn.mrxs", "Ålesund à.mrxs", "plain.mrxs"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize("taken_for", ["cp1252", "mac_roman", "cp850"])
def test_a_path_that_another_encoding_changed_is_read_where_it_leads_to_a_slide(
    archive: Path, taken_for: str
) -> None:
    names = [mangled(name, taken_for=taken_for) for name in ("brønn.mrxs", "plain.mrxs")]
    well = mangled("Brønn 1", taken_for=taken_for)
    lines = [f"s{i},{name},{well},{well}" for i, name in enumerate(names)]
    path = archive / "c.csv"
    path.write_text("\n".join(["slide_id,path,well,note", *lines]), encoding="utf-8")
    found = find_slides(str(path))
    assert [Path(row.path).name for row in found.rows] == ["brønn.mrxs", "plain.mrxs"]
    assert {row.well for row in found.rows} == {"Brønn 1"}
    assert {row.extra for row in found.rows} == {(ExtraValue("note", "Brønn 1"),)}
    (note,) = found.notes
    assert note.startswith(
        f"line 2: path {names[0]!r} is read as 'brønn.mrxs', where a slide is, and 4 other texts"
    )


def test_a_path_in_the_letters_of_a_mac_is_read_where_it_leads_to_a_slide(archive: Path) -> None:
    path = archive / "c.csv"
    path.write_bytes("slide_id;path;well\na;brønn.mrxs;Brønn\n".encode("mac_roman"))
    (row,) = find_slides(str(path)).rows
    assert (Path(row.path).name, row.well) == ("brønn.mrxs", "Brønn")


def test_a_path_with_backslashes_or_blanks_is_read_where_it_leads_to_a_slide(archive: Path) -> None:
    (archive / "sub").mkdir()
    (archive / "sub" / "a.mrxs").touch()
    path = archive / "c.csv"
    path.write_text("slide_id,path\na,sub\\a.mrxs\nb, plain.mrxs \n")
    assert [Path(row.path).name for row in find_slides(str(path)).rows] == ["a.mrxs", "plain.mrxs"]


def test_a_path_that_leads_nowhere_in_any_form_is_named_by_line(archive: Path) -> None:
    path = archive / "c.csv"
    path.write_text(
        f"slide_id,path\na,{mangled('borehål.mrxs', taken_for='cp1252')}\nb,br?nn.mrxs\nc,gone.mrxs\n",
        "utf-8",
    )
    found = find_slides(str(path))
    assert found.notes == (
        "line 2: there is nothing at path 'borehÃ¥l.mrxs', nor at 'borehål.mrxs'; line 3: there is nothing at path "
        "'br?nn.mrxs'; letters may have been lost when the table was saved: correct them",
    )
    assert [Path(row.path).name for row in found.rows] == ["borehÃ¥l.mrxs", "br?nn.mrxs", "gone.mrxs"]


def test_a_path_that_exists_as_it_is_written_stays(archive: Path) -> None:
    name = mangled("brønn.mrxs", taken_for="cp1252")
    (archive / name).touch()
    path = archive / "c.csv"
    path.write_text(f"slide_id,path\na,{name}\n", encoding="utf-8")
    found = find_slides(str(path))
    assert [Path(row.path).name for row in found.rows] == [name]
    assert found.notes == ()


def test_catalogs_in_s3_are_read_in_every_format_and_their_paths_repaired(
    s3_run: tuple[str, StoreConfig],
    tmp_path: Path,
) -> None:
    url, config = s3_run
    put(f"{url}/slides/brønn.mrxs", b"", config)
    rows = [CatalogRow("a", f"{url}/slides/brønn.mrxs", mpp=0.5, extra=(ExtraValue("note", "Å"),))]
    for suffix in FORMATS:
        write_catalog(Catalog(rows, []), tmp_path / f"c{suffix}")
        put(f"{url}/c{suffix}", (tmp_path / f"c{suffix}").read_bytes(), config)
        assert find_slides(f"{url}/c{suffix}", access=config).rows == rows
    text = f"slide_id,path,note\na,{mangled('slides/brønn.mrxs', taken_for='cp1252')},Å\n"
    relative = text.replace(mangled("Å", taken_for="cp1252"), "Å").encode()
    put(f"{url}/mangled.csv", relative, config)
    found = find_slides(f"{url}/mangled.csv", access=config)
    assert [row.path for row in found.rows] == [f"{url}/slides/brønn.mrxs"]
    assert len(found.notes) == 1
