"""What threads did and when: one slide's timeline, and pools that know what waits for them."""

from __future__ import annotations

import json
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.cli_runner import run_command
from support.processed_slides import CLASSICAL, run_one
from support.slides_on_disk import write_slide

from fossilray.core.chrome_trace import ChromeTrace
from fossilray.core.config import load_config
from fossilray.core.errors import CatalogError, UsageError
from fossilray.core.parallel import MonitoredThreadPool
from fossilray.processing.trace import trace_slide

NEEDED = {
    "X": {"name", "cat", "ph", "ts", "dur", "pid", "tid"},
    "M": {"name", "ph", "pid", "tid", "args"},
    "C": {"name", "ph", "ts", "pid", "tid", "args"},
}
"""Fields of complete events, metadata and counters, as the Trace Event Format states them."""


def test_the_timeline_of_a_slide_is_a_chrome_trace_of_its_stages_and_threads(
    slide: Path,
    tmp_path: Path,
) -> None:
    before_us = time.time() * 1e6
    store, outcome = run_one(slide, tmp_path, "watch.trace=[discs]")
    after_us = time.time() * 1e6
    assert outcome.summary is not None
    (path,) = store.files.find("traces")
    assert path == f"traces/discs/{outcome.summary.attempt}.json"
    events = checked(json.loads(store.files.read(path)))
    spans = [event for event in events if event["ph"] == "X"]
    stages = [event for event in spans if event["cat"] == "stage"]
    assert [event["name"] for event in stages] == [
        *("fetch", "open", "detect", "merge", "crops", "write", "commit")
    ]
    assert len({event["tid"] for event in stages}) == 1
    for one, following in pairwise(stages):
        assert one["ts"] + one["dur"] == pytest.approx(following["ts"], abs=2)
    assert before_us <= stages[0]["ts"] <= stages[-1]["ts"] + stages[-1]["dur"] <= after_us
    for name, stage in (
        ("read window", 2),
        ("detect", 2),
        ("cut crops", 4),
        ("embed", 4),
        ("store crops", 4),
    ):
        tasks = [event for event in spans if event["name"] == name and event["cat"] != "stage"]
        assert tasks, name
        for task in tasks:
            assert task["tid"] != stages[0]["tid"]
            assert stages[stage]["ts"] - 2 <= task["ts"]
            assert task["ts"] + task["dur"] <= stages[stage]["ts"] + stages[stage]["dur"] + 2
    seconds = sum(event["dur"] for event in stages if event["name"] == "detect") / 1e6
    assert seconds == pytest.approx(outcome.summary.seconds_detect, abs=0.05)


def test_no_trace_is_written_unless_configured(slide: Path, tmp_path: Path) -> None:
    store, outcome = run_one(slide, tmp_path, "watch.trace=[another]")
    assert store.files.find("traces") == []
    assert outcome.usage is not None
    assert 0 < outcome.usage.network_busy_s < outcome.usage.seconds
    assert outcome.usage.read_bytes > slide.stat().st_size / 2
    assert outcome.usage.fetched_bytes == 0


def test_a_pool_knows_what_waits_and_how_long_it_was_busy() -> None:
    began, resume = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        resume.wait()

    with MonitoredThreadPool(1, "read") as pool:
        assert (pool.waiting, pool.busy_s) == (0, 0.0)
        tasks = [pool.submit(work) for _ in range(3)]
        began.wait()
        assert pool.waiting == 2
        assert tasks[2].cancel()
        assert pool.waiting == 1
        resume.set()
    assert pool.waiting == 0
    assert pool.busy_s > 0


def test_times_of_two_processes_can_be_compared() -> None:
    timeline = ChromeTrace("a slide")
    now = time.monotonic()
    timeline.span("detect", "stage", now - 1.0, now)
    (span,) = [event for event in checked(json.loads(timeline.to_json())) if event["ph"] == "X"]
    assert span["ts"] / 1e6 == pytest.approx(time.time() - 1.0, abs=0.5)
    assert span["dur"] == pytest.approx(1e6, abs=1)


def checked(trace: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a trace that keeps to the format."""
    events: list[dict[str, Any]] = trace["traceEvents"]
    assert trace["displayTimeUnit"] == "ms"
    for event in events:
        assert event.keys() == NEEDED[event["ph"]]
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert event.get("dur", 0) >= 0
        assert event["ph"] != "C" or isinstance(event["args"]["count"], int)
    named = {event["tid"] for event in events if event["name"] == "thread_name"}
    assert {event["tid"] for event in events if event["ph"] == "X"} <= named
    times = [event["ts"] for event in events if "ts" in event]
    assert times == sorted(times)
    return events


def test_a_slide_is_traced_by_a_command_and_leaves_nothing_else(slide: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "trace.json"
    words = ["trace", str(slide), "--out", str(out), "--set", "embedder.weights=none"]
    output = run_command(*words, *(word for one in CLASSICAL for word in ("--set", one)))
    assert "discs done in" in output
    events = checked(json.loads(out.read_text()))
    assert {"fetch", "detect", "crops", "read window", "cut crops"} <= {event["name"] for event in events}
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["trace.json"]


def test_a_target_that_cannot_be_traced_is_one_sentence(slide: Path, tmp_path: Path) -> None:
    config = load_config(None, [*CLASSICAL, "embedder.weights=none"])
    for number in range(2):
        write_slide(tmp_path / f"{number}.mrxs")
    with pytest.raises(CatalogError, match="names 2 slides; name one"):
        trace_slide(str(tmp_path), config, tmp_path / "trace.json")
    with pytest.raises(UsageError, match="choose another path"):
        trace_slide(str(slide), config, tmp_path)
