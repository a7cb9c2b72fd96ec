"""How far a run is, read from the run directory alone: any machine that reaches the store can ask."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fossilray.config import RunConfig
from fossilray.cost import Spending, add_up_spending, describe_hours, describe_money
from fossilray.records import Attempt, Failure, Heartbeat
from fossilray.store import RunStore
from fossilray.store.dataset import arrays_store
from fossilray.store.listed_answers import every_answers
from fossilray.tables import format_bytes, printable

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

STALE_AFTER_S = 120.0
"""Drivers beat every 30 s; after four missed ones a driver counts as gone."""

_MOST_LISTED = 20


@dataclass(frozen=True)
class AnswersStatus:
    """How far a later job about the run's objects is."""

    kind: str
    name: str
    answered: int
    """Committed slides that have answers."""
    failed: int
    """Slides whose last try failed."""
    drivers: int
    """Jobs at work on it."""


@dataclass(frozen=True)
class StatusReport:
    """A run's state at one moment."""

    url: str
    started_at: str
    total: int
    """Slides of the catalog."""
    committed: int
    objects: int
    scanned_mm2: float
    array_bytes: int
    tiles_lost: int
    tiles_wanted: int
    """Tiles that were not blank."""
    lost_share: float
    """Share of the foreground that the finest passes of committed slides could not read."""
    failed: tuple[Failure, ...]
    """The last failure of each slide that is not committed, quarantined ones apart."""
    quarantined: tuple[Failure, ...]
    in_flight: tuple[Attempt, ...]
    interrupted: tuple[Attempt, ...]
    """Begun and never ended, and no living driver has them: the same command tries them again."""
    drivers: tuple[Heartbeat, ...]
    """Those alive."""
    slides_per_hour: float | None
    """Of the living drivers, else of the last one."""
    answers: tuple[AnswersStatus, ...]
    """Embeddings and predictions of later jobs, by kind and name."""
    spending: Spending
    last_sign_at: datetime
    """When a slide was last committed, or, if that is later, a driver now alive was started."""
    asked_at: datetime

    @property
    def waiting(self) -> int:
        """Slides that nobody has finished or has in hand."""
        settled = self.committed + len(self.failed) + len(self.quarantined) + len(self.in_flight)
        return max(self.total - settled, 0)

    @property
    def is_done(self) -> bool:
        """Whether every slide is committed or given up, and no driver is at work."""
        return not (self.drivers or self.waiting or self.in_flight)

    @property
    def failed_by_class(self) -> dict[str, int]:
        """How many slides each class of error holds back, the most frequent first."""
        return dict(Counter(failure.error for failure in (*self.failed, *self.quarantined)).most_common())

    @property
    def ends_at(self) -> datetime | None:
        """When the last slide will be done at this rate; None when nothing runs."""
        left = self.waiting + len(self.in_flight)
        if not self.drivers or not left or not self.slides_per_hour:
            return None
        return self.asked_at + timedelta(hours=left / self.slides_per_hour)


def describe(
    store: RunStore, *, now: datetime | None = None, config: RunConfig | None = None
) -> StatusReport:
    """The state of a run. `now` (UTC) is for those who want the clock of their choice; config: for its prices.

    Raises:
        RunNotFound: there is no run at this place.
    """
    asked_at = now or datetime.now(UTC)
    run = store.read_run()
    slides = store.summaries_table()
    last = {failure.slide_id: failure for failure in store.failures()}
    beats = store.heartbeats()
    drivers = living_drivers(beats, now=asked_at)
    in_hand = {slide_id for driver in drivers for slide_id in driver.in_flight}
    open_attempts = {attempt.slide_id: attempt for attempt in store.open_attempts()}
    in_flight = tuple(attempt for attempt in open_attempts.values() if attempt.slide_id in in_hand)
    busy = {attempt.slide_id for attempt in in_flight}
    settled = [failure for slide_id, failure in last.items() if slide_id not in busy]
    total = max(len(store.read_catalog()), slides.num_rows)
    return StatusReport(
        url=store.url,
        started_at=run.created_at,
        total=total,
        committed=slides.num_rows,
        objects=round(_sum(slides, "objects")),
        scanned_mm2=_sum(slides, "scanned_mm2"),
        array_bytes=round(_sum(slides, "array_bytes")),
        tiles_lost=round(_sum(slides, "tiles_failed")),
        tiles_wanted=round(_sum(slides, "tiles_planned") - _sum(slides, "tiles_blank")),
        lost_share=_lost_share(slides),
        failed=tuple(failure for failure in settled if not failure.quarantined),
        quarantined=tuple(failure for failure in settled if failure.quarantined),
        in_flight=in_flight,
        interrupted=tuple(
            attempt
            for attempt in open_attempts.values()
            if attempt.slide_id not in busy and attempt.slide_id not in last
        ),
        drivers=drivers,
        slides_per_hour=_rate(drivers or beats[:1]),
        answers=tuple(_describe_answers(store, set(slides["slide_id"].to_pylist()), now=asked_at)),
        spending=add_up_spending(
            beats, slides, left=max(total - slides.num_rows - len(settled), 0), config=config
        ),
        last_sign_at=_last_sign(run.created_at, slides, drivers),
        asked_at=asked_at,
    )


