"""The progress of a run, read from the run directory alone, so that any machine that reaches the store can show it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from fossilray.core.config import RunConfig
from fossilray.core.copies import describe_copies, find_copies_in
from fossilray.core.heartbeat import Heartbeat
from fossilray.core.records import Attempt, Failure
from fossilray.core.slide_names import describe_missing_sites
from fossilray.core.text import format_bytes, strip_control_characters
from fossilray.store.cost import Cost, describe_hours, describe_money, sum_cost
from fossilray.store.derived.listing import iter_derived
from fossilray.store.run.doubts import DoubtCount, count_doubts, doubts_of_run
from fossilray.store.run.focus_planes import describe_planes
from fossilray.store.run.lost_area import lost_share
from fossilray.store.run.run_store import RunStore
from fossilray.store.run.slide_states import (
    SlideCounts,
    active_drivers,
    parse_time,
    read_states,
    unresponsive_drivers,
)

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from fossilray.core.text_table import TextTable

_MOST_LISTED = 20


@dataclass(frozen=True)
class DerivedStatus:
    """The progress of an inference job on the run's objects. Names of fields are keys of the JSON form."""

    kind: str
    name: str
    processed: int
    """Committed slides that have derived results."""
    failed: int
    """Slides whose last attempt failed."""
    drivers: int
    """Active drivers of such jobs."""


@dataclass(frozen=True)
class StatusReport:
    """The state of a run at one moment. Names of fields are keys of the JSON form."""

    url: str
    started_at: str
    counts: SlideCounts
    objects: int
    scanned_mm2: float
    array_bytes: int
    tiles_lost: int
    tiles_wanted: int
    """Tiles with foreground."""
    lost_share: float
    """Share of the foreground that the finest passes of committed slides could not read."""
    missing_sites: str | None
    """A sentence about slides of the catalog without a well or a depth."""
    copies: str | None
    """A sentence on slides that are the same scan; None if there are none."""
    focus_planes: str | None
    """A sentence on slides with focus planes; None if there are none."""
    doubts: tuple[DoubtCount, ...]
    failed: tuple[Failure, ...]
    """The last failure of each slide that was given up; likewise the next two."""
    quarantined: tuple[Failure, ...]
    rejected: tuple[Failure, ...]
    to_retry: tuple[Failure, ...]
    """The last failure of each waiting slide that was tried before."""
    in_flight: tuple[Attempt, ...]
    """Attempts of active drivers."""
    interrupted: tuple[Attempt, ...]
    """Attempts at waiting slides that were started and have no end on record."""
    last_driver: Heartbeat | None
    """The latest heartbeat of all drivers."""
    drivers: tuple[Heartbeat, ...]
    """Heartbeats of active drivers."""
    unresponsive: tuple[Heartbeat, ...]
    """Heartbeats of drivers that may run, and whose last heartbeat is too old for them to count as active."""
    slides_per_hour: float | None
    """Rate of the active drivers, else of the driver that committed slides last."""
    derived: tuple[DerivedStatus, ...]
    """Embeddings and predictions of later jobs, by kind and name."""
    spending: Cost
    last_sign_at: datetime
    """Time of the last commit, or, if that is later, of the start of an active driver."""
    read_at: datetime
    left_out: tuple[str, ...] = ()
    """One sentence for each damaged file that is not counted above."""

    @property
    def is_done(self) -> bool:
        """Whether every slide is committed or given up, and no driver is active."""
        return not (self.drivers or self.counts.left)

    @property
    def failed_by_class(self) -> dict[str, int]:
        """Number of failed and quarantined slides by class of error, the most frequent first."""
        return dict(Counter(failure.error for failure in (*self.failed, *self.quarantined)).most_common())

    @property
    def ends_at(self) -> datetime | None:
        """Time at which the last slide is done at this rate; None where no driver runs."""
        left = self.counts.left
        if not left or not self.slides_per_hour or not any(not driver.stopping for driver in self.drivers):
            return None
        return self.read_at + timedelta(hours=left / self.slides_per_hour)


