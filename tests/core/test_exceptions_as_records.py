"""Exceptions as records of failures."""

from __future__ import annotations

from pathlib import Path

import pytest

from fossilray.core.errors import UsageError
from fossilray.core.exceptions_as_records import describe_exception
from fossilray.labels.sources import parse_labels


def test_the_recorded_line_is_the_innermost_of_fossilray_whatever_its_room(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        parse_labels(tmp_path / "missing")
    assert describe_exception(caught.value).place.startswith("fossilray/labels/sources.py:")
