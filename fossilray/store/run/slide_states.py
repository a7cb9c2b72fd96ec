"""The state of every slide of a run, from its records: one partition, from which every command takes its counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Literal

from fossilray.core.heartbeat import Heartbeat
from fossilray.core.records import Attempt, Failure
from fossilray.store.run.attempts import REJECTED_AT, AttemptLog, AttemptRecords
from fossilray.store.run.drivers import DriverSign, process_lives
from fossilray.store.run.run_store import RunStore

SlideState = Literal["committed", "in progress", "waiting", "failed", "quarantined", "rejected"]

STALE_AFTER_S = 120.0
"""Drivers write a heartbeat every 30 s; after four missing ones a driver counts as gone."""
MISSED_S = 45.0
"""A driver without a sign for so long has missed one."""
SKEW_S = 60.0
"""The time by which a heartbeat may lie in the future: clocks of hosts and of a file server differ."""
UNLISTED_S = 60.0
"""An attempt that began this long before a heartbeat that does not list it has ended, recorded or not.

A heartbeat lists what was in progress when it was composed; writing it may take a while.
"""


@dataclass(frozen=True)
class SlideCounts:
    """Slides by state. `total` is their sum: rejected files are no slides and are counted apart."""

    total: int
    committed: int
    in_progress: int
    waiting: int
    """Not begun, or to be tried again."""
    failed: int
    """Given up by the job that tried them; the same command tries them again."""
    quarantined: int
    """Left alone until `fossilray retry` clears them."""
    rejected: int
    """Files that look like slides and are none."""

    @property
    def committed_share(self) -> float:
        return self.committed / self.total if self.total else 0.0

    @property
    def left(self) -> int:
        """Slides that are still to do: in progress or waiting."""
        return self.in_progress + self.waiting

    def describe_rest(self) -> list[str]:
        """Return what is not committed, as `3 failed`, `1 quarantined`, …; states without slides are left out."""
        named = (
            (self.in_progress, "in progress"),
            (self.waiting, "waiting"),
            (self.failed, "failed"),
            (self.quarantined, "quarantined"),
        )
        parts = [f"{count:,} {name}" for count, name in named if count]
        if self.rejected:
            parts.append(f"{self.rejected:,} file{'' if self.rejected == 1 else 's'} rejected")
        return parts


@dataclass(frozen=True)
class SlideStates:
    """Every slide of a run, each in one state, and the rejected files."""

    committed: frozenset[str]
    in_progress: tuple[Attempt, ...]
    """One attempt for each slide that a living driver has in progress, by slide_id."""
    waiting: tuple[str, ...]
    failed: tuple[Failure, ...]
    """The last failure of each slide that was given up, by slide_id; alike of the next two."""
    quarantined: tuple[Failure, ...]
    rejected: tuple[Failure, ...]
    failures: tuple[Failure, ...]
    """Every failure that counts, at slides that are not committed, by slide_id and time."""
    to_retry: tuple[Failure, ...]
    """The last failure of each of the waiting slides that were tried before."""
    interrupted: tuple[Attempt, ...]
    """The last attempt of each waiting slide that began and has no end on record."""
    open_attempts: tuple[Attempt, ...]
    """Every attempt at slides that are not committed that has no end on record."""
    drivers: tuple[Heartbeat, ...]
    """The active drivers."""

    @cached_property
    def counts(self) -> SlideCounts:
        by_state = Counter(self.by_slide.values())
        return SlideCounts(
            total=len(self.by_slide) - by_state["rejected"],
            committed=by_state["committed"],
            in_progress=by_state["in progress"],
            waiting=by_state["waiting"],
            failed=by_state["failed"],
            quarantined=by_state["quarantined"],
            rejected=by_state["rejected"],
        )

    @cached_property
    def by_slide(self) -> Mapping[str, SlideState]:
        """The state of each slide and rejected file, by slide_id."""
        states: dict[str, SlideState] = dict.fromkeys(self.committed, "committed")
        states.update(dict.fromkeys((slide.slide_id for slide in self.in_progress), "in progress"))
        states.update(dict.fromkeys(self.waiting, "waiting"))
        states.update(dict.fromkeys((slide.slide_id for slide in self.failed), "failed"))
        states.update(dict.fromkeys((slide.slide_id for slide in self.quarantined), "quarantined"))
        states.update(dict.fromkeys((slide.slide_id for slide in self.rejected), "rejected"))
        return states


def read_states(store: RunStore, *, now: datetime | None = None) -> SlideStates:
    """Read the state of every slide of a run. now: the store's time (UTC); default: its current time.

    Raises:
        StoreError: the store cannot be read.
    """
    signs = store.attempts.driver_signs()
    # After the heartbeats: an attempt that ended between the two readings has its end on record.
    records = store.attempts.records()
    committed = store.committed()
    catalog = {row.slide_id for row in store.readable_catalog() or ()}
    return partition_slides(
        catalog, committed, records, living_signs(signs, now=now or store.files.now() if signs else None)
    )


def partition_slides(
    catalog: Iterable[str],
    committed: Iterable[str],
    records: AttemptRecords,
    living: Sequence[DriverSign],
) -> SlideStates:
    """Return each slide of the catalog, each commit and each slide with a record, in one state.

    living: the last signs of the drivers that are at work.
    """
    catalog, committed = set(catalog), frozenset(committed)
    failures = [
        failure for failure in records.failures if (failure.slide_id, failure.attempt) not in records.cleared
    ]
    last = {failure.slide_id: failure for failure in failures}
    rejected = {
        slide_id: failure
        for slide_id, failure in last.items()
        if failure.stage == REJECTED_AT and slide_id not in catalog
    }
    quarantined = {
        failure.slide_id: failure
        for failure in failures
        if failure.quarantined and failure.stage != REJECTED_AT and failure.slide_id not in rejected
    }
    started = {attempt.slide_id: attempt for attempt in records.started if attempt.slide_id not in committed}
    in_progress = _in_progress(started, records, living)
    # These override failures: a driver lists a slide before it has a record, and a rejected file may be a slide now.
    overriding = committed | in_progress.keys()
    failed = {
        slide_id: failure
        for slide_id, failure in last.items()
        if slide_id not in quarantined.keys() | rejected.keys() and _is_given_up(failure, alive=bool(living))
    }
    known = catalog | last.keys() | started.keys()
    over = overriding | quarantined.keys() | rejected.keys() | failed.keys()
    waiting = tuple(sorted(known - over))
    return SlideStates(
        committed=committed,
        in_progress=tuple(in_progress[slide_id] for slide_id in sorted(in_progress)),
        waiting=waiting,
        failed=_without(failed, overriding),
        quarantined=_without(quarantined, overriding),
        rejected=_without(rejected, overriding),
        failures=tuple(failure for failure in failures if failure.slide_id not in committed),
        to_retry=tuple(last[slide_id] for slide_id in waiting if slide_id in last),
        interrupted=tuple(
            started[slide_id] for slide_id in waiting if slide_id in started and slide_id not in last
        ),
        open_attempts=tuple(attempt for attempt in records.started if attempt.slide_id not in committed),
        drivers=tuple(sign.heartbeat for sign in living),
    )


def living_signs(signs: Iterable[DriverSign], *, now: datetime | None) -> tuple[DriverSign, ...]:
    """The signs of drivers that are at work. now: the store's time, UTC; None: there is nothing to compare.

    A driver of this machine is at work while its process exists and gives signs; of another machine's, recent signs
    count, unless a driver that began later has ended since.
    """
    signs = tuple(signs)
    return tuple(
        sign for sign in signs if now is not None and not _is_gone(sign, signs) and _is_recent(sign, now)
    )


def unresponsive_drivers(signs: Sequence[DriverSign], *, now: datetime) -> tuple[Heartbeat, ...]:
    """The drivers that may still run and have no recent heartbeat, the latest heartbeat first.

    signs: the latest first. Of other machines' drivers only the last one of the run counts.
    """
    return tuple(
        sign.heartbeat
        for number, sign in enumerate(signs)
        if not _is_gone(sign, signs)
        and not _is_recent(sign, now)
        and (number == 0 or process_lives(sign.heartbeat))
    )


def active_drivers(attempts: AttemptLog) -> tuple[Heartbeat, ...]:
    """The drivers that are active, the latest heartbeat first."""
    signs = attempts.driver_signs()
    living = living_signs(signs, now=attempts.files.now() if signs else None)
    return tuple(sign.heartbeat for sign in living)


def state_of(failure: Failure) -> SlideState:
    """The state in which a failure that ended a job's work on its slide leaves it."""
    if failure.stage == REJECTED_AT:
        return "rejected"
    return "quarantined" if failure.quarantined else "failed"