def read_status(
    store: RunStore, *, now: datetime | None = None, config: RunConfig | None = None
) -> StatusReport:
    """Read the state of a run. now: the store's time, UTC; default: its current time. config: for its prices.

    Raises:
        RunNotFound: the folder holds no run.
    """
    read_at = now or store.files.now()
    run = store.read_run()
    states = read_states(store, now=read_at)
    slides = store.summaries_table()
    signs = store.attempts.driver_signs()
    heartbeats = [sign.heartbeat for sign in signs]
    catalog = store.readable_catalog() or []
    return StatusReport(
        url=store.url,
        started_at=run.created_at,
        counts=states.counts,
        objects=round(_sum(slides, "objects")),
        scanned_mm2=_sum(slides, "scanned_mm2"),
        array_bytes=round(_sum(slides, "array_bytes")),
        tiles_lost=round(_sum(slides, "tiles_failed")),
        tiles_wanted=round(_sum(slides, "tiles_planned") - _sum(slides, "tiles_blank")),
        lost_share=lost_share(slides),
        missing_sites=describe_missing_sites(catalog),
        copies=describe_copies(find_copies_in(slides)),
        focus_planes=describe_planes(slides),
        doubts=count_doubts(doubts_of_run(slides, catalog)),
        failed=states.failed,
        quarantined=states.quarantined,
        rejected=states.rejected,
        to_retry=states.to_retry,
        in_flight=states.in_progress,
        interrupted=tuple(attempt for attempt in states.interrupted if attempt.slide_id not in store.lost),
        last_driver=heartbeats[0] if heartbeats else None,
        drivers=states.drivers,
        unresponsive=unresponsive_drivers(signs, now=read_at),
        slides_per_hour=_rate(states.drivers or [last for last in heartbeats if last.slides_per_hour][:1]),
        derived=tuple(_describe_derived(store, set(states.committed))),
        spending=sum_cost(heartbeats, slides, left=states.counts.left, config=config),
        last_sign_at=_last_sign(run.created_at, slides, states.drivers),
        read_at=read_at,
        left_out=store.left_out.messages,
    )


def status_as_json(report: StatusReport, *, indent: int | None = 2) -> str:
    """Encode the state as one JSON object, with the values derived from it; indent None: on one line."""
    stated = asdict(report)
    # `failed` is a count here, as in the lines of a job.
    for name in ("failed", "quarantined", "rejected", "to_retry"):
        stated[f"{name}_slides"] = stated.pop(name)
    stated.update(stated.pop("counts"))
    stated.update(
        is_done=report.is_done,
        failed_by_class=report.failed_by_class,
        ends_at=report.ends_at,
    )
    return json.dumps(stated, default=lambda moment: moment.isoformat(timespec="seconds"), indent=indent)


def to_line(report: StatusReport) -> str:
    """Format the state as one line of text, for logs."""
    parts = [f"{report.read_at:%Y-%m-%d %H:%M:%S} UTC"]
    parts += [
        f"{name} {value}"
        for name, value in _details(report)
        if name not in ("started", "arrays", "objects", "in all", "doubt")
    ]
    return strip_control_characters("; ".join(parts))


