"""Waiting for what another process or thread brings about."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_for(is_so: Callable[[], bool], seconds: float = 120.0) -> None:
    """Return once the condition holds; fails if it does not within `seconds`."""
    deadline_s = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline_s, "the condition did not come to hold"
        time.sleep(0.02)
