"""Exceptions as failures of attempts."""

from __future__ import annotations

from fossilray.core.errors import (
    DamagedFile,
    FossilrayError,
    NotASlide,
    OutOfMemory,
    SourceOut,
    SourceUnreachable,
)
from fossilray.core.exception_summary import ExceptionSummary
from fossilray.core.records import Failure


def _raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001
        return caught


def test_an_expected_error_decides_whether_it_may_pass_and_needs_no_location() -> None:
    failure = Failure.of(_raised(NotASlide("no slide")), slide_id="a", stage="open")
    assert (failure.error, failure.message, failure.stage) == ("NotASlide", "no slide", "open")
    assert failure.quarantined
    assert not failure.transient
    assert not failure.is_unexpected
    assert failure.traceback is None
    assert Failure.of(SourceUnreachable("gone"), slide_id="a", stage="open").transient


def test_any_other_exception_may_pass_and_is_recorded_with_location_and_traceback() -> None:
    failure = Failure.of(_raised(ValueError("odd")), slide_id="a", stage="detect")
    assert failure.transient
    assert not failure.quarantined
    assert failure.is_unexpected
    assert failure.traceback is not None
    assert "ValueError: odd" in failure.traceback


def test_the_traceback_of_the_cause_is_kept_beside_the_message_that_explains_it() -> None:
    failure = Failure.of(
        OutOfMemory("memory ran out"), cause=_raised(MemoryError()), slide_id="a", stage="embed"
    )
    assert (failure.error, failure.transient, failure.place) == ("OutOfMemory", True, None)
    assert failure.traceback is not None
    assert "MemoryError" in failure.traceback


def test_a_job_on_stored_data_expects_every_error_of_the_tree() -> None:
    damaged = _raised(DamagedFile("bad file"))
    assert Failure.of(damaged, slide_id="a", stage="read", expected=FossilrayError).quarantined
    assert Failure.of(damaged, slide_id="a", stage="read").transient


def test_a_loss_that_the_driver_saw_is_recorded_from_its_summary() -> None:
    failure = Failure.of(
        ExceptionSummary("WorkerDied", "killed"), slide_id="a", stage="worker", attempt="ab", transient=False
    )
    assert (failure.attempt, failure.error, failure.quarantined) == ("ab", "WorkerDied", True)
    assert failure.place is None
    assert failure.traceback is None


def test_the_root_that_cannot_be_reached_is_recorded() -> None:
    assert Failure.of(SourceOut("out", root="s3://bucket"), slide_id="a", stage="open").root == "s3://bucket"