def render_status(report: StatusReport) -> Group:
    """Format the state for a rich console: a few lines, and tables of attempts and failures if there are any."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    from fossilray.core.text_table import name_value_grid

    details = name_value_grid()
    details.add_row(
        "", ProgressBar(total=max(report.counts.total, 1), completed=report.counts.committed, width=50)
    )
    for name, value in _details(report):
        details.add_row(name, Text(strip_control_characters(value)))
    parts: list[Text | Table | TextTable] = [
        Text(strip_control_characters(report.url), style="bold", overflow="fold"),
        details,
    ]
    if report.in_flight:
        parts += [Text("\nin progress", style="bold"), _list_attempts(report.in_flight, report.read_at)]
        if len(report.in_flight) > _MOST_LISTED:
            parts.append(Text(f"… and {len(report.in_flight) - _MOST_LISTED:,} more"))
    not_committed = [
        *(("quarantined", failure) for failure in report.quarantined),
        *(("failed", failure) for failure in report.failed),
        *(("to be tried again", failure) for failure in report.to_retry),
        *(("rejected", failure) for failure in report.rejected),
    ]
    if not_committed:
        parts += [Text("\nnot committed", style="bold"), _list_failures(not_committed)]
        if len(not_committed) > _MOST_LISTED:
            parts.append(
                Text(f"… and {len(not_committed) - _MOST_LISTED:,} more; `fossilray failures` lists them all")
            )
    return Group(*parts)


def _describe_derived(store: RunStore, slides: set[str]) -> Iterator[DerivedStatus]:
    for results in iter_derived(store.source_run):
        processed = results.committed() & slides
        failed = {failure.slide_id for failure in results.attempts.failures()} - processed
        living = active_drivers(results.attempts)
        yield DerivedStatus(results.record.kind, results.name, len(processed), len(failed), len(living))


def _details(report: StatusReport) -> Iterable[tuple[str, str]]:
    yield "started", f"{report.started_at[:16].replace('T', ' ')} UTC"
    yield from _states(report.counts, report)
    density = f", {report.objects / report.scanned_mm2:.1f} per mm²" if report.scanned_mm2 else ""
    yield "objects", f"{report.objects:,} on {report.scanned_mm2:,.1f} mm²{density}"
    if report.tiles_lost:
        yield (
            "lost",
            f"{report.lost_share:.2%} of the foreground; {report.tiles_lost:,} of {report.tiles_wanted:,} tiles could "
            "not be read",
        )
    sentences = (("sites", report.missing_sites), ("copies", report.copies), ("planes", report.focus_planes))
    yield from ((name, sentence) for name, sentence in sentences if sentence is not None)
    for doubt in report.doubts:
        yield "doubt", str(doubt)
    yield "arrays", format_bytes(report.array_bytes)
    yield from _cost(report.spending)
    for results in report.derived:
        failed = f", {results.failed:,} failed" if results.failed else ""
        running = ", a job is running" if results.drivers else ""
        slides = f"{results.processed:,} of {report.counts.committed:,} slides"
        yield results.kind, f"{results.name}: {slides}{failed}{running}"
    if report.slides_per_hour:
        yield (
            "rate",
            f"{report.slides_per_hour:,.1f} slides/h" + ("" if report.drivers else " in the last job"),
        )
    if report.ends_at is not None:
        yield "ends", f"about {report.ends_at:%Y-%m-%d %H:%M} UTC"
    driver = _describe_driver(report)
    if driver:
        yield "driver", driver
    for heartbeat in report.drivers if report.counts.left else ():
        for outage in heartbeat.out:
            yield "waits for", outage
    # A driver that has ended is included: slides that fail alike may be why it stopped.
    reporting = report.drivers or filter(None, [report.last_driver])
    for sentence in {heartbeat.alike: None for heartbeat in reporting}:
        if sentence:
            yield "fail alike", sentence


def _states(counts: SlideCounts, report: StatusReport) -> Iterable[tuple[str, str]]:
    yield "committed", f"{counts.committed:,} of {counts.total:,} slides ({counts.committed_share:.1%})"
    if counts.in_progress:
        yield "in progress", f"{counts.in_progress:,}"
    if counts.waiting:
        yield "waiting", _describe_waiting(report)
    if counts.failed:
        yield "failed", f"{counts.failed:,} ({_classes(report.failed)}); the same command tries them again"
    if counts.quarantined:
        yield (
            "quarantined",
            f"{counts.quarantined:,} ({_classes(report.quarantined)}); left alone until `fossilray retry`",
        )
    if counts.rejected:
        yield (
            "rejected",
            f"{counts.rejected:,} file{'' if counts.rejected == 1 else 's'}, not counted as slides",
        )


def _describe_waiting(report: StatusReport) -> str:
    parts = [f"{report.counts.waiting:,}"]
    if report.to_retry:
        parts.append(f"{len(report.to_retry):,} of them to be tried again")
    if report.interrupted and not report.drivers:
        parts.append(f"{len(report.interrupted):,} of them interrupted")
    return ", ".join(parts)


def _describe_driver(report: StatusReport) -> str | None:
    """Name the active drivers, or the remedy where there is none and slides are left; else None."""
    if report.drivers:
        named = ", ".join(_name_driver(driver) for driver in report.drivers)
        many = f"{len(report.drivers)} are running" if len(report.drivers) > 1 else "running"
        stopping = any(driver.stopping for driver in report.drivers)
        return f"{many}: {named}" + ("; stopping, slides in progress end first" if stopping else "")
    if not report.counts.left:
        return None
    if not report.unresponsive:
        return "none is running; the same command processes the rest"
    last = report.unresponsive[0]
    minutes = (report.read_at - parse_time(last.beat_at)).total_seconds() / 60
    host = f"on {last.host}" if last.host else "of an unknown host"
    return (
        f"no heartbeat {host} since {max(minutes, 0):,.0f} min: {_name_driver(last)}; once it has ended, the same "
        "command processes the rest"
    )


def _name_driver(driver: Heartbeat) -> str:
    host = f"process {driver.pid} on {driver.host}" if driver.host else "a driver"
    return f"{host}, last heartbeat {driver.beat_at[:19].replace('T', ' ')} UTC"


def _classes(failures: Sequence[Failure]) -> str:
    """`SourceUnreachable 3, OutOfMemory 1`."""
    counted = Counter(failure.error for failure in failures).most_common()
    return ", ".join(f"{name} {count:,}" for name, count in counted)


def _cost(spending: Cost) -> Iterable[tuple[str, str]]:
    so_far, in_all = spending.so_far, spending.in_all
    if not so_far.core_hours:
        return
    used = describe_hours(so_far)
    if not spending.counts_idle_time:
        used += " for committed slides; what else workers held is not known"
    elif spending.busy_share is not None:
        used += f" held, {spending.busy_share:.0%} at committed slides"
    yield "used", used
    money = describe_money(so_far, spending.currency)
    if money is not None:
        yield "cost", f"about {money} for what workers held"
    if in_all is not None:
        total = ", ".join(filter(None, (describe_money(in_all, spending.currency), describe_hours(in_all))))
        yield "in all", f"about {total} at the end, if the rest is like the slides so far"


def _list_attempts(attempts: Sequence[Attempt], now: datetime) -> TextTable:
    from fossilray.core.text_table import TextColumn, TextTable

    table = TextTable("slide", "host", TextColumn("since", is_number=True))
    for attempt in attempts[:_MOST_LISTED]:
        minutes = (now - parse_time(attempt.started_at)).total_seconds() / 60
        table.add_row(attempt.slide_id, attempt.host, f"{max(minutes, 0):,.0f} min")
    return table


def _list_failures(failures: Sequence[tuple[str, Failure]]) -> TextTable:
    from fossilray.core.text_table import TextTable

    table = TextTable("slide", "state", "stage", "error", "reason")
    for state, failure in failures[:_MOST_LISTED]:
        table.add_row(failure.slide_id, state, failure.stage, failure.error, failure.message)
    return table


def _sum(slides: pa.Table, column: str) -> float:
    return float(pc.sum(slides.column(column)).as_py() or 0)


def _last_sign(started_at: str, slides: pa.Table, drivers: Sequence[Heartbeat]) -> datetime:
    times = [started_at, *slides["finished_at"].to_pylist(), *(driver.started_at for driver in drivers)]
    return max(map(parse_time, times))


def _rate(heartbeats: Sequence[Heartbeat]) -> float | None:
    return sum(heartbeat.slides_per_hour for heartbeat in heartbeats) or None
