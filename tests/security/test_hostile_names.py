"""What strangers name (slides, folders, wells, errors) stays text: in paths, SQL, HTML, CSV and on the terminal."""

from __future__ import annotations

import csv
import io
import json
import string
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from support.run_fixtures import a_failure, a_run, a_summary, some_objects, write_arrays

from fossilray.analysis.export.boxes import export_objects, save_crops
from fossilray.analysis.report import write_report
from fossilray.analysis.report.figures import DepthSample, draw_depth_chart
from fossilray.cli.main import main
from fossilray.core.errors import CatalogError, StoreError
from fossilray.core.records import CatalogRow, RejectedFile
from fossilray.core.slide_names import check_slide_id, check_well, slide_id_for
from fossilray.core.text import escape_formula, unescape_formula
from fossilray.jobs.progress import JsonLines, TerminalDisplay
from fossilray.processing.planning.dry_run import RunPlan, render_plan
from fossilray.render.tables import encode_table, print_table
from fossilray.slides.catalog import Catalog, read_catalog_file, write_catalog, write_refused
from fossilray.store import RunStore
from fossilray.store.query.connection import load_crops, run_query
from fossilray.store.run.layout import arrays_path, is_arrays_path, objects_path, picture_path, well_of
from fossilray.store.status import read_status, render_status

SIGNS = (
    "'\"<>&/\\=+-@;:,%*?[]{}()|$#!~`^_. \t\r\n\x00\x07\x1b\x7f\x9b\u00a0\u200b\u200e\u202e\u2028\u2066\ufeff"
)
NAMES = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "' onmouseover='alert(1)",
    "]]><!-- --></svg></style><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "'); DROP VIEW objects; --",
    "' OR ''='",
    "../../../etc/passwd",
    "..",
    "a/../../b",
    "C:\\Windows\\system32",
    "$\\frac{1}{0}$ $x$",
    "[red]alarm[/red] [link=https://example.org]press[/link]",
    "\x1b]0;owned\x07\x1b[2J\x1b[31m",
    "\u202egnp.exe\u2066",
    "=HYPERLINK(\"https://example.org\"; \"press\")",
    "+1+cmd|' /C calc'!A0",
    "@SUM(1;1)",
    "-2+3",
    "'=1+1",
    "well=x/y=z",
    "%2e%2e%2f",
    "*?[a-z]{b,c}",
    "a\nb\r\nc",
    "ø 6407/6-5 Ångström \N{SNOWMAN}",
)  # fmt: skip

hostile = st.one_of(
    st.sampled_from(NAMES),
    st.text(st.sampled_from(SIGNS + string.ascii_letters + string.digits + "øß漢"), min_size=1, max_size=40),
)
file_names = hostile.map(lambda text: text.replace("/", "_").replace("\0", "_")).filter(
    lambda text: text not in (".", "..")
)


