"""Commands that write, broken at their file operations: the same command again gives what an unbroken one gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.fault_points import build, start
from support.fault_scenarios import scenarios

COMMANDS = sorted(scenarios(Path()))
USUAL = ("labels import", "compact")
POINTS = 3
"""Of each of these, tried in every run of the tests."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = build(tmp_path_factory.mktemp("library"))
    if built is None:
        pytest.skip("no C compiler, or no Linux")
    return built


def test_a_command_that_was_broken_off_gives_the_same_when_given_again(library: Path) -> None:
    reports = start(*USUAL, library=library, points=POINTS, seed=7)
    assert [(one.scenario, one.points, one.failures) for one in reports] == [
        (command, POINTS, []) for command in USUAL
    ]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_operation_of_a_command_may_be_killed_or_refused(library: Path, command: str) -> None:
    (report,) = start(command, library=library)
    assert report.points == 6 * report.operations
    assert not report.failures
