"""Which machines of the cluster are about to go: spot machines that were called back, pods that are being moved."""

from __future__ import annotations

import time
from typing import Any

import ray

from fossilray.jobs.scheduler.connection import is_private

ASK_EVERY_S = 2.0
"""Two minutes' notice is the least that a cloud gives."""


class Departures:
    """The nodes that Ray was told to drain; needs a connection. A private Ray's only machine stays."""

    def __init__(self) -> None:
        self._asked_s = -1e9
        self._nodes: frozenset[str] = frozenset()

    @property
    def nodes(self) -> frozenset[str]:
        """Their ids, at most some seconds old."""
        if time.monotonic() - self._asked_s > ASK_EVERY_S:
            self._asked_s = time.monotonic()
            # Ray has no public call for it.
            state: Any = ray._private.state.state
            self._nodes = frozenset() if is_private() else frozenset(state.get_draining_nodes())
        return self._nodes
