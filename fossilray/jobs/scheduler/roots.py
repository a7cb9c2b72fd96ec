"""Folders and buckets of slides that are out: their slides are held, a scout goes now and then, and patience ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from fossilray.core.config import RunConfig
from fossilray.core.errors import SourcesOut
from fossilray.jobs.progress import Tally
from fossilray.jobs.scheduler.failure_policy import Judge, Outage
from fossilray.jobs.scheduler.slide_queue import Waiting

LONGEST_SCOUT_S = 60.0
"""Between two looks at a root that is out; waits begin with workers.retry_after_s and double."""


@dataclass
class _Watch:
    outage: Outage
    scout_at_s: float
    last_s: float


class Roots:
    """The roots that the judge found out, and what the driver does about them."""

    def __init__(self, judge: Judge, waiting: Waiting, config: RunConfig, say: Callable[[str], None]) -> None:
        self._judge = judge
        self._waiting = waiting
        self._patience_minutes = config.store.patience_minutes
        self._retry_after_s = config.workers.retry_after_s
        self._say = say
        self._watched: dict[str, _Watch] = {}

    @property
    def out(self) -> list[str]:
        """What the job waits for, a sentence a root."""
        return [watch.outage.message for watch in self._watched.values()]

    def tend(self) -> None:
        """Hold slides of roots that went out, let those go whose roots are back, and send scouts."""
        now = time.monotonic()
        for root, outage in self._judge.outages.items():
            if root not in self._watched:
                self._watched[root] = _Watch(outage, now + self._wait_s(outage), outage.last_s)
                self._waiting.hold(root)
                self._say(
                    f"{outage.message}; its slides wait and do not count as failed, trying again for "
                    f"{self._patience_minutes:g} minutes (store.patience_minutes)"
                )
        for root, watch in list(self._watched.items()):
            if self._judge.outages.get(root) is not watch.outage:
                del self._watched[root]
                self._waiting.let_go(root)
                self._say(f"{root} can be read again")
            elif watch.outage.last_s > watch.last_s:
                watch.last_s, watch.scout_at_s = watch.outage.last_s, now + self._wait_s(watch.outage)
            elif now >= watch.scout_at_s:
                # Another one only if nothing is heard of this one, whose worker may be lost.
                watch.scout_at_s = now + LONGEST_SCOUT_S
                self._waiting.send_scout(root)

    def check_patience(self, tally: Tally) -> None:
        """Nothing, while there is other work or hope; called when no slide is in flight.

        Raises:
            SourcesOut: all slides that are left wait for roots that were out for longer than the job's patience.
        """
        now = time.monotonic()
        if not self._waiting.is_all_held:
            return
        if any(now - one.outage.since_s <= self._patience_minutes * 60 for one in self._watched.values()):
            return
        raise SourcesOut(
            f"{'; '.join(self.out)}; waited for store.patience_minutes = {self._patience_minutes:g}. "
            f"{tally.already_committed + tally.committed:,} of {tally.total:,} slides are committed, "
            f"{len(self._waiting):,} wait and none of these counts as failed: start the same command again when they "
            "can be read, or take them out of the catalog"
        )

    def _wait_s(self, outage: Outage) -> float:
        return min(LONGEST_SCOUT_S, self._retry_after_s * 2.0 ** min(outage.tries - 1, 10))