def parse_time(stated: str) -> datetime:
    """A time of a record; UTC where it names no zone."""
    moment = datetime.fromisoformat(stated)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _is_recent(sign: DriverSign, now: datetime) -> bool:
    """Return whether the last heartbeat is recent by the store's clock, or by the driver's own compared with it."""
    moments = (sign.written_at, parse_time(sign.heartbeat.beat_at))
    return any(-SKEW_S <= (now - moment).total_seconds() < STALE_AFTER_S for moment in moments)


def _is_gone(sign: DriverSign, signs: Iterable[DriverSign]) -> bool:
    """Return whether a driver is known to have ended, by its own word, by its process, or by what a later one did."""
    heartbeat = sign.heartbeat
    if heartbeat.ended or _has_finished(heartbeat):
        return True
    lives = process_lives(heartbeat)
    return not lives if lives is not None else any(_supersedes(other, sign) for other in signs)


def _has_finished(heartbeat: Heartbeat) -> bool:
    return not heartbeat.in_flight and heartbeat.committed + heartbeat.failed >= heartbeat.total


def _supersedes(later: DriverSign, sign: DriverSign) -> bool:
    """Return whether a later driver finished the run since this sign, or worked and ended without another sign.

    Times are the store's.
    """
    heartbeat, began_at = later.heartbeat, _began_at(later)
    if began_at <= _began_at(sign) or later.written_at <= sign.written_at:
        return False
    if _has_finished(heartbeat) and heartbeat.total >= sign.heartbeat.total:
        return True
    missed = (later.written_at - sign.written_at).total_seconds() > MISSED_S
    return heartbeat.ended and missed and sign.written_at < began_at


