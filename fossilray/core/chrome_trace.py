"""Traces of the threads of a process in Chrome's format, for Perfetto and chrome://tracing.

Format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU, "JSON Object Format".
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time


class ChromeTrace:
    """A trace of spans and counters; safe to share between threads.

    Times are microseconds since 1970, by the clock at the start of the trace. Traces of several processes can be
    compared as far as their clocks agree.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._process = os.getpid()
        self._epoch_us = time.time_ns() / 1e3 - time.monotonic() * 1e6
        self._events: list[tuple[float, dict[str, object]]] = []
        self._threads: dict[int, str] = {}
        self._lock = threading.Lock()

    def span(self, name: str, kind: str, began_s: float, ended_s: float) -> None:
        """Record that this thread did `name` between two times of time.monotonic()."""
        thread = threading.get_native_id()
        began_us = round(self._epoch_us + began_s * 1e6, 1)
        event = {
            "name": name,
            "cat": kind,
            "ph": "X",
            "ts": began_us,
            "dur": round((ended_s - began_s) * 1e6, 1),
            "pid": self._process,
            "tid": thread,
        }
        with self._lock:
            self._threads.setdefault(thread, threading.current_thread().name)
            self._events.append((began_us, event))

    def count(self, name: str, value: int) -> None:
        """Record the value of the counter `name` from now on."""
        now_us = round(self._epoch_us + time.monotonic() * 1e6, 1)
        event = {
            "name": name,
            "ph": "C",
            "ts": now_us,
            "pid": self._process,
            "tid": 0,
            "args": {"count": value},
        }
        with self._lock:
            self._events.append((now_us, event))

    def to_json(self) -> bytes:
        """Return the trace as JSON, events in order of time."""
        with self._lock:
            events = [event for _, event in sorted(self._events, key=lambda event: event[0])]
            names: list[dict[str, object]] = [self._named("process_name", 0, self._title)]
            names += [self._named("thread_name", thread, name) for thread, name in self._threads.items()]
        trace = {
            "traceEvents": [*names, *events],
            "displayTimeUnit": "ms",
            "otherData": {"title": self._title, "host": socket.gethostname()},
        }
        return json.dumps(trace, separators=(",", ":")).encode() + b"\n"

    def _named(self, kind: str, thread: int, name: str) -> dict[str, object]:
        return {"name": kind, "ph": "M", "pid": self._process, "tid": thread, "args": {"name": name}}
