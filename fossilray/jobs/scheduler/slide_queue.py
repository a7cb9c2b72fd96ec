"""Slides that no worker has begun: in turn, promised to a busy worker, due after a while, or held with their root."""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Sequence

from fossilray.core.records import CatalogRow
from fossilray.jobs.scheduler.worker_pool import ActorHandle
from fossilray.slides.neighbours import is_below
from fossilray.store.files.base import is_remote


class Waiting:
    """The rows of a job that are neither in flight nor settled."""

    def __init__(self, rows: Sequence[CatalogRow]) -> None:
        self._turn: deque[CatalogRow] = deque(rows)
        self._promised: dict[ActorHandle, CatalogRow] = {}
        self._later: list[tuple[float, str, CatalogRow]] = []
        self._held: dict[str, deque[CatalogRow]] = {}

    def __len__(self) -> int:
        held = sum(map(len, self._held.values()))
        return len(self._turn) + len(self._promised) + len(self._later) + held

    @property
    def is_all_held(self) -> bool:
        """Whether there are slides, and all of them wait for their roots."""
        return bool(len(self)) and not (self._turn or self._promised or self._later)

    def add(self, row: CatalogRow, *, wait_s: float) -> None:
        """A slide that is tried again after some seconds, or with its root."""
        root = next((root for root in self._held if is_below(row.path, root)), None)
        if root is not None:
            self._held[root].append(row)
        elif wait_s:
            heapq.heappush(self._later, (time.monotonic() + wait_s, row.slide_id, row))
        else:
            self._turn.append(row)

    def take(self, seat: ActorHandle) -> CatalogRow | None:
        """The slide promised to this worker, else the next in turn, else one that a busy worker was promised."""
        self._wake()
        if seat in self._promised:
            return self._promised.pop(seat)
        if self._turn:
            return self._turn.popleft()
        return self._promised.popitem()[1] if self._promised else None

    def promise(self, seat: ActorHandle) -> CatalogRow | None:
        """Set aside for a worker that turns busy the slide that it shall fetch meanwhile, if it must be fetched."""
        if not self._turn or not is_remote(self._turn[0].path):
            return None
        return self._promised.setdefault(seat, self._turn.popleft())

    def release(self, seat: ActorHandle) -> None:
        """What was promised to a worker that is gone is the next in turn."""
        if seat in self._promised:
            self._turn.appendleft(self._promised.pop(seat))

    def hold(self, root: str) -> None:
        """Begin no slide of this folder or bucket until it is let go."""
        held = self._held.setdefault(root, deque())
        held.extend(row for row in self._turn if is_below(row.path, root))
        self._turn = deque(row for row in self._turn if not is_below(row.path, root))
        for seat, row in list(self._promised.items()):
            if is_below(row.path, root):
                held.append(self._promised.pop(seat))
        held.extend(row for _, _, row in self._later if is_below(row.path, root))
        self._later = [one for one in self._later if not is_below(one[2].path, root)]
        heapq.heapify(self._later)

    def held(self, root: str) -> int:
        """How many slides wait for a root."""
        return len(self._held.get(root, ()))

    def send_scout(self, root: str) -> None:
        """Let one of the slides that are held be begun, to see whether its root is back."""
        if self._held.get(root):
            self._turn.appendleft(self._held[root].popleft())

    def let_go(self, root: str) -> None:
        """The root is back; its slides are in turn again."""
        self._turn.extend(self._held.pop(root, ()))

    def _wake(self) -> None:
        while self._later and self._later[0][0] <= time.monotonic():
            self._turn.append(heapq.heappop(self._later)[2])
