"""Threads that can be watched: how much waits for them, how long they were busy, and each task where asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from fossilray.core.chrome_trace import ChromeTrace

Given = ParamSpec("Given")
Out = TypeVar("Out")


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
