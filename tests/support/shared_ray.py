"""A Ray cluster that the tests of several files share: one start costs as much CPU as a small job."""

from __future__ import annotations

import pytest
from ray.cluster_utils import Cluster
from support.faulty_s3 import KEYS

TRIES = 3
"""Ray gives a node half a minute to come up, which on a busy machine may be too short."""


class SharedRay:
    """A cluster of one node, started by the first job that joins it; jobs leave it running."""

    def __init__(self) -> None:
        self._cluster: Cluster | None = None

    @property
    def address(self) -> str:
        if self._cluster is None:
            with pytest.MonkeyPatch.context() as environment:
                # Workers have the environment that their node was started in.
                for name, value in KEYS.items():
                    environment.setenv(name, value)
                self._cluster = _start()
        return str(self._cluster.address)

    def stop(self) -> None:
        """End the cluster, if there is one."""
        if self._cluster is not None:
            self._cluster.shutdown()
            self._cluster = None


def _start() -> Cluster:
    cluster = Cluster()
    for left in reversed(range(TRIES)):
        try:
            cluster.add_node(
                num_cpus=2, object_store_memory=80 * 2**20, include_dashboard=False, no_monitor=True
            )
            break
        except Exception as error:
            # Ray has no class for it.
            if not left or "timed out during startup" not in str(error):
                raise
            cluster.shutdown()
            cluster = Cluster()
    return cluster
