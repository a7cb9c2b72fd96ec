"""Errors have kept records of what they were called before."""

from __future__ import annotations

import dataclasses

from fossilray.core import errors
from fossilray.core.records import Failure


def test_failures_recorded_under_an_earlier_class_name_bear_the_present_one() -> None:
    failure = Failure("A17", "00" * 8, "read", "TooMuchLost", "lost", False, True, "here", "2026-01-01")
    assert failure.error == "TooManyUnreadableTiles"
    assert dataclasses.replace(failure, error="NotASlide").error == "NotASlide"
    assert all(
        issubclass(getattr(errors, name), errors.FossilrayError) for name in errors.NAMES_BEFORE.values()
    )
