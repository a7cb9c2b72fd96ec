"""Maintenance of derived results: verified, deleted where outdated, withdrawn with their slides, listed by status."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.classified_run import embed, predict
from support.cli_runner import invoke
from support.run_fixtures import a_failure
from support.small_run import COUNTS, HOSTILE_WELL, WELL, commit_slide, write_small_run

from fossilray.store import RunStore
from fossilray.store.maintenance.derived import delete_older_than_objects
from fossilray.store.maintenance.garbage import collect_garbage
from fossilray.store.maintenance.retry import delete_damaged_derived, withdraw_slides
from fossilray.store.maintenance.verify import verify_run
from fossilray.store.run.objects_file import FOOTER_KEY
from fossilray.store.status import read_status, render_status, status_as_json


@pytest.fixture
def run(tmp_path: Path) -> RunStore:
    store = write_small_run(tmp_path / "run")
    store.rebuild_summaries()
    predict(store, "genera")
    embed(store, "net", dimension=4)
    return store


def process_again(run: RunStore, slide_id: str) -> None:
    run.files.delete(run.committed_files()[slide_id])
    commit_slide(run, slide_id, count=COUNTS[slide_id], well=WELL, depth_m=2030.0, seed=9)
    run.rebuild_summaries()


def kinds(run: RunStore, *, deep: bool = False) -> list[tuple[str, str]]:
    return [(finding.kind, finding.path) for finding in verify_run(run, deep=deep).findings]


def rewrite(run: RunStore, path: str, table: pa.Table) -> None:
    """Put other rows under the footer of a file."""
    place = Path(run.url) / path
    footer = pq.read_metadata(place).metadata[FOOTER_KEY]
    pq.write_table(table.replace_schema_metadata({FOOTER_KEY: footer}), place, write_page_checksum=True)


def test_whole_results_are_sound(run: RunStore) -> None:
    report = verify_run(run, deep=True)
    assert report.sound
    assert report.derived_files == 2 * len(COUNTS)


def test_results_about_objects_processed_again_are_found_deleted_and_their_slide_left_alone(
    run: RunStore,
) -> None:
    process_again(run, "a-2030")
    folder = "well=6407%2F6-5/a-2030.parquet"
    report = verify_run(run)
    assert not report.sound
    found = sorted((finding.kind, finding.path) for finding in report.findings)
    assert found == [("outdated", f"embeddings/net/{folder}"), ("outdated", f"predictions/genera/{folder}")]
    assert "start `fossilray embed` again" in report.findings[0].message
    assert withdraw_slides(run, report.findings) == ()
    assert delete_damaged_derived(run, report.findings) == tuple(path for _, path in found)
    assert run.committed() == set(COUNTS)
    assert verify_run(run).sound


def test_the_command_deletes_what_it_was_asked_to(run: RunStore) -> None:
    process_again(run, "a-2030")
    answer = invoke("verify", run.url, "--withdraw")
    assert answer.exit_code == 1
    assert "2 files of embeddings or predictions deleted" in answer.output
    assert invoke("verify", run.url).exit_code == 0


def test_results_that_are_torn_misplaced_or_of_other_rows_are_named(run: RunStore) -> None:
    folder = Path(run.url) / "predictions" / "genera" / "well=6407%2F6-5"
    (folder / "a-2030.parquet").write_bytes((folder / "a-2030.parquet").read_bytes()[:-9])
    rewrite(
        run, "predictions/genera/well=6407%2F6-5/b-2050.parquet", pq.read_table(folder / "c-2080.parquet")
    )
    elsewhere = folder.parent / "well=other"
    elsewhere.mkdir()
    shutil.move(folder / "c-2080.parquet", elsewhere / "c-2080.parquet")
    (folder / "unknown.parquet").write_bytes((elsewhere / "c-2080.parquet").read_bytes())
    found = sorted(kinds(run, deep=True), key=lambda one: one[1])
    assert found == [
        ("derived", "predictions/genera/well=6407%2F6-5/a-2030.parquet"),
        ("derived", "predictions/genera/well=6407%2F6-5/b-2050.parquet"),
        ("outdated", "predictions/genera/well=6407%2F6-5/unknown.parquet"),
        ("derived", "predictions/genera/well=other/c-2080.parquet"),
    ]


def test_rows_that_contradict_themselves_are_found_by_a_deep_look_alone(run: RunStore) -> None:
    path = "predictions/genera/well=6407%2F6-5/c-2080.parquet"
    table = pq.read_table(Path(run.url) / path, partitioning=None).replace_schema_metadata(None)
    place = table.schema.get_field_index("score")
    rewrite(
        run, path, table.set_column(place, table.schema.field("score"), pa.array([7.0] * 12, pa.float32()))
    )
    assert kinds(run) == []
    assert kinds(run, deep=True) == [("derived", path)] * 2, "the last object has a score and no genus"


def test_a_sweep_deletes_old_results_that_fit_nothing_and_no_others(run: RunStore) -> None:
    process_again(run, "a-2030")
    run.files.delete(run.committed_files()["c-2080"])
    later = run.files.clock() + timedelta(days=3)
    age = {"older_than": timedelta(days=2), "deadline_minutes": 60.0}
    assert collect_garbage(run, **age).outdated == ()
    told = collect_garbage(run, **age, now=later, dry_run=True).outdated
    swept = collect_garbage(run, **age, now=later).outdated
    assert told == swept
    assert {path.rpartition("/")[2] for path in swept} == {"a-2030.parquet", "c-2080.parquet"}
    assert len(swept) == 4
    left = {path.rpartition("/")[2] for path in run.files.find("predictions") if path.endswith(".parquet")}
    assert left == {"b-2050.parquet", "d-empty.parquet"}


def test_a_start_asks_anew_about_slides_that_were_processed_again_and_about_no_others(run: RunStore) -> None:
    results = predict(run, "again")
    assert delete_older_than_objects(run, results) == []
    process_again(run, "a-2030")
    assert delete_older_than_objects(run, results) == ["a-2030"]
    assert results.committed() == set(COUNTS) - {"a-2030"}
    predict(run, "again", slides=["a-2030"])
    assert delete_older_than_objects(run, results) == []


def test_status_tells_how_far_results_are(run: RunStore) -> None:
    some = predict(run, "some", slides=["a-2030", "d-empty"])
    some.attempts.record_failure(a_failure("b-2050", "a1b2"))
    report = read_status(run)
    assert [(one.kind, one.name, one.processed, one.failed) for one in report.derived] == [
        ("embeddings", "net", 4, 0),
        ("predictions", "genera", 4, 0),
        ("predictions", "some", 2, 1),
    ]
    assert json.loads(status_as_json(report))["derived"][2]["processed"] == 2
    told = " ".join(invoke("status", run.url).output.split())
    assert "some: 2 of 4 slides, 1 failed" in told
    assert render_status(report) is not None
    assert HOSTILE_WELL not in told
