"""Waiting for what another process or thread brings about."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_for(
    is_so: Callable[[], bool],
    seconds: float = 120.0,
    *,
    pause_s: float = 0.02,
    lives: Callable[[], bool] = lambda: True,
    log: Callable[[], str] = lambda: "",
) -> None:
    """Return once the condition holds; fails if it does not within `seconds`.

    lives: whether the process still runs that is to bring it about; the wait fails at once when it has ended. log: what
    the process printed, for the message.
    """
    deadline_s = time.monotonic() + seconds
    while not is_so():
        assert lives(), f"the process ended before the condition held: {log()}"
        assert time.monotonic() < deadline_s, f"the condition did not come to hold: {log()}"
        time.sleep(pause_s)
