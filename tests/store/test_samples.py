"""Samples are corrected in rounds after a run is frozen; every view follows, and nothing stored is rewritten."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from support.classified_run import predict
from support.cli_runner import invoke, rows_of, run_command
from support.s3_bucket import s3_endpoint, s3_run  # noqa: F401 (fixtures)
from support.small_run import COUNTS, WELL, write_small_run

from fossilray.core.config import StoreConfig
from fossilray.core.errors import CatalogError, DamagedFile, StoreError, UsageError
from fossilray.core.records import CatalogRow
from fossilray.store import RunStore, open_run
from fossilray.store.dataset.compact import compact_run
from fossilray.store.maintenance.garbage import collect_garbage
from fossilray.store.maintenance.verify import verify_run
from fossilray.store.query.connection import run_query
from fossilray.store.samples.importing import SampleImport, import_round

OTHER = "6407/6-6"


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    store = write_small_run(tmp_path / "run")
    predict(store, "genera")
    return store


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def make(*rows: Mapping[str, object], name: str = "samples.csv") -> Path:
        path = tmp_path / name
        columns = list(dict.fromkeys(column for row in rows for column in row))
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, columns)
            table.writeheader()
            table.writerows(rows)
        return path

    return make


def correct(store: RunStore, path: Path, who: str = "Ada") -> SampleImport:
    return import_round(path, store.read_catalog(), store.sample_rounds, who=who)


def wells_and_depths(
    store: RunStore, view: str, depth: str = "measured_depth_m"
) -> dict[str, tuple[object, object]]:
    rows = run_query(store, f"SELECT DISTINCT slide_id, well, {depth} AS depth FROM {view}").to_pylist()
    return {row["slide_id"]: (row["well"], row["depth"]) for row in rows}


def contents(store: RunStore) -> dict[str, bytes]:
    root = Path(store.root)
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and "samples" not in path.relative_to(root).parts[0]
    }


def damage(store: RunStore) -> list[str]:
    findings = verify_run(RunStore.open(store.url)).findings
    return [finding.kind for finding in findings if finding.kind != "summaries"]


def test_every_view_follows_a_round_and_no_stored_file_changes(
    store: RunStore, write: Callable[..., Path]
) -> None:
    before = contents(store)
    report = correct(
        store,
        write(
            {
                "slide_id": "a-2030",
                "well": "NO 6407_6-6",
                "top_depth": "6690",
                "base_depth": "6700",
                "depth_unit": "ft",
            },
            {
                "slide_id": "b-2050",
                "well": WELL,
                "top_depth": "2050",
                "base_depth": "2060",
                "depth_unit": "m",
            },
        ),
    )
    assert report.round is not None
    assert report.round.number == 1
    expected = {
        "a-2030": (OTHER, pytest.approx(2040.636)),
        "b-2050": (WELL, 2055.0),
        "c-2080": (WELL, 2080.0),
    }
    assert wells_and_depths(store, "objects") == expected
    slides = wells_and_depths(store, "slides")
    assert {name: slides[name] for name in expected} == expected
    predicted = wells_and_depths(store, "predictions", "0")
    assert {name: well for name, (well, _) in predicted.items()} == {
        name: well for name, (well, _) in expected.items()
    }
    samples = run_query(store, "SELECT * FROM samples WHERE slide_id = 'a-2030'").to_pylist()[0]
    assert (samples["well"], samples["depth_unit"]) == (OTHER, "ft")
    assert samples["top_depth_m"] == pytest.approx(2039.112)
    assert run_query(store, "SELECT count(*) AS n FROM objects")["n"].to_pylist() == [sum(COUNTS.values())]
    assert (
        run_query(store, f"SELECT slide_id FROM objects WHERE well = '{OTHER}'").num_rows == COUNTS["a-2030"]
    )
    joined = "SELECT count(*) AS n FROM objects JOIN predictions USING (slide_id, object_id, well)"
    assert run_query(store, joined)["n"].to_pylist() == [sum(COUNTS.values())]
    assert contents(store) == before
    assert verify_run(store, deep=True).sound
    collect_garbage(store, older_than=timedelta(days=30), deadline_minutes=60)
    assert len(RunStore.open(store.url).sample_rounds.all()) == 1


def test_a_condition_on_the_well_skips_the_files_of_other_wells(
    store: RunStore, write: Callable[..., Path]
) -> None:
    correct(store, write({"slide_id": "c-2080", "well": OTHER}))
    plan = run_query(store, f"EXPLAIN ANALYZE SELECT count(*) FROM objects WHERE well = '{WELL}'")
    assert "Scanning Files: 3/4" in plan["explain_value"][0].as_py()
    counts = run_query(
        store, "SELECT well, count(*) AS n FROM objects GROUP BY well ORDER BY well"
    ).to_pylist()
    assert counts == [
        {"well": WELL, "n": COUNTS["a-2030"] + COUNTS["b-2050"]},
        {"well": OTHER, "n": COUNTS["c-2080"]},
    ]


def test_a_slide_may_leave_its_well_and_come_back(store: RunStore, write: Callable[..., Path]) -> None:
    correct(store, write({"slide_id": "a-2030", "well": ""}))
    assert wells_and_depths(store, "objects")["a-2030"][0] == "unassigned"
    correct(store, write({"slide_id": "a-2030", "well": WELL}))
    assert wells_and_depths(store, "objects")["a-2030"][0] == WELL


@pytest.mark.parametrize("suffix", [".csv", ".xlsx", ".ods", ".parquet"])
def test_an_export_imports_as_nothing_new(store: RunStore, tmp_path: Path, suffix: str) -> None:
    table = tmp_path / f"samples{suffix}"
    run_command("samples", "export", store.url, "--out", table)
    assert "nothing new" in run_command("samples", "import", store.url, table)
    assert store.sample_rounds.all() == ()


def test_history_names_round_person_and_values_before_and_after(
    store: RunStore, tmp_path: Path, write: Callable[..., Path]
) -> None:
    run_command("samples", "import", store.url, write({"slide_id": "a-2030", "well": OTHER}), "--who", "Ada")
    run_command(
        "samples", "import", store.url, write({"slide_id": "a-2030", "weight_g": "12,5"}), "--who", "Bo"
    )
    shown = run_command("samples", "history", store.url)
    assert all(word in shown for word in ("round 1", "Ada", WELL, OTHER))
    out = tmp_path / "history.csv"
    run_command("samples", "history", store.url, "--out", out)
    assert [(row["round"], row["who"], row["column"], row["was"], row["now"]) for row in rows_of(out)] == [
        ("1", "Ada", "well", WELL, OTHER),
        ("2", "Bo", "weight_g", "", "12.5"),
    ]


def test_a_dry_run_writes_nothing(store: RunStore, write: Callable[..., Path]) -> None:
    shown = run_command(
        "samples", "import", store.url, write({"slide_id": "a-2030", "well": OTHER}), "--dry-run"
    )
    assert "1 of 1 slides would be corrected" in shown
    assert store.sample_rounds.all() == ()


def test_an_export_keeps_what_others_corrected_meanwhile(
    store: RunStore, tmp_path: Path, write: Callable[..., Path]
) -> None:
    table = tmp_path / "exported.csv"
    run_command("samples", "export", store.url, "--out", table)
    rows = rows_of(table)
    correct(store, write({"slide_id": "b-2050", "well": OTHER}), who="Bo")
    rows[0]["remark"] = "slide was relabelled"
    assert correct(store, write(*rows)).round is not None
    assert wells_and_depths(store, "samples")["b-2050"][0] == OTHER
    rows[1]["well"] = "6407/6-7"
    with pytest.raises(UsageError, match="became 6407/6-6 since this table was exported"):
        correct(store, write(*rows))
    rows[1]["as_of"] = "round 7 12345678"
    with pytest.raises(UsageError, match="no round of this run"):
        correct(store, write(*rows))


def test_two_importers_get_a_round_each(store: RunStore, write: Callable[..., Path]) -> None:
    tables = [
        write({"slide_id": slide_id, "weight_g": 10 + number}, name=f"{slide_id}.csv")
        for number, slide_id in enumerate(COUNTS)
    ]
    with ThreadPoolExecutor(4) as threads:
        reports = list(threads.map(lambda table: correct(RunStore.open(store.url), table), tables))
    assert sorted(report.round.number for report in reports if report.round) == [1, 2, 3, 4]
    weights = run_query(store, "SELECT count(weight_g) AS n FROM samples")["n"].to_pylist()
    assert weights == [4]


def test_a_dataset_shows_the_rounds_that_it_holds_and_those_that_came_later(
    store: RunStore, tmp_path: Path, write: Callable[..., Path]
) -> None:
    correct(store, write({"slide_id": "a-2030", "well": OTHER}))
    compact_run(store, str(tmp_path / "dataset"), access=StoreConfig(), slides_per_file=10)
    dataset = open_run(tmp_path / "dataset")
    assert wells_and_depths(dataset, "objects") == wells_and_depths(store, "objects")
    correct(store, write({"slide_id": "b-2050", "well": OTHER, "top_depth_m": 9, "base_depth_m": 10}))
    dataset = open_run(tmp_path / "dataset")
    assert wells_and_depths(dataset, "objects")["b-2050"] == (OTHER, 9.5)
    assert run_query(dataset, "SELECT count(*) AS n FROM objects")["n"].to_pylist() == [sum(COUNTS.values())]
    Path(store.root).rename(tmp_path / "moved")
    assert wells_and_depths(open_run(tmp_path / "dataset"), "objects")["a-2030"][0] == OTHER
    assert run_command("verify", tmp_path / "dataset", "--deep")
    refused = invoke("samples", "import", tmp_path / "dataset", tmp_path / "samples.csv")
    assert "only read" in str(refused.exception)


def test_rounds_work_in_an_object_store(
    s3_run: tuple[str, StoreConfig],  # noqa: F811
    write: Callable[..., Path],
) -> None:
    url, config = s3_run
    store = write_small_run(url, config=config)
    correct(store, write({"slide_id": "a-2030", "well": OTHER, "measured_depth_m": "2035"}))
    assert wells_and_depths(store, "objects")["a-2030"] == (OTHER, 2035.0)
    assert wells_and_depths(store, "objects")["b-2050"] == (WELL, 2050.0)


def test_a_catalog_with_the_corrected_values_resumes_the_run(
    store: RunStore, write: Callable[..., Path]
) -> None:
    row = CatalogRow("a-2030", "slides/a-2030.mrxs", well=OTHER)
    with pytest.raises(CatalogError, match="samples import"):
        store.freeze_catalog([row])
    correct(store, write({"slide_id": "a-2030", "well": OTHER}))
    frozen = {row.slide_id: row.well for row in store.freeze_catalog([row])}
    assert frozen["a-2030"] == WELL


def test_damaged_and_missing_rounds_are_named(store: RunStore, write: Callable[..., Path]) -> None:
    correct(store, write({"slide_id": "a-2030", "well": OTHER}))
    correct(store, write({"slide_id": "a-2030", "well": WELL}))
    first = Path(store.root) / "samples" / "round-00001.parquet"
    content = bytearray(first.read_bytes())
    content[40] ^= 0xFF
    first.write_bytes(content)
    with pytest.raises(DamagedFile, match="round-00001"):
        RunStore.open(store.url).summaries()
    assert damage(store) == ["samples"]
    first.unlink()
    with pytest.raises(StoreError, match="is gone, although a later round"):
        RunStore.open(store.url).sample_corrections()
    assert damage(store) == ["samples"]


REFUSED: dict[str, tuple[list[dict[str, object]], str]] = {
    "a slide of another run": (
        [{"slide_id": "a-2030", "well": OTHER}, {"slide_id": "z-1", "well": OTHER}],
        r"line 3: 1 slide of samples.csv not in this run: z-1",
    ),
    "slides of another run alone": (
        [{"slide_id": "z-1", "well": OTHER}],
        "none of the 1 slides is in this run",
    ),
    "a slide twice": (
        [{"slide_id": "a-2030", "well": OTHER}, {"slide_id": "a-2030", "well": WELL}],
        "line 3: slide a-2030 is in line 2 already",
    ),
    "a sample without a site": (
        [{"slide_id": "a-2030", "well": "", "weight_g": 3}],
        "has a sample and no site",
    ),
    "a spike without a weight": (
        [{"slide_id": "a-2030", "marker": "Lycopodium", "marker_tablets": 1, "grains_per_tablet": 20848}],
        "neither weight_g nor volume_ml",
    ),
    "half a spike": (
        [{"slide_id": "a-2030", "marker_tablets": 1, "weight_g": 3}],
        "marker is empty and marker_tablets",
    ),
    "a deviation alone": ([{"slide_id": "a-2030", "grains_per_tablet_sd": 500}], "a spike needs marker"),
    "an interval upside down": (
        [{"slide_id": "a-2030", "top_depth_m": 2040, "base_depth_m": 2030}],
        "the interval 2040 to 2030 m is upside down",
    ),
    "half an interval": (
        [{"slide_id": "a-2030", "top_depth_m": 2040, "base_depth_m": ""}],
        "base_depth_m is empty",
    ),
    "a vertical depth above the measured one": (
        [{"slide_id": "a-2030", "top_depth_m": 2030, "base_depth_m": 2040, "tvd_m": 2100}],
        "tvd_m is 2100, deeper than the measured depth 2040",
    ),
    "two depths for one sample": (
        [
            {"slide_id": "a-2030", "sample": "S1", "top_depth_m": 2030, "base_depth_m": 2040},
            {"slide_id": "b-2050", "sample": "S1", "top_depth_m": 2050, "base_depth_m": 2060},
        ],
        "sample S1 of 6407/6-5 has two depths: 2030-2040 m on slide a-2030, 2050-2060 m on b-2050",
    ),
    "a weight of nothing": ([{"slide_id": "a-2030", "weight_g": 0}], "weight_g is 0, not above 0"),
    "a depth in feet": (
        [{"slide_id": "a-2030", "top_depth_m": 30000, "base_depth_m": 30010}],
        "is it in feet",
    ),
    "a unit that is none": ([{"slide_id": "a-2030", "depth_unit": "fathom"}], "write m or ft"),
    "a kind of site that is none": (
        [{"slide_id": "a-2030", "site_kind": "lake"}],
        "write well, outcrop, core hole",
    ),
    "nothing about samples": ([{"slide_id": "a-2030", "vendor": "x"}], "no column about samples"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_contradicts_itself_is_refused_by_name_and_nothing_is_imported(
    case: str, store: RunStore, write: Callable[..., Path]
) -> None:
    rows, message = REFUSED[case]
    path = write(*rows)
    with pytest.raises(UsageError, match=message) as caught:
        correct(store, path)
    assert str(path) in str(caught.value)
    assert store.sample_rounds.all() == ()


def test_overlapping_intervals_of_one_type_are_a_note(store: RunStore, write: Callable[..., Path]) -> None:
    rows = [
        {"slide_id": "a-2030", "top_depth_m": 2030, "base_depth_m": 2045, "sample_type": "DC"},
        {"slide_id": "b-2050", "top_depth_m": 2040, "base_depth_m": 2050, "sample_type": "cuttings"},
        {"slide_id": "c-2080", "top_depth_m": 2035, "base_depth_m": 2036, "sample_type": "SWC"},
    ]
    report = correct(store, write(*rows))
    assert report.round is not None
    assert report.notes == (
        "6407/6-5: 2030-2045 m (slide a-2030) and 2040-2050 m (slide b-2050) overlap, both ditch cuttings; check their "
        "depths",
    )