def living_drivers(beats: Iterable[Heartbeat], *, now: datetime) -> tuple[Heartbeat, ...]:
    """The drivers among those of `RunStore.heartbeats` that still are at work."""
    return tuple(beat for beat in beats if _is_alive(beat, now))


def to_json(report: StatusReport, *, indent: int | None = 2) -> str:
    """The state as one JSON object, with what the terminal's lines derive from it; indent None: on one line."""
    stated = asdict(report)
    stated.update(
        waiting=report.waiting,
        is_done=report.is_done,
        failed_by_class=report.failed_by_class,
        ends_at=report.ends_at,
    )
    return json.dumps(stated, default=lambda moment: moment.isoformat(timespec="seconds"), indent=indent)


def to_line(report: StatusReport) -> str:
    """The state in one line of text, for logs."""
    parts = [f"{report.asked_at:%Y-%m-%d %H:%M:%S} UTC"]
    parts += [
        f"{name} {value}"
        for name, value in _facts(report)
        if name not in ("started", "arrays", "objects", "in all")
    ]
    return printable("; ".join(parts))


def render(report: StatusReport) -> Group:
    """The state as a few lines and, where there is reason, tables, for a rich console."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column()
    facts.add_row("", ProgressBar(total=max(report.total, 1), completed=report.committed, width=50))
    for name, value in _facts(report):
        facts.add_row(name, Text(printable(value)))
    parts: list[Text | Table] = [
        Text(printable(report.url), style="bold"),
        facts,
    ]
    if report.in_flight:
        parts += [Text("\nin flight", style="bold"), _list_attempts(report.in_flight, report.asked_at)]
    unsettled = (*report.quarantined, *report.failed)
    if unsettled:
        parts += [Text("\nnot committed", style="bold"), _list_failures(unsettled)]
        if len(unsettled) > _MOST_LISTED:
            parts.append(
                Text(
                    f"… and {len(unsettled) - _MOST_LISTED:,} more, in the view `failures` of `fossilray query`"
                )
            )
    return Group(*parts)


def _describe_answers(store: RunStore, slides: set[str], *, now: datetime) -> Iterator[AnswersStatus]:
    for answers in every_answers(arrays_store(store)):
        answered = answers.committed() & slides
        failed = {failure.slide_id for failure in answers.tries.failures()} - answered
        living = living_drivers(answers.tries.heartbeats(), now=now)
        yield AnswersStatus(answers.record.kind, answers.name, len(answered), len(failed), len(living))


def _facts(report: StatusReport) -> Iterable[tuple[str, str]]:
    yield "started", f"{report.started_at[:16].replace('T', ' ')} UTC"
    share = report.committed / report.total if report.total else 0.0
    yield "committed", f"{report.committed:,} of {report.total:,} slides ({share:.1%})"
    if report.in_flight:
        yield "in flight", f"{len(report.in_flight):,}"
    if report.waiting:
        yield "waiting", f"{report.waiting:,}"
    if report.interrupted:
        yield "interrupted", f"{len(report.interrupted):,}; start the same command again"
    if report.failed_by_class:
        classes = ", ".join(f"{name} {count:,}" for name, count in report.failed_by_class.items())
        yield "failed", f"{len(report.failed):,} failed, {len(report.quarantined):,} quarantined ({classes})"
    density = f", {report.objects / report.scanned_mm2:.1f} per mm²" if report.scanned_mm2 else ""
    yield "objects", f"{report.objects:,} on {report.scanned_mm2:,.1f} mm²{density}"
    if report.tiles_lost:
        yield (
            "lost",
            f"{report.lost_share:.2%} of the foreground; {report.tiles_lost:,} of {report.tiles_wanted:,} tiles could "
            "not be read",
        )
    yield "arrays", format_bytes(report.array_bytes)
    yield from _cost(report.spending)
    for one in report.answers:
        failed = f", {one.failed:,} failed" if one.failed else ""
        running = ", a job is running" if one.drivers else ""
        told = f"{one.name}: {one.answered:,} of {report.committed:,} slides{failed}{running}"
        yield one.kind, told
    if report.slides_per_hour:
        yield (
            "rate",
            f"{report.slides_per_hour:,.1f} slides/h" + ("" if report.drivers else " in the last job"),
        )
    if report.ends_at is not None:
        yield "ends", f"about {report.ends_at:%Y-%m-%d %H:%M} UTC"
    elif report.drivers:
        yield "driver", "running"
    elif report.waiting or report.interrupted:
        yield "driver", "none is running"


def _cost(spending: Spending) -> Iterable[tuple[str, str]]:
    so_far, in_all = spending.so_far, spending.in_all
    if not so_far.core_hours:
        return
    said = describe_hours(so_far)
    if not spending.counts_idle_time:
        said += " for committed slides; what else workers held is not known"
    elif spending.busy_share is not None:
        said += f" held, {spending.busy_share:.0%} at committed slides"
    yield "used", said
    money = describe_money(so_far, spending.currency)
    if money is not None:
        yield "cost", f"about {money} for what workers held"
    if in_all is not None:
        total = ", ".join(filter(None, (describe_money(in_all, spending.currency), describe_hours(in_all))))
        yield "in all", f"about {total} at the end, if the rest is like the slides so far"


def _list_attempts(attempts: Sequence[Attempt], now: datetime) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_edge=False, pad_edge=False)
    for name in ("slide", "host", "since"):
        table.add_column(name)
    for attempt in attempts[:_MOST_LISTED]:
        minutes = (now - _moment(attempt.started_at)).total_seconds() / 60
        table.add_row(
            Text(printable(attempt.slide_id)), Text(printable(attempt.host)), f"{max(minutes, 0):.0f} min"
        )
    return table


def _list_failures(failures: Sequence[Failure]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_edge=False, pad_edge=False)
    for name in ("slide", "stage", "error", "reason"):
        table.add_column(name)
    for failure in failures[:_MOST_LISTED]:
        error = f"{failure.error} (quarantined)" if failure.quarantined else failure.error
        table.add_row(
            *(Text(printable(cell)) for cell in (failure.slide_id, failure.stage, error, failure.message))
        )
    return table


def _sum(slides: pa.Table, column: str) -> float:
    return float(pc.sum(slides.column(column)).as_py() or 0)


def _lost_share(slides: pa.Table) -> float:
    """As `records.lost_share_of`, for tables of a whole archive."""
    lost, foreground = (
        pc.fill_null(pc.list_element(slides[name], 0), -1.0).to_numpy()
        for name in ("pass_lost_mm2", "pass_foreground_mm2")
    )
    planned, blank, failed, content = (
        slides[name].to_numpy() for name in ("tiles_planned", "tiles_blank", "tiles_failed", "content_mm2")
    )
    by_area = lost / np.maximum(foreground, 1e-12)
    shares = np.where(lost < 0, failed / np.maximum(planned - blank, 1), by_area)
    return float((shares * content).sum() / content.sum()) if content.sum() > 0 else 0.0


def _last_sign(started_at: str, slides: pa.Table, drivers: Sequence[Heartbeat]) -> datetime:
    signs = [started_at, *slides["finished_at"].to_pylist(), *(driver.started_at for driver in drivers)]
    return max(map(_moment, signs))


def _is_alive(beat: Heartbeat, now: datetime) -> bool:
    done = not beat.in_flight and beat.committed + beat.failed >= beat.total
    return not (done or beat.ended) and (now - _moment(beat.beat_at)).total_seconds() < STALE_AFTER_S


def _rate(beats: Sequence[Heartbeat]) -> float | None:
    return sum(beat.slides_per_hour for beat in beats) or None


def _moment(stated: str) -> datetime:
    moment = datetime.fromisoformat(stated)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
