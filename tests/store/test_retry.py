"""What failed is forgiven on request, for chosen slides or a class, and listed through DuckDB until then."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.cli_runner import run_command
from support.run_fixtures import a_failure, a_run, commit

from fossilray.core.errors import UsageError
from fossilray.core.records import CatalogRow, Failure
from fossilray.jobs.journal import DriverJournal
from fossilray.jobs.progress import Tally
from fossilray.store import RunStore
from fossilray.store.maintenance.retry import retry_failures


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """Slide `fine` is committed, `torn` unreadable, `poison` and `worse` quarantined for their workers' deaths."""
    store = RunStore.open(str(tmp_path / "run"))
    store.create_or_check(a_run())
    store.freeze_catalog([CatalogRow(name, f"/{name}.mrxs") for name in ("fine", "torn", "poison", "worse")])
    commit(store, "fine")
    store.attempts.record_failure(a_failure("torn", "11" * 8))
    journal = DriverJournal(store.attempts, run=store)
    for slide_id in ("poison", "worse"):
        for turn in range(3):
            journal.record_loss(
                slide_id, error="WorkerDied", reason="SIGSEGV", stage="open", quarantined=turn == 2
            )
    journal.close(Tally(total=4))
    return store


def test_all_that_failed_is_forgiven_and_counts_anew(store: RunStore) -> None:
    assert DriverJournal(store.attempts, run=store).failure_weights() == {"poison": 3.0, "worse": 3.0}
    assert len(retry_failures(store)) == 7
    assert not store.attempts.failures()
    assert not DriverJournal(store.attempts, run=store).failure_weights()
    assert len(store.attempts.failures(include_cleared=True)) == 7, "the records stay"


def test_chosen_slides_are_forgiven_and_no_others(store: RunStore) -> None:
    retry_failures(store, slide_ids=["poison"])
    assert {failure.slide_id for failure in store.attempts.failures()} == {"torn", "worse"}


def test_a_class_is_forgiven_with_all_that_came_before(store: RunStore) -> None:
    retry_failures(store, error="WorkerDied")
    assert {failure.slide_id for failure in store.attempts.failures()} == {"torn"}


def test_a_failure_after_the_pardon_counts(store: RunStore) -> None:
    retry_failures(store)
    store.attempts.record_failure(a_failure("torn", "22" * 8))
    assert [failure.attempt for failure in store.attempts.failures()] == ["22" * 8]


def test_what_did_not_fail_is_told(store: RunStore) -> None:
    with pytest.raises(UsageError, match="holds no failure of fine"):
        retry_failures(store, slide_ids=["fine"])
    with pytest.raises(
        UsageError, match="held back by Stalled; classes there: TooManyUnreadableTiles, WorkerDied"
    ):
        retry_failures(store, error="Stalled")


def test_files_refused_at_the_start_are_not_forgiven_because_every_start_looks_anew(store: RunStore) -> None:
    refused = Failure("bad", "33" * 8, "catalog", "NotASlide", "empty", False, True, "here", "2030-01-01")
    store.attempts.record_failure(refused)
    assert "bad" not in {failure.slide_id for failure in retry_failures(store)}
    assert store.attempts.failures() == [refused]


def test_the_commands_list_and_forgive(store: RunStore) -> None:
    listed = run_command("failures", store.url, "--where", "quarantined", "--format", "json")
    rows = json.loads(listed)
    assert {row["slide_id"] for row in rows} == {"torn", "poison", "worse"}
    assert "will be tried again" in run_command("retry", store.url, "--slide", "poison")
    assert "poison" not in run_command("failures", store.url, "--format", "csv")
    status = json.loads(run_command("status", store.url, "--json"))
    assert (status["committed"], status["waiting"]) == (1, 1)
    assert status["failed_by_class"] == {"TooManyUnreadableTiles": 1, "WorkerDied": 1}
