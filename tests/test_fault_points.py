"""Commands that write, broken at their file operations: the same command again gives what an unbroken one gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_points import build, start
from fault_scenarios import scenarios

COMMANDS = sorted(scenarios(Path()))
USUAL = {"labels import": 5, "compact": 5}
"""Points of each that are tried in every run of the tests."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = build(tmp_path_factory.mktemp("library"))
    if built is None:
        pytest.skip("no C compiler, or no Linux")
    return built


@pytest.mark.parametrize("command", USUAL)
def test_a_command_that_was_broken_off_gives_the_same_when_given_again(library: Path, command: str) -> None:
    report = start(command, library=library, points=USUAL[command], seed=7)
    assert report.points == USUAL[command]
    assert not report.failures


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_operation_of_a_command_may_be_killed_or_refused(library: Path, command: str) -> None:
    report = start(command, library=library)
    assert report.points == 6 * report.operations
    assert not report.failures