def _began_at(sign: DriverSign) -> datetime:
    """When a driver began, by the store's clock."""
    heartbeat = sign.heartbeat
    return sign.written_at - (parse_time(heartbeat.beat_at) - parse_time(heartbeat.started_at))


def _in_progress(
    started: Mapping[str, Attempt], records: AttemptRecords, living: Sequence[DriverSign]
) -> dict[str, Attempt]:
    """The slides that living drivers list, and those begun since the lists were made.

    Times are compared by the store's clock alone: workers, drivers and readers have clocks of their own.
    """
    listed = {slide_id for sign in living for slide_id in sign.heartbeat.in_flight}
    failed_at = _last_failure(records)
    in_progress = {}
    for slide_id, attempt in started.items():
        began_at = records.written.get((slide_id, attempt.attempt)) or parse_time(attempt.started_at)
        ended = slide_id in failed_at and failed_at[slide_id] >= began_at
        if slide_id in listed or (not ended and any(_may_have_begun(sign, began_at) for sign in living)):
            in_progress[slide_id] = attempt
    return in_progress


def _may_have_begun(sign: DriverSign, began_at: datetime) -> bool:
    """Return whether a driver may have begun an unlisted attempt: after its start, and near or after the list."""
    started_at = _began_at(sign) - timedelta(seconds=10)
    return began_at >= max(started_at, sign.written_at - timedelta(seconds=UNLISTED_S))


def _last_failure(records: AttemptRecords) -> dict[str, datetime]:
    failed_at: dict[str, datetime] = {}
    for failure in records.failures:
        at = records.written.get((failure.slide_id, failure.attempt)) or parse_time(failure.failed_at)
        failed_at[failure.slide_id] = max(at, failed_at.get(failure.slide_id, at))
    return failed_at


def _is_given_up(failure: Failure, *, alive: bool) -> bool:
    """Return whether no active job tries the slide again; failures of earlier versions do not record it."""
    if failure.given_up is None and not alive:
        return True
    return bool(failure.given_up) or not failure.transient or failure.stage == REJECTED_AT


def _without(failures: Mapping[str, Failure], slide_ids: Iterable[str]) -> tuple[Failure, ...]:
    return tuple(failures[slide_id] for slide_id in sorted(failures.keys() - set(slide_ids)))
