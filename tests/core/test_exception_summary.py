"""Summaries of exceptions."""

from __future__ import annotations

from pathlib import Path

import pytest

from fossilray.core.errors import UsageError
from fossilray.core.exception_summary import summarise_exception
from fossilray.labels.sources import parse_labels


def test_the_recorded_line_is_the_innermost_of_fossilray_whatever_its_room(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        parse_labels(tmp_path / "missing")
    assert summarise_exception(caught.value).location.startswith("fossilray/labels/sources.py:")
