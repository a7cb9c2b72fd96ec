"""Many items in order, by threads or in lists, with memory that does not grow with the items."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, ParamSpec, TypeVar

from fossilray.core.chrome_trace import ChromeTrace

In = TypeVar("In")
Out = TypeVar("Out")

_ITEMS_AT_ONCE = 1024
"""An executor keeps a thousand bytes for each item it was given."""


def map_in_chunks(work: Callable[[In], Out], items: Sequence[In], *, threads: int) -> Iterator[Out]:
    """Results in the order of `items`, of which only some are in hand at once."""
    with ThreadPoolExecutor(threads) as pool:
        for begin in range(0, len(items), _ITEMS_AT_ONCE):
            yield from pool.map(work, items[begin : begin + _ITEMS_AT_ONCE])


def map_ordered(
    pool: ThreadPoolExecutor, work: Callable[[In], Out], items: Iterable[In], *, ahead: int
) -> Generator[Out]:
    """Results of `work` in the order of `items`, at most `ahead` of them begun and not yet taken."""
    begun: deque[Future[Out]] = deque()
    try:
        for item in items:
            begun.append(pool.submit(work, item))
            if len(begun) >= ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()


def batched_with_index(items: Iterable[Out], size: int) -> Iterator[tuple[int, list[Out]]]:
    """Items in lists of `size` (the last may be shorter), each with the index of its first item."""
    source = iter(items)
    first = 0
    while batch := list(islice(source, size)):
        yield first, batch
        first += len(batch)


Given = ParamSpec("Given")


class MonitoredThreadPool(ThreadPoolExecutor):
    """Threads of one kind of work; watching costs a few microseconds a task."""

    def __init__(self, threads: int, kind: str) -> None:
        super().__init__(threads, thread_name_prefix=kind)
        self.timeline: ChromeTrace | None = None
        """Where each task is written down; for one slide at a time."""
        self.task_name = kind
        """What the timeline calls a task now."""
        self._kind = kind
        self._lock = threading.Lock()
        self._waiting = 0
        self._running = 0
        self._busy_s = 0.0
        self._since_s = 0.0

    @property
    def waiting(self) -> int:
        """Tasks that no thread has begun."""
        return self._waiting

    @property
    def busy_s(self) -> float:
        """Seconds so far in which at least one thread was at work."""
        with self._lock:
            return self._busy_s + (time.monotonic() - self._since_s if self._running else 0.0)

    def submit(self, fn: Callable[Given, Out], /, *args: Given.args, **kwargs: Given.kwargs) -> Future[Out]:
        with self._lock:
            self._waiting += 1
        self._count()
        future: Future[Out] = super().submit(self._run, fn, args, kwargs)
        future.add_done_callback(self._forget_cancelled)
        return future

    def _run(self, fn: Callable[..., Out], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Out:
        began_s = time.monotonic()
        with self._lock:
            self._waiting -= 1
            if not self._running:
                self._since_s = began_s
            self._running += 1
        self._count()
        try:
            return fn(*args, **kwargs)
        finally:
            ended_s = time.monotonic()
            with self._lock:
                self._running -= 1
                if not self._running:
                    self._busy_s += ended_s - self._since_s
            if self.timeline is not None:
                self.timeline.span(self.task_name, self._kind, began_s, ended_s)

    def _forget_cancelled(self, future: Future[Out]) -> None:
        if future.cancelled():
            with self._lock:
                self._waiting -= 1

    def _count(self) -> None:
        if self.timeline is not None:
            self.timeline.count(f"waiting: {self._kind}", self._waiting)
