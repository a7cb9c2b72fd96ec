"""Running a job from the command line: the stop signal, and the report of how the job ended."""

from __future__ import annotations

import shlex
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from fossilray.cli.output import out, print_line
from fossilray.core.text_table import TextTable

if TYPE_CHECKING:
    from fossilray.jobs.run_items import JobResult

_MAX_LISTED = 200


def stop_on_sigterm() -> threading.Event:
    """Return an event that SIGTERM sets: the job finishes the slides in progress, stops, and can be resumed."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    return stop


def print_result(result: JobResult, run: str, *, things: str = "new objects", is_run: bool = False) -> None:
    """Print how a job ended: what it committed, what failed and why, and which command to run next.

    things: what the job made and counted. is_run: the failures are those of the run directory, which
    `fossilray failures` and `fossilray retry` read.
    """
    tally, counts, unit = result.tally, result.counts, result.tally.unit
    parts = [
        f"{counts.committed:,} of {counts.total:,} {unit}s committed ({tally.already_committed:,} before)",
        *counts.describe_rest(),
        f"{tally.objects:,} {things}",
    ]
    print_line(f"{', '.join(parts)} -> {run if result.folder is None else _from_here(result.folder)}")
    if tally.total < counts.total:
        print_line(f"these are all {unit}s of the run; this command named {tally.total:,} of them")
    if result.missing_sites is not None:
        print_line(result.missing_sites)
    for note in result.notes:
        print_line(note)
    _print_failures(result, unit)
    if result.stopped:
        print_line("stopped early; run the same command again to resume")
    elif result.failures:
        print_line(_next_step(result, run, unit=unit, is_run=is_run))


def _from_here(folder: str) -> str:
    """Return a local folder below the current one by its relative path, any other as it is."""
    here = Path.cwd()
    return str(Path(folder).relative_to(here)) if Path(folder).is_relative_to(here) else folder


def _print_failures(result: JobResult, unit: str) -> None:
    from fossilray.store.run.slide_states import state_of

    if not result.failures:
        return
    table = TextTable(unit, "state", "stage", "error", "reason", title="Not committed")
    for failure in result.failures[:_MAX_LISTED]:
        table.add_row(failure.slide_id, state_of(failure), failure.stage, failure.error, failure.message)
    out.print(table)
    if len(result.failures) > _MAX_LISTED:
        print_line(f"… and {len(result.failures) - _MAX_LISTED:,} more")


def _next_step(result: JobResult, run: str, *, unit: str, is_run: bool) -> str:
    """One line: how many failed in which state, the classes of errors, and the commands that follow."""
    from fossilray.store.run.slide_states import state_of

    by_state: dict[str, Counter[str]] = {}
    for failure in result.failures:
        by_state.setdefault(state_of(failure), Counter())[failure.error] += 1
    parts = [
        f"{errors.total():,} {state} ("
        + ", ".join(f"{count:,} {error}" for error, count in sorted(errors.items(), key=_most_first))
        + ")"
        for state, errors in by_state.items()
    ]
    again = "run the same command again"
    if is_run:
        where = shlex.quote(run)
        retry = f"`fossilray retry {where}`, then " if "quarantined" in by_state else ""
        again = f"`fossilray failures {where}` lists the reasons; after a repair, {retry}{again}"
    return f"not committed: {', '.join(parts)}; {again}"


def _most_first(errors: tuple[str, int]) -> tuple[int, str]:
    return -errors[1], errors[0]
