"""The connection to Ray."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import ray
from ray._private import ray_constants

OBJECT_STORE_BYTES = 128 * 1024**2
"""Nothing larger than an Outcome passes through it."""


@contextlib.contextmanager
def ray_cluster(address: str) -> Iterator[None]:
    """A connection to a running cluster, or with `local` a private Ray on this machine, closed afterwards."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with _own_signals():
        if address == "local":
            with _on_loopback():
                ray.init(
                    address="local",
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    object_store_memory=OBJECT_STORE_BYTES,
                )
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def is_private() -> bool:
    """Whether this process started the Ray that it is connected to, which no other machine will ever join."""
    node: Any = ray._private.worker._global_node
    return node is not None and bool(node.is_head())


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Put back the handler of SIGTERM, which Ray replaces by one that dumps its stack and aborts the driver."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if before is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """While it lasts, a Ray that starts takes 127.0.0.1 for its address, and all its servers listen there alone.

    On Linux Ray's servers listen on every interface, without a password, and whoever reaches them runs code.
    Its own switch is meant for desktops (where a cluster is not supported anyway) and read once, at import;
    `_node_ip_address` does not help, since Ray turns a loopback address back into the machine's.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
