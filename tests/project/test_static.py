"""Lint, format, spelling and types: one command for all of it is the test suite."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.static_checks import ROOT, type_check


@pytest.mark.parametrize("check", [("check", "."), ("format", "--check", ".")], ids=lambda check: check[0])
def test_ruff_has_nothing_to_say(check: tuple[str, ...]) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "ruff", *check], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_words_are_spelled_as_in_a_dictionary() -> None:
    check = subprocess.run(
        [sys.executable, "-m", "codespell_lib"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stdout + check.stderr


def test_types_hold(request: pytest.FixtureRequest) -> None:
    check = type_check(request.config)
    output, _ = check.communicate(timeout=280)
    assert check.returncode == 0, output
