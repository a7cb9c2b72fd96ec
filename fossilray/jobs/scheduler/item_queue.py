"""Items that no worker has started: next in order, reserved for a busy worker, delayed, or held with their root."""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Sequence

from fossilray.core.records import WorkItem
from fossilray.jobs.scheduler.actors import ActorHandle
from fossilray.slides.neighbours import is_below
from fossilray.store.files.base import is_remote


class ItemQueue:
    """The items of a job that are neither in flight nor finished. A root is a folder or a bucket of sources."""

    def __init__(self, items: Sequence[WorkItem]) -> None:
        self._ready: deque[WorkItem] = deque(items)
        self._reserved: dict[ActorHandle, WorkItem] = {}
        self._delayed: list[tuple[float, str, WorkItem]] = []
        self._held: dict[str, deque[WorkItem]] = {}

    def __len__(self) -> int:
        held = sum(map(len, self._held.values()))
        return len(self._ready) + len(self._reserved) + len(self._delayed) + held

    @property
    def is_all_held(self) -> bool:
        """Whether there are items, and all of them are held."""
        return bool(len(self)) and not (self._ready or self._reserved or self._delayed)

    def add(self, item: WorkItem, *, wait_s: float) -> None:
        """Add an item that becomes due in some seconds, or with its root where that is held."""
        root = next((root for root in self._held if is_below(item.source, root)), None)
        if root is not None:
            self._held[root].append(item)
        elif wait_s:
            heapq.heappush(self._delayed, (time.monotonic() + wait_s, item.key, item))
        else:
            self._ready.append(item)

    def take(self, actor: ActorHandle) -> WorkItem | None:
        """Return the item reserved for this worker, else the next one, else one reserved for another worker."""
        self._add_due()
        if actor in self._reserved:
            return self._reserved.pop(actor)
        if self._ready:
            return self._ready.popleft()
        return self._reserved.popitem()[1] if self._reserved else None

    def reserve_for(self, actor: ActorHandle) -> WorkItem | None:
        """Reserve the next item for a worker, which downloads it meanwhile; None where there is no download."""
        if not self._ready or not is_remote(self._ready[0].source):
            return None
        return self._reserved.setdefault(actor, self._ready.popleft())

    def unreserve(self, actor: ActorHandle) -> None:
        """Put the item that was reserved for a lost worker first."""
        if actor in self._reserved:
            self._ready.appendleft(self._reserved.pop(actor))

    def hold(self, root: str) -> None:
        """Hold the items of a root until `release`."""
        held = self._held.setdefault(root, deque())
        held.extend(item for item in self._ready if is_below(item.source, root))
        self._ready = deque(item for item in self._ready if not is_below(item.source, root))
        for actor, item in list(self._reserved.items()):
            if is_below(item.source, root):
                held.append(self._reserved.pop(actor))
        held.extend(item for _, _, item in self._delayed if is_below(item.source, root))
        self._delayed = [delayed for delayed in self._delayed if not is_below(delayed[2].source, root)]
        heapq.heapify(self._delayed)

    def held(self, root: str) -> int:
        """Number of items that are held with a root."""
        return len(self._held.get(root, ()))

    def release_probe(self, root: str) -> None:
        """Put one held item of a root first, to find out whether the root can be read again."""
        if self._held.get(root):
            self._ready.appendleft(self._held[root].popleft())

    def release(self, root: str) -> None:
        """Put all held items of a root last."""
        self._ready.extend(self._held.pop(root, ()))

    def _add_due(self) -> None:
        while self._delayed and self._delayed[0][0] <= time.monotonic():
            self._ready.append(heapq.heappop(self._delayed)[2])
