"""Ordered parallel maps with bounded memory, and a thread pool that measures its own load."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from fossilray.core.chrome_trace import ChromeTrace

In = TypeVar("In")
Out = TypeVar("Out")

_ITEMS_AT_ONCE = 1024
"""Items submitted together; an executor keeps a kilobyte for each."""


def map_in_chunks(work: Callable[[In], Out], items: Sequence[In], *, threads: int) -> Iterator[Out]:
    """Yield results in the order of `items`. At most _ITEMS_AT_ONCE are in memory."""
    with ThreadPoolExecutor(threads) as pool:
        for begin in range(0, len(items), _ITEMS_AT_ONCE):
            yield from pool.map(work, items[begin : begin + _ITEMS_AT_ONCE])


def map_ordered(
    pool: ThreadPoolExecutor, work: Callable[[In], Out], items: Iterable[In], *, ahead: int
) -> Generator[Out]:
    """Yield results of `work` in the order of `items`; at most `ahead` are started before they are consumed."""
    started: deque[Future[Out]] = deque()
    try:
        for item in items:
            started.append(pool.submit(work, item))
            if len(started) >= ahead:
                yield started.popleft().result()
        while started:
            yield started.popleft().result()
    finally:
        for future in started:
            future.cancel()


Given = ParamSpec("Given")


class MonitoredThreadPool(ThreadPoolExecutor):
    """Threads for one kind of task. Measuring adds a few microseconds to a task."""

    def __init__(self, threads: int, kind: str) -> None:
        super().__init__(threads, thread_name_prefix=kind)
        self.timeline: ChromeTrace | None = None
        """Trace in which each task is recorded, for one slide at a time."""
        self.task_name = kind
        """Name of the current tasks in the trace."""
        self._kind = kind
        self._lock = threading.Lock()
        self._waiting = 0
        self._running = 0
        self._busy_s = 0.0
        self._since_s = 0.0

    @property
    def waiting(self) -> int:
        """Tasks that no thread has started."""
        return self._waiting

    @property
    def busy_s(self) -> float:
        """Seconds so far in which at least one thread was busy."""
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
