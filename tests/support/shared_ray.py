"""A Ray cluster that all tests of a file share, so that it is started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ray.cluster_utils import Cluster
from support.s3_bucket import KEYS

TRIES = 3
"""Ray gives a node half a minute to come up, which on a busy machine may be too short."""


def start_ray() -> Iterator[str]:
    """Yield its address; a job that joins it leaves it running."""
    with pytest.MonkeyPatch.context() as environment:
        # Workers have the environment that their node was started in.
        for name, value in KEYS.items():
            environment.setenv(name, value)
        cluster = _start()
        yield cluster.address
        cluster.shutdown()


def _start() -> Cluster:
    cluster = Cluster()
    for left in reversed(range(TRIES)):
        try:
            cluster.add_node(num_cpus=2, object_store_memory=80 * 2**20, include_dashboard=False)
            break
        except Exception as error:
            # Ray has no class for it.
            if not left or "timed out during startup" not in str(error):
                raise
            cluster.shutdown()
            cluster = Cluster()
    return cluster
