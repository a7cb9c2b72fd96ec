"""Decide what happens to an item whose attempt failed, from the other items of its root and of the job.

Bookkeeping only: the driver reports results and times, in seconds of any monotonic clock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

from fossilray.core.records import Failure
from fossilray.slides.neighbours import is_below, root_of

OUTAGE_ITEMS = 4
"""Items of one root that fail in a row by an error of OUTAGE_ERRORS, and are then taken for an outage of the root."""
OUTAGE_ERRORS = frozenset(("SourceUnreachable", "SourceAccessDenied", "SourceOut", "Stalled"))
"""`error` of failures that an outage of the root may cause."""


class Decision(Enum):
    """What the driver does with an item that failed."""

    RETRY = "started again"
    HOLD = "held with all items of its root"
    FAIL = "failed in this job; the next start tries it again unless the failure is quarantined"
    QUARANTINE = "failed too often by an unexpected exception; later starts skip it"


@dataclass
class Outage:
    """A folder or a bucket whose slides cannot be read."""

    root: str
    message: str
    since_s: float
    last_s: float
    """Time of the last failure."""
    tries: int = 1
    """Number of failures."""


@dataclass(frozen=True)
class CommonFailure:
    """Items of this job that failed by the same exception at the same line of code."""

    error: str
    location: str
    message: str
    """Message of the first of them."""
    count: int
    finished: int
    """Items that finished in this job, these included."""
    unit: str

    def __str__(self) -> str:
        return (
            f"{self.count:,} of {self.finished:,} {self.unit}s failed alike: {self.error} at {self.location} "
            f"({self.message})"
        )


class FailurePolicy:
    """Decisions over the failures of one job. unit: what the items are called in messages."""

    def __init__(self, *, max_tries: int, alike_slides: int, alike_share: float, unit: str = "slide") -> None:
        self.outages: dict[str, Outage] = {}
        """Current outages by root."""
        self._ended: list[Outage] = []
        self._max_tries = max_tries
        self._alike_items, self._alike_share = alike_slides, alike_share
        self._unit = unit
        self._tries: dict[str, int] = {}
        self._unreachable: dict[str, set[str]] = defaultdict(set)
        self._unexpected: dict[tuple[str, str], dict[str, Failure]] = defaultdict(dict)
        self._finished = 0

    def record_success(self, key: str, source: str, *, started_s: float) -> str | None:
        """Record an item that succeeded; return the root whose outage has ended by this evidence, if any."""
        self._finished += 1
        self._tries.pop(key, None)
        self._forget_exception(key)
        return self._record_readable(source, started_s)

    def record_failure(self, failure: Failure, source: str, *, started_s: float, now_s: float) -> Decision:
        """Record an attempt that failed, and decide what happens to its item."""
        root = failure.root or self._unreachable_root(failure.slide_id, failure.error, source)
        if root is not None:
            self._record_outage(root, failure.message, now_s)
            return Decision.HOLD
        if failure.error not in OUTAGE_ERRORS:
            self._record_readable(source, started_s)
        if any(is_below(source, outage.root) for outage in self.outages.values()):
            return Decision.HOLD
        if any(is_below(source, outage.root) and outage.last_s >= started_s for outage in self._ended):
            return Decision.RETRY  # the attempt overlapped the outage
        tries = self._tries[failure.slide_id] = self._tries.get(failure.slide_id, 0) + 1
        if failure.is_unexpected:
            self._forget_exception(failure.slide_id)
            # Without the traceback: there may be one failure per item.
            kept = replace(failure, traceback=None)
            self._unexpected[failure.error, failure.place or ""][failure.slide_id] = kept
        if failure.transient and tries < self._max_tries:
            return Decision.RETRY
        if failure.is_unexpected:
            return Decision.QUARANTINE
        self._finished += 1
        return Decision.FAIL

    def record_stall(self, key: str, source: str, message: str, *, now_s: float) -> str | None:
        """Record a stalled worker; return the root whose outage explains it, None if the item itself may."""
        known = next((root for root in self.outages if is_below(source, root)), None)
        root = known or self._unreachable_root(key, "Stalled", source)
        if root is not None:
            self._record_outage(root, message, now_s)
        return root

    def tries(self, key: str) -> int:
        """Number of tries of an item that count so far."""
        return self._tries.get(key, 0)

    def common_failures(self) -> Iterator[CommonFailure]:
        """Exceptions that several items of this job failed by, the most frequent first."""
        finished = self._finished + sum(map(len, self._unexpected.values()))
        by_count = sorted(self._unexpected.items(), key=lambda group: -len(group[1]))
        for (error, location), failures in by_count:
            if len(failures) > 1:
                first = next(iter(failures.values()))
                yield CommonFailure(error, location, first.message, len(failures), finished, self._unit)

    def excessive_failure(self) -> CommonFailure | None:
        """The exception that more items failed by than the configuration allows, if any."""
        for common in self.common_failures():
            if common.count >= self._alike_items and common.count > self._alike_share * common.finished:
                return common
        return None

    def failures_of(self, common: CommonFailure) -> list[Failure]:
        """The last failure of each of these items."""
        return list(self._unexpected[common.error, common.location].values())

    def _unreachable_root(self, key: str, error: str, source: str) -> str | None:
        """The root of an item, if enough of its items in a row could not be reached."""
        if error not in OUTAGE_ERRORS or not source:
            return None
        root = root_of(source)
        self._unreachable[root].add(key)
        return root if len(self._unreachable[root]) >= OUTAGE_ITEMS else None

    def _record_outage(self, root: str, message: str, now_s: float) -> None:
        outage = self.outages.setdefault(root, Outage(root, message, now_s, now_s, tries=0))
        outage.last_s, outage.tries = now_s, outage.tries + 1

    def _record_readable(self, source: str, started_s: float) -> str | None:
        """End the outage of a root of which an item was read that had started after the last failure."""
        self._unreachable.pop(root_of(source), None)
        for root, outage in list(self.outages.items()):
            if is_below(source, root) and started_s > outage.last_s:
                self._ended.append(self.outages.pop(root))
                return root
        return None

    def _forget_exception(self, key: str) -> None:
        for failures in self._unexpected.values():
            failures.pop(key, None)
