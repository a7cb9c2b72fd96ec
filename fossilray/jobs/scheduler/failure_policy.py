"""What becomes of a slide whose attempt failed: judged beside the other slides of its folder and of the job.

Pure bookkeeping: the driver says what happened and when, in seconds of any clock that only goes forward.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

from fossilray.core.records import Failure
from fossilray.slides.neighbours import is_below, root_of

OUTAGE_SLIDES = 4
"""So many slides of one root, one after the other and no other between them, are not to blame for what they fail by."""
OUTAGES = frozenset(("SourceUnreachable", "SourceAccessDenied", "SourceOut", "Stalled"))
"""`error` of failures that the root of the slides is to blame for, if it is not one slide alone."""


class Verdict(Enum):
    """What the driver does with a slide that failed."""

    AGAIN = "it is tried again"
    HELD = "it waits with all slides of its root"
    FAILED = "it failed in this job; the next start tries it again unless the failure says quarantined"
    QUARANTINED = "it failed so often by what no rule expects that later starts leave it alone"


@dataclass
class Outage:
    """A folder or a bucket whose slides cannot be read."""

    root: str
    message: str
    since_s: float
    last_s: float
    """When it was last seen out."""
    tries: int = 1
    """How often it was."""


@dataclass(frozen=True)
class Alike:
    """Slides of this job that failed by the same exception at the same place."""

    error: str
    place: str
    message: str
    """Of the first of them."""
    slides: int
    of: int
    """Slides that ended in this job, these included."""

    def __str__(self) -> str:
        return f"{self.slides:,} of {self.of:,} slides failed alike: {self.error} at {self.place} ({self.message})"


class Judge:
    """Verdicts over the failures of one job."""

    def __init__(self, *, max_tries: int, alike_slides: int, alike_share: float) -> None:
        self.outages: dict[str, Outage] = {}
        """What is out now, by root."""
        self._over: list[Outage] = []
        self._max_tries = max_tries
        self._alike_slides, self._alike_share = alike_slides, alike_share
        self._tries: dict[str, int] = {}
        self._silent: dict[str, set[str]] = defaultdict(set)
        self._unexpected: dict[tuple[str, str], dict[str, Failure]] = defaultdict(dict)
        self._ended = 0

    def succeeded(self, slide_id: str, path: str, *, began_s: float) -> str | None:
        """Take note of a slide that ended well; the root that is back by this evidence, if one is."""
        self._ended += 1
        self._tries.pop(slide_id, None)
        self._forget_exception(slide_id)
        return self._see_readable(path, began_s)

    def failed(self, failure: Failure, path: str, *, began_s: float, now_s: float) -> Verdict:
        """What becomes of a slide whose attempt, begun at began_s, has failed."""
        root = failure.root or self._silent_root(failure.slide_id, failure.error, path)
        if root is not None:
            self._see_out(root, failure.message, now_s)
            return Verdict.HELD
        if failure.error not in OUTAGES:
            self._see_readable(path, began_s)
        if any(is_below(path, outage.root) for outage in self.outages.values()):
            return Verdict.HELD
        if any(is_below(path, outage.root) and outage.last_s >= began_s for outage in self._over):
            return Verdict.AGAIN  # part of the attempt fell into the outage
        tries = self._tries[failure.slide_id] = self._tries.get(failure.slide_id, 0) + 1
        if failure.is_unexpected:
            self._forget_exception(failure.slide_id)
            # Without its traceback: there may be as many as slides.
            kept = replace(failure, traceback=None)
            self._unexpected[failure.error, failure.place or ""][failure.slide_id] = kept
        if failure.transient and tries < self._max_tries:
            return Verdict.AGAIN
        if failure.is_unexpected:
            return Verdict.QUARANTINED
        self._ended += 1
        return Verdict.FAILED

    def stalled(self, slide_id: str, path: str, message: str, *, now_s: float) -> str | None:
        """The root that is to blame for a worker that stood still over a slide; None if the slide may be."""
        known = next((root for root in self.outages if is_below(path, root)), None)
        root = known or self._silent_root(slide_id, "Stalled", path)
        if root is not None:
            self._see_out(root, message, now_s)
        return root

    def tries(self, slide_id: str) -> int:
        """Tries of a slide that counted so far."""
        return self._tries.get(slide_id, 0)

    def alike(self) -> Iterator[Alike]:
        """Exceptions that more than one slide of this job failed by, the most frequent first."""
        of = self._ended + sum(map(len, self._unexpected.values()))
        for (error, place), slides in sorted(self._unexpected.items(), key=lambda one: -len(one[1])):
            if len(slides) > 1:
                first = next(iter(slides.values()))
                yield Alike(error, place, first.message, len(slides), of)

    def too_many_alike(self) -> Alike | None:
        """The exception for which the job stops, if there is one."""
        for alike in self.alike():
            if alike.slides >= self._alike_slides and alike.slides > self._alike_share * alike.of:
                return alike
        return None

    def failures_of(self, alike: Alike) -> list[Failure]:
        """The last failure of each of these slides."""
        return list(self._unexpected[alike.error, alike.place].values())

    def _silent_root(self, slide_id: str, error: str, path: str) -> str | None:
        """The root of a slide, if it is one of many that got no answer."""
        if error not in OUTAGES:
            return None
        root = root_of(path)
        self._silent[root].add(slide_id)
        return root if len(self._silent[root]) >= OUTAGE_SLIDES else None

    def _see_out(self, root: str, message: str, now_s: float) -> None:
        outage = self.outages.setdefault(root, Outage(root, message, now_s, now_s, tries=0))
        outage.last_s, outage.tries = now_s, outage.tries + 1

    def _see_readable(self, path: str, began_s: float) -> str | None:
        """A slide that began after its root was last seen out, and was read, is the evidence that it is back."""
        self._silent.pop(root_of(path), None)
        for root, outage in list(self.outages.items()):
            if is_below(path, root) and began_s > outage.last_s:
                self._over.append(self.outages.pop(root))
                return root
        return None

    def _forget_exception(self, slide_id: str) -> None:
        for slides in self._unexpected.values():
            slides.pop(slide_id, None)
