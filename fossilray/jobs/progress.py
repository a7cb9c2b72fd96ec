"""Progress of a running job: a live display on a terminal, else one JSON line every 30 s."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import IO, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from fossilray.core.text import format_duration, strip_control_characters
from fossilray.core.text_table import bar_width
from fossilray.core.worker import WorkerStatus
from fossilray.store.run.slide_states import SlideCounts

JSON_EVERY_S = 30.0


@dataclass
class Tally:
    """Counts of a running job; only the driver changes them."""

    total: int
    unit: str = field(default="slide", kw_only=True)
    """The word for one item of the job in messages; its plural ends in s."""
    already_committed: int = 0
    committed: int = 0
    failed: int = 0
    """Given up by this job, including those quarantined by it."""
    quarantined: int = 0
    """Quarantined by this job."""
    failed_before: int = 0
    """Quarantined before this job."""
    rejected: int = 0
    """Files that are not slides; not in `total`."""
    in_progress: int = 0
    retried: int = 0
    objects: int = 0
    workers: int = 0
    gpu_hours: float = 0.0
    """Hours for which busy and idle workers held GPUs."""
    core_hours: float = 0.0
    started_s: float = field(default_factory=time.monotonic)

    @property
    def finished(self) -> int:
        return self.already_committed + self.committed + self.failed_before + self.failed

    @property
    def counts(self) -> SlideCounts:
        """The job's items by state, in the terms of `slide_states`."""
        return SlideCounts(
            total=self.total,
            committed=self.already_committed + self.committed,
            in_progress=self.in_progress,
            waiting=self.total - self.finished - self.in_progress,
            failed=self.failed - self.quarantined,
            quarantined=self.failed_before + self.quarantined,
            rejected=self.rejected,
        )

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started_s

    @property
    def slides_per_hour(self) -> float:
        """Mean rate of this job so far, failed items included."""
        return (self.committed + self.failed) * 3600 / max(self.elapsed_s, 1e-9)

    @property
    def eta_s(self) -> float | None:
        """Seconds that remain at the mean rate so far; None before the first item is finished."""
        if not self.committed + self.failed:
            return None
        return (self.total - self.finished) * 3600 / self.slides_per_hour


class CommitAlarm:
    """An alarm that is due once when nothing was committed for some minutes, until the next commit."""

    def __init__(self, minutes: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._minutes = minutes
        self._clock = clock
        self._since_s = clock()
        self._has_fired = False

    def committed(self) -> None:
        """Record a commit."""
        self._since_s, self._has_fired = self._clock(), False

    def is_due(self) -> bool:
        """Return True once per period without a commit."""
        if self._has_fired or self._clock() - self._since_s < self._minutes * 60:
            return False
        self._has_fired = True
        return True


class Display(Protocol):
    """Shows the tally of a job, and messages. `update` may be called at any rate."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def update(self, tally: Tally, states: Mapping[str, WorkerStatus]) -> None: ...
    def message(self, line: str) -> None: ...


def choose_display(console: Console) -> Display:
    """Return the terminal display where the console is a terminal, else JSON lines on the same stream."""
    return TerminalDisplay(console) if console.is_terminal else JsonLines(console.file)


class TerminalDisplay:
    """A progress bar for the job, a line of counts, which is folded on a narrow terminal, and a line per worker."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=bar_width(console, "slides")),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._task = self._bar.add_task("slides", total=None)
        self._counts = Text()
        self._live = Live(self._bar, console=console, refresh_per_second=4, transient=False)
        self._console = console

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.update(Group(self._bar, self._counts), refresh=True)
        self._live.stop()

    def update(self, tally: Tally, states: Mapping[str, WorkerStatus]) -> None:
        text = Text(f"{tally.objects:,} objects", overflow="fold")
        counts = tally.counts
        for count, name in ((counts.failed, "failed"), (counts.quarantined, "quarantined")):
            if count:
                text.append("  ").append(f"{count:,} {name}", style="red")
        if tally.committed:
            text.append(f"  {tally.slides_per_hour:,.0f} {tally.unit}s/h")
        if tally.eta_s is not None and tally.finished < tally.total:
            text.append(f"  {format_duration(tally.eta_s)} left")
        self._bar.update(
            self._task,
            description=f"{tally.unit}s",
            completed=tally.finished,
            total=tally.total,
        )
        self._counts = text
        self._live.update(Group(self._bar, text, *([_worker_table(states)] if states else [])))

    def message(self, line: str) -> None:
        self._console.print(strip_control_characters(line), markup=False, highlight=False)


class JsonLines:
    """One JSON object per line: the tally every `every_s` seconds at most, and at the end."""

    def __init__(
        self, stream: IO[str], *, every_s: float = JSON_EVERY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream
        self._every_s = every_s
        self._clock = clock
        self._last_s = clock()
        self._line = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._line:
            self._write(self._line)

    def update(self, tally: Tally, states: Mapping[str, WorkerStatus]) -> None:
        self._line = json.dumps(
            {
                "event": "progress",
                **asdict(tally.counts),
                "retried": tally.retried,
                "objects": tally.objects,
                "workers": tally.workers,
                "gpu_hours": round(tally.gpu_hours, 3),
                "core_hours": round(tally.core_hours, 3),
                "slides_per_hour": round(tally.slides_per_hour, 1),
                "eta_s": None if tally.eta_s is None else round(tally.eta_s),
                "elapsed_s": round(tally.elapsed_s, 1),
                "in_flight": [asdict(state) for state in list(states.values())[:16]],
            }
        )
        if self._clock() - self._last_s >= self._every_s:
            self._last_s = self._clock()
            self._write(self._line)
            self._line = ""

    def message(self, line: str) -> None:
        self._write(json.dumps({"event": "message", "text": line}))

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


def _worker_table(states: Mapping[str, WorkerStatus]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, state in list(states.items())[:12]:
        filled = round(10 * min(max(state.share, 0.0), 1.0))
        table.add_row(
            f"  {escape(name)}",
            escape(strip_control_characters(state.slide_id)),
            state.stage,
            "━" * filled + "[dim]" + "━" * (10 - filled) + "[/dim]",
        )
    if len(states) > 12:
        table.add_row(f"  … {len(states) - 12} more workers", "", "", "")
    return table
