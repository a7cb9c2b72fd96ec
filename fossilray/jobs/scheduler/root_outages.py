"""Folders and buckets of slides that cannot be read: their items are held, and one is tried now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from fossilray.core.config import RunConfig
from fossilray.core.errors import SourcesOut
from fossilray.jobs.progress import Tally
from fossilray.jobs.scheduler.failure_policy import FailurePolicy, Outage
from fossilray.jobs.scheduler.item_queue import ItemQueue

MAX_PROBE_S = 60.0
"""Longest wait between two probes of a root; waits begin with workers.retry_after_s and double."""


@dataclass
class _Held:
    outage: Outage
    probe_at_s: float
    last_s: float


class RootOutages:
    """Holds the items of roots that the failure policy found out of reach. show: shows a line to the user."""

    def __init__(
        self, policy: FailurePolicy, queue: ItemQueue, config: RunConfig, show: Callable[[str], None]
    ) -> None:
        self._policy = policy
        self._queue = queue
        self._patience_minutes = config.store.patience_minutes
        self._retry_after_s = config.workers.retry_after_s
        self._show = show
        self._held: dict[str, _Held] = {}

    @property
    def messages(self) -> list[str]:
        """A sentence per root that is held."""
        return [held.outage.message for held in self._held.values()]

    def update(self, unit: str) -> None:
        """Hold items of new outages, release items of ended ones, and release a probe where one is due."""
        now = time.monotonic()
        for root, outage in self._policy.outages.items():
            if root not in self._held:
                self._held[root] = _Held(outage, now + self._wait_s(outage), outage.last_s)
                self._queue.hold(root)
                self._show(
                    f"{outage.message}; its {unit}s wait and do not count as failed, trying again for "
                    f"{self._patience_minutes:g} minutes (store.patience_minutes)"
                )
        for root, held in list(self._held.items()):
            if self._policy.outages.get(root) is not held.outage:
                del self._held[root]
                self._queue.release(root)
                self._show(f"{root} can be read again")
            elif held.outage.last_s > held.last_s:
                held.last_s, held.probe_at_s = held.outage.last_s, now + self._wait_s(held.outage)
            elif now >= held.probe_at_s:
                # The next one only where this one gives no result: its worker may be lost.
                held.probe_at_s = now + MAX_PROBE_S
                self._queue.release_probe(root)

    def check_timeout(self, tally: Tally) -> None:
        """Raise where every remaining item is held, and every root for too long; called with no item in flight.

        Raises:
            SourcesOut: all roots have been out for longer than store.patience_minutes.
        """
        now = time.monotonic()
        if not self._queue.is_all_held:
            return
        if any(now - held.outage.since_s <= self._patience_minutes * 60 for held in self._held.values()):
            return
        raise SourcesOut(
            f"{'; '.join(self.messages)}; waited for store.patience_minutes = {self._patience_minutes:g}. "
            f"{tally.already_committed + tally.committed:,} of {tally.total:,} {tally.unit}s are committed, "
            f"{len(self._queue):,} wait and none of these counts as failed: start the same command again when they "
            "can be read, or take them out of the catalog"
        )

    def _wait_s(self, outage: Outage) -> float:
        return min(MAX_PROBE_S, self._retry_after_s * 2.0 ** min(outage.tries - 1, 10))