class Elements(HTMLParser):
    """How often each element and attribute stands in a page, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: Counter[tuple[str, ...]] = Counter()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found[(tag, *sorted(name for name, _ in attrs))] += 1

    def handle_comment(self, data: str) -> None:
        self.found["comment", data] += 1

    def handle_data(self, data: str) -> None:
        self.text += data


def a_run_named(folder: Path, names: list[str]) -> RunStore:
    """A run in which wells, paths, vendors, hosts and messages are these names."""
    store = RunStore.open(str(folder))
    store.create_or_check(a_run())
    store.freeze_catalog(
        [CatalogRow(slide_id=f"s{i}", path=f"/{name}", well=name) for i, name in enumerate(names)]
    )
    for number, name in enumerate(names):
        slide_id = f"s{number}"
        attempt = store.attempts.start(slide_id, deadline_s=60)
        if number % 4 == 3:
            store.attempts.record_failure(
                replace(a_failure(slide_id, attempt.attempt), message=name, host=name)
            )
            continue
        files = write_arrays(store, slide_id, attempt.attempt)
        summary = a_summary(slide_id, attempt.attempt, objects=3, well=name)
        summary = replace(summary, path=f"/slides/{name}", vendor=name, host=name, measured_depth_m=None)
        table = with_column(some_objects(slide_id, files.path, 3), "width_um", [20.0, 30.0, 40.0])
        assert store.commit_slide(table, summary, files, attempt=attempt)
    return store


def with_column(table: pa.Table, name: str, values: list[object]) -> pa.Table:
    index = table.schema.get_field_index(name)
    return table.set_column(index, table.schema.field(name), pa.array(values, table.schema.field(name).type))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    path = tmp_path_factory.mktemp("runs") / "it's [a] <b>run</b> *of* {mine}; DROP"
    return a_run_named(path, list(NAMES))


def seen_on_terminal(*renderables: object) -> str:
    """What a terminal without colours would be sent."""
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=300)
    for one in renderables:
        console.print(one)
    return console.file.getvalue()  # type: ignore[attr-defined]


def check_harmless(sent: str) -> None:
    odd = {sign for sign in sent if sign != "\n" and not sign.isprintable()}
    assert not odd, odd


@given(st.lists(file_names, min_size=1, max_size=4))
@settings(deadline=None, max_examples=150)
def test_any_path_gives_an_id_that_stays_in_the_run_directory(parts: list[str]) -> None:
    slide_id = slide_id_for(PurePosixPath(*parts))
    assert check_slide_id(slide_id) == slide_id
    for path in (
        objects_path(slide_id, "6407/6-5"),
        arrays_path(slide_id, "attempt1"),
        picture_path(slide_id),
    ):
        assert len(PurePosixPath(path).parts) == path.count("/") + 1
        assert not path.startswith("/")
        assert ".." not in path
    assert is_arrays_path(arrays_path(slide_id, "attempt1"))


@given(hostile)
@settings(deadline=None, max_examples=200)
def test_an_id_from_a_catalog_is_safe_or_refused(text: str) -> None:
    try:
        path = PurePosixPath(objects_path(text, None))
    except CatalogError:
        return
    assert len(path.parts) == 3
    assert path.name == f"{text}.parquet"
    assert not set(text) & set("/\\\0<>\"'&*?[]{};|$`\n\r\x1b\u202e")


@given(hostile)
@settings(deadline=None, max_examples=200)
def test_a_well_is_one_folder_and_comes_back(well: str) -> None:
    path = objects_path("slide", well)
    assert len(PurePosixPath(path).parts) == 3
    assert PurePosixPath(path).parts[1].isascii()
    assert well_of(path) == well


def test_wells_that_no_folder_can_bear_are_refused(tmp_path: Path) -> None:
    assert check_well("6407/6-5") == "6407/6-5"
    catalog = tmp_path / "catalog.csv"
    for well in ("ø" * 60, "w" * 241, "__HIVE_DEFAULT_PARTITION__"):
        catalog.write_text(f"slide_id,path,well\na,a.mrxs,{well}\n")
        with pytest.raises(CatalogError, match=r"line 2: the well .* cannot name a folder"):
            read_catalog_file(catalog)


def test_hostile_wells_are_read_back_through_sql(store: RunStore) -> None:
    committed = {f"s{number}": name for number, name in enumerate(NAMES) if number % 4 != 3}
    rows = run_query(store, "SELECT slide_id, well, count(*) AS n FROM objects GROUP BY ALL").to_pylist()
    assert {row["slide_id"]: row["well"] for row in rows} == committed
    assert {row["n"] for row in rows} == {3}
    outside = {path for path in Path(store.url).parent.iterdir() if path != Path(store.url)}
    assert not outside


def test_forged_tables_lead_to_no_other_file(store: RunStore, tmp_path: Path) -> None:
    for path in ("../../other", "/etc", "arrays/a/../../../x.zarr", "arrays/s0/..", "s3://elsewhere/x.zarr"):
        assert not is_arrays_path(path)
        with pytest.raises(StoreError, match="is not the path of a slide's arrays"):
            load_crops(store, pa.table({"arrays": [path], "object_id": [0]}))
    run = RunStore.open(str(tmp_path / "run"))
    run.create_or_check(a_run())
    attempt = run.attempts.start("honest", deadline_s=60)
    files = write_arrays(run, "honest", attempt.attempt)
    table = some_objects("honest", files.path, 3)
    assert run.commit_slide(table, a_summary("honest", attempt.attempt, objects=3), files, attempt=attempt)
    (file,) = (tmp_path / "run").glob("objects/*/*.parquet")
    pq.write_table(
        with_column(pq.read_table(file, partitioning=None), "slide_id", ["../../forged"] * 3), file
    )
    with pytest.raises(CatalogError, match="not safe as a file name"):
        save_crops(run, where=None, out=tmp_path / "out" / "crops")
    assert not list(tmp_path.glob("*forged*"))


def test_exports_of_hostile_names_are_whole_and_stay_in_their_folder(store: RunStore, tmp_path: Path) -> None:
    slides = sum(number % 4 != 3 for number in range(len(NAMES)))
    assert export_objects(store, tmp_path / "geo", form="geojson").objects == 3 * slides
    for file in (tmp_path / "geo").iterdir():
        assert len(json.loads(file.read_text(encoding="utf-8"))["features"]) == 3
    assert save_crops(store, where=None, out=tmp_path / "crops") == 3 * slides
    assert {path.name for path in tmp_path.iterdir()} == {"geo", "crops"}


def test_csv_for_people_holds_no_formula(store: RunStore, tmp_path: Path) -> None:
    export_objects(store, tmp_path / "objects.csv", form="csv")
    queried = encode_table(run_query(store, "SELECT well, path, objects - 9 AS less FROM slides"), "csv")
    (tmp_path / "query.csv").write_bytes(queried)
    write_refused(
        Catalog([], [RejectedFile("s", name, f"{name} is no slide") for name in NAMES]),
        tmp_path / "refused.csv",
    )
    for name in ("objects.csv", "query.csv", "refused.csv"):
        with (tmp_path / name).open(encoding="utf-8", newline="") as file:
            for cell in (cell for row in csv.reader(file) for cell in row):
                assert not cell.startswith(("=", "+", "@", "\t", "\r")), (name, cell)
                assert not cell.startswith("-") or cell.lstrip("-").isdigit(), (name, cell)
    assert b"-6" in queried  # a number below zero stays one


@given(hostile)
@settings(deadline=None, max_examples=200)
def test_what_keeps_a_spreadsheet_from_counting_is_undone_on_reading(text: str) -> None:
    safe = escape_formula(text)
    assert not safe.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert unescape_formula(safe) == text


@given(names=st.lists(hostile.filter(lambda text: "\0" not in text and text.strip()), min_size=1, max_size=5))
@settings(deadline=None, max_examples=40)
def test_catalogs_of_hostile_names_come_back_the_same(
    names: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = [
        CatalogRow(slide_id=f"s{i}", path=f"/slides/{i}.mrxs", well=name.strip(), vendor=name)
        for i, name in enumerate(names)
    ]
    path = tmp_path_factory.mktemp("catalog") / "catalog.csv"
    write_catalog(Catalog(rows, []), path)
    assert read_catalog_file(path).rows == rows


def test_the_report_has_the_elements_it_would_have_with_harmless_names(tmp_path: Path) -> None:
    names = ["".join(NAMES[:3]), NAMES[3] + NAMES[11], NAMES[4] + NAMES[14], NAMES[13] + NAMES[0]]
    hostile_run = a_run_named(tmp_path / "<b>run</b>", names)
    harmless = a_run_named(tmp_path / "run", [f"name {number}" for number in range(len(names))])
    pages = [
        Elements(write_report(run, tmp_path / f"{number}.html").read_text(encoding="utf-8"))
        for number, run in enumerate((harmless, hostile_run))
    ]
    # Charts have ticks and ids of their own, one more or less with the width of a label.
    drawn = {"g", "path", "use", "text", "tspan", "defs", "clippath", "rect", "line"}
    expected, found = (
        {kind: count for kind, count in page.found.items() if kind[0] not in drawn} for page in pages
    )
    assert found == expected
    assert {kind for kind in pages[1].found if kind[0] in drawn} <= {
        kind for kind in pages[0].found if kind[0] in drawn
    }
    assert "<script>alert(1)</script>" in pages[1].text
    assert "{{ 7 * 7 }}" in pages[1].text
    assert not set(pages[1].text) & set("\x1b\x07\x9b\u202e\u2066")


@given(hostile)
@settings(deadline=None, max_examples=4)
def test_a_chart_has_the_same_elements_whatever_its_samples_are_called(name: str) -> None:
    def chart(label: str) -> Counter[tuple[str, ...]]:
        sample = DepthSample(label, None, 3, 1.0, None, None, (120, 80, 40))
        return Elements(draw_depth_chart([sample], densest_per_mm2=5.0, name="well")).found

    assert set(chart(name)) <= set(chart("plain"))


@given(hostile)
@settings(deadline=None, max_examples=60)
def test_tables_plans_and_messages_send_no_control_signs(name: str) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=300)
    print_table(pa.table({name: [name], "n": [1]}), console=console)
    TerminalDisplay(console).message(f"{name}: cannot be read")
    check_harmless(console.file.getvalue())  # type: ignore[attr-defined]
    plan = RunPlan((), (RejectedFile("s", f"/slides/{name}", f"{name} is no slide"),), 1, 1)
    check_harmless(seen_on_terminal(render_plan(plan)))
    lines = io.StringIO()
    JsonLines(lines).message(name)
    assert lines.getvalue().count("\n") == 1
    assert json.loads(lines.getvalue())["text"] == name
    assert lines.getvalue().isascii()


def test_status_of_hostile_names_is_plain_text(store: RunStore) -> None:
    sent = seen_on_terminal(render_status(read_status(store)))
    check_harmless(sent)
    assert "]]><!-- --></svg></style><svg onload=alert(1)>" in sent


@pytest.mark.parametrize(
    "name", [name for name in NAMES if "/" not in name and "\0" not in name and name != ".."]
)
def test_commands_print_hostile_names_without_their_powers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / f"{name}.tif").write_bytes(b"no slide")
    for arguments in (
        ["catalog", str(tmp_path / "slides"), "--out", str(tmp_path / "c.csv")],
        ["status", str(tmp_path / name)],
        ["query", str(tmp_path / name), "SELECT 1"],
    ):
        monkeypatch.setattr(sys, "argv", ["fossilray", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code in (2, 3)
        captured = capsys.readouterr()
        check_harmless(captured.out + captured.err)
