"""The connection to Ray."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import ray
from ray._private import ray_constants

from fossilray.errors import WorkerError

ANSWER_S = 10.0
"""How long a cluster's head may take to answer the first knock."""
OBJECT_STORE_BYTES = 128 * 1024**2
"""Nothing larger than an Outcome passes through it."""


@contextlib.contextmanager
def ray_cluster(address: str) -> Iterator[None]:
    """A connection to a running cluster, or with `local` a private Ray on this machine, closed afterwards.

    Raises:
        WorkerError: nobody answers at the address, or no private Ray comes up.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with _own_signals():
        if address == "local":
            with _on_loopback():
                _start_private()
        else:
            _join(address)
    try:
        yield
    finally:
        ray.shutdown()


def _start_private() -> None:
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
        )
    # Ray gives its servers 30 s, which nothing changes, and says so by a bare Exception.
    except Exception as error:
        if "timed out during startup" not in str(error):
            raise
        raise WorkerError(
            "Ray's servers did not come up on this machine within 30 seconds; something else keeps it busy: wait, and "
            "start the same command again"
        ) from None


def _join(address: str) -> None:
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        # Ray itself would try for two minutes, write to the terminal meanwhile, and then end the process.
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
        except OSError as error:
            raise _unreachable(address, str(error)) from None
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, SystemExit) as error:
        raise _unreachable(address, str(error).partition("\n")[0]) from None


def _unreachable(address: str, why: str) -> WorkerError:
    return WorkerError(
        f"no Ray cluster can be joined at {address} ({why}); give --address the head's host:port, or where the cluster "
        "asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
    )


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
