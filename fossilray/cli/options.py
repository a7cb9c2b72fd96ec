"""What the commands share: consoles, options, and the way from options to configuration and run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
import typer.core
from rich.text import Text

from fossilray.core.kept_places import refuse_kept_place
from fossilray.core.text import strip_control_characters
from fossilray.core.text_table import TextTable, open_console
from fossilray.store.run.slide_states import state_of

if TYPE_CHECKING:
    from fossilray.core.config import RunConfig
    from fossilray.jobs.run_items import JobResult
    from fossilray.store import RunStore
    from fossilray.store.run.left_out import LeftOut

_MOST_LEFT_OUT = 20
_opened: list[LeftOut] = []
"""Of each run directory that the command has opened."""

out = open_console()
err = open_console(stderr=True)

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="Run directory or compacted dataset: a local path or s3://…")
]
ConfigOption = Annotated[
    str | None,
    typer.Option("--config", help="YAML file, on a disk or s3://…; `fossilray config` prints the defaults."),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="One field, e.g. detector.confidence=0.3; may be repeated.")
]
SingleWriterOption = Annotated[
    bool,
    typer.Option("--single-writer", help="Promise that this driver alone commits (store.single_writer)."),
]
WorkersOption = Annotated[int | None, typer.Option(help="Workers; default: as many as the machine holds.")]
ClusterOption = Annotated[
    str,
    typer.Option("--address", help="Ray cluster: `local` starts a private one, `auto` joins a running one."),
]


Place = TypeVar("Place", str, Path, None)


def outside_runs(place: Place) -> Place:
    """What an option names as the place of an output; refused inside a run, a dataset, an index or a label set."""
    if place is not None:
        refuse_kept_place(place)
    return place


def settings(config: str | None, assignments: list[str] | None, workers: int | None = None) -> RunConfig:
    """The configuration that a command's options ask for."""
    from fossilray.store.config_file import read_config

    extra = [] if workers is None else [f"workers.count={workers}"]
    return read_config(config, [*(assignments or []), *extra])


def open_store(run: str, config: str | None, assignments: list[str] | None) -> RunStore:
    """The run directory, or the compacted dataset, that a command's options name."""
    from fossilray.store import open_run

    store = open_run(run, settings(config, assignments).store)
    _opened.append(store.left_out)
    return store


class CommandGroup(typer.core.TyperGroup):
    """The commands; after each, damaged files that it passed over are named on standard error."""

    def invoke(self, ctx: Any) -> Any:  # Any: a context of click, which some versions of typer bring along
        _opened.clear()
        try:
            return super().invoke(ctx)
        finally:
            _print_left_out(list(dict.fromkeys(text for one in _opened for text in one.messages)))


def _print_left_out(messages: Sequence[str]) -> None:
    for message in messages[:_MOST_LEFT_OUT]:
        err.print(
            Text("left out: ", style="yellow") + Text(strip_control_characters(message)), soft_wrap=True
        )
    if len(messages) > _MOST_LEFT_OUT:
        err.print(f"left out: {len(messages) - _MOST_LEFT_OUT:,} more; `fossilray verify` lists them")


def stop_on_sigterm() -> threading.Event:
    """Set once the process is told to end, so that a job ends what it has in hand and can be gone on with."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    return stop


def print_result(result: JobResult, run: str, *, things: str = "new objects") -> None:
    """Say how a job over slides ended, and list what failed."""
    tally, counts = result.tally, result.counts
    parts = [
        f"{counts.committed:,} of {counts.total:,} slides committed ({tally.already_committed:,} before)",
        *counts.describe_rest(),
        f"{tally.objects:,} {things}",
    ]
    out.print(
        strip_control_characters(f"{', '.join(parts)} -> {run}"),
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
    if tally.total < counts.total:
        out.print(
            f"these are all slides of the run; this command named {tally.total:,} of them", highlight=False
        )
    if result.missing_sites is not None:
        out.print(
            strip_control_characters(result.missing_sites), markup=False, highlight=False, soft_wrap=True
        )
    if result.failures:
        table = TextTable("slide", "state", "stage", "error", "why", title="Not committed")
        for failure in result.failures[:200]:
            table.add_row(failure.slide_id, state_of(failure), failure.stage, failure.error, failure.message)
        out.print(table)
        if len(result.failures) > 200:
            out.print(f"… and {len(result.failures) - 200:,} more; `fossilray failures` lists them all")
    if result.stopped:
        out.print("stopped before the end; the same command goes on from here", highlight=False)
