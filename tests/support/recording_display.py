"""A display of jobs that keeps its messages and prints nothing."""

from __future__ import annotations

import threading

from fossilray.jobs.progress import Tally


class RecordingDisplay:
    """A display that keeps its messages, and sets `stop` after some commits."""

    def __init__(self, stop: threading.Event | None = None, stop_after: int | None = None) -> None:
        self.messages: list[str] = []
        self._stop, self._stop_after = stop, stop_after

    def __enter__(self) -> RecordingDisplay:
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, tally: Tally, states: object) -> None:
        if self._stop is not None and self._stop_after is not None and tally.committed >= self._stop_after:
            self._stop.set()

    def message(self, line: str) -> None:
        self.messages.append(line)
