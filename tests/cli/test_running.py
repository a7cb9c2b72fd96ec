"""The report of a job: what failed, why, and which command comes next, on the last line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fossilray.cli.running import print_result
from fossilray.core.records import Failure
from fossilray.jobs.progress import Tally
from fossilray.jobs.run_items import JobResult


def failure(slide_id: str, error: str, *, quarantined: bool = False) -> Failure:
    return Failure(
        slide_id=slide_id,
        attempt="0" * 16,
        stage="open",
        error=error,
        message=f"{slide_id} cannot be read",
        host="here",
        failed_at="2026-11-30T12:00:00+00:00",
        transient=False,
        quarantined=quarantined,
    )


def last_line(
    capsys: pytest.CaptureFixture[str],
    failures: tuple[Failure, ...],
    *,
    stopped: bool = False,
    is_run: bool = True,
) -> str:
    tally = Tally(total=9, committed=9 - len(failures), failed=len(failures))
    result = JobResult(tally, failures, stopped=stopped, counts=tally.counts)
    print_result(result, "s3://archive/a run", is_run=is_run)
    return capsys.readouterr().out.splitlines()[-1]


def test_the_last_line_names_number_reasons_and_next_command(capsys: pytest.CaptureFixture[str]) -> None:
    failures = (
        failure("a", "UnreadableSlide"),
        failure("b", "MissingResolution"),
        failure("c", "UnreadableSlide"),
    )
    assert last_line(capsys, failures) == (
        "not committed: 3 failed (2 UnreadableSlide, 1 MissingResolution); `fossilray failures 's3://archive/a run'` "
        "lists the reasons; after a repair, run the same command again"
    )


def test_quarantined_slides_are_named_apart_with_the_command_that_clears_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    failures = (failure("a", "UnreadableSlide"), failure("b", "WorkerDied", quarantined=True))
    assert last_line(capsys, failures) == (
        "not committed: 1 failed (1 UnreadableSlide), 1 quarantined (1 WorkerDied); "
        "`fossilray failures 's3://archive/a run'` lists the reasons; after a repair, "
        "`fossilray retry 's3://archive/a run'`, then run the same command again"
    )


def test_a_job_at_derived_results_is_only_run_again(capsys: pytest.CaptureFixture[str]) -> None:
    line = last_line(capsys, (failure("a", "StoreError"),), is_run=False)
    assert line == "not committed: 1 failed (1 StoreError); run the same command again"


def test_a_stopped_job_ends_with_how_to_resume(capsys: pytest.CaptureFixture[str]) -> None:
    line = last_line(capsys, (failure("a", "StoreError"),), stopped=True)
    assert line == "stopped early; run the same command again to resume"


def test_without_failures_the_counts_are_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert last_line(capsys, ()).startswith(
        "9 of 9 slides committed (0 before), 0 new objects -> s3://archive"
    )


@pytest.mark.parametrize(
    ("folder", "shown"),
    [
        ("s3://archive/run/derived/embeddings/new", "s3://archive/run/derived/embeddings/new"),
        ("/elsewhere/run/derived/embeddings/new", "/elsewhere/run/derived/embeddings/new"),
        ("{here}/run/derived/embeddings/new", "run/derived/embeddings/new"),
    ],
)
def test_results_beside_a_run_are_reported_with_the_folder_that_holds_them(
    folder: str,
    shown: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    tally = Tally(total=9, committed=9)
    result = JobResult(tally, (), stopped=False, counts=tally.counts, folder=folder.format(here=Path.cwd()))
    print_result(result, "a dataset", things="objects embedded")
    assert capsys.readouterr().out.replace("\n", "").endswith(f"objects embedded -> {shown}")
