"""What a running job shows, with a terminal and without."""

from __future__ import annotations

import io
import json
import re
import time
from dataclasses import asdict

import pytest
from rich.console import Console

from fossilray.core.worker import WorkerStatus
from fossilray.jobs.progress import JsonLines, Tally, TerminalDisplay, choose_display


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_without_a_terminal_a_line_comes_every_30_s_and_at_the_end() -> None:
    stream, clock = io.StringIO(), Clock()
    tally = Tally(total=10, started_s=-3600)
    with JsonLines(stream, clock=clock) as display:
        for second in range(70):
            clock.now_s = float(second)
            tally.committed = second // 10
            display.update(tally, {"host/cpu": WorkerStatus("a", "detect", 0.5)})
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["committed"] for line in lines] == [3, 6, 6]
    assert lines[-1]["in_flight"] == [asdict(WorkerStatus("a", "detect", 0.5))]


def test_messages_are_json_too_so_that_every_line_parses() -> None:
    stream = io.StringIO()
    JsonLines(stream).message('slide "x" failed\nbadly')
    assert json.loads(stream.getvalue()) == {"event": "message", "text": 'slide "x" failed\nbadly'}


def test_a_terminal_shows_counts_rate_and_each_worker() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120)
    tally = Tally(total=8, committed=3, failed=1, objects=12_345)
    with choose_display(console) as display:
        assert isinstance(display, TerminalDisplay)
        display.update(tally, {"host/cuda": WorkerStatus("well__slide[bold]", "crops", 0.4)})
        time.sleep(0.6)  # it draws four times a second
        display.message("[red]as it is[/red]")
    text = stream.getvalue()
    for part in ("12,345 objects", "1 failed", "4/8", "well__slide[bold]", "crops", "[red]as it is[/red]"):
        assert part in text


@pytest.mark.parametrize("width", [30, 40, 80])
def test_a_narrow_terminal_shows_every_count_whole(width: int) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=width)
    tally = Tally(total=98_765, committed=43_210, failed=1_942, objects=12_345_678, started_s=-3600)
    with TerminalDisplay(console) as display:
        display.update(tally, {})
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue()).split()
    assert {"45152/98765", "12,345,678", "objects", "1,942", "failed", "slides/h"} <= set(shown)


def test_the_rate_counts_what_this_job_did_and_the_end_is_estimated_from_it() -> None:
    tally = Tally(total=100, already_committed=50, started_s=0.0)
    assert tally.eta_s is None
    tally.committed = 10
    assert abs(tally.slides_per_hour * tally.elapsed_s - 36_000) < 1
    assert tally.eta_s is not None
    assert abs(tally.eta_s - 4 * tally.elapsed_s) < 1
