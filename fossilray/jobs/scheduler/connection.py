"""The connection to Ray."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants

from fossilray.core.errors import WorkerError
from fossilray.jobs.scheduler.private_ray import PrivateRay

CONNECT_S = 10.0
"""Timeout of the first connection to a cluster's head."""
OBJECT_STORE_BYTES = 128 * 1024**2
"""Size of the object store; the largest object is an Outcome."""
_AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@contextlib.contextmanager
def ray_cluster(address: str) -> Iterator[None]:
    """Connect to a running cluster, or with `local` start a private Ray on this machine; disconnect afterwards.

    Raises:
        WorkerError: no cluster replies at the address, or the private Ray does not start.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with contextlib.ExitStack() as open_until_the_end:
        open_until_the_end.enter_context(_own_authentication())
        with _own_signals():
            if address == "local":
                private = PrivateRay()
                open_until_the_end.callback(private.close)
                open_until_the_end.callback(ray.shutdown)
                with _variables(private.environment | _new_token()), _on_loopback():
                    _start_private(private.path)
            else:
                open_until_the_end.callback(ray.shutdown)
                _join(address)
        yield


def _start_private(folder: Path) -> None:
    _forget_authentication()
    try:
        ray.init(
            address="local",
            _temp_dir=str(folder),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
        )
    # Ray gives its servers 30 s, which cannot be configured, and raises a bare Exception.
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
        # Ray itself would try for two minutes, print to the terminal meanwhile, and then exit the process.
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
        except OSError as error:
            raise _unreachable(address, str(error)) from None
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, SystemExit) as error:
        raise _unreachable(address, str(error).partition("\n")[0]) from None


def _unreachable(address: str, why: str) -> WorkerError:
    return WorkerError(
        f"no Ray cluster can be joined at {address} ({why}); give --address the head's host:port, or where the cluster "
        "requires a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
    )


def is_private() -> bool:
    """Return whether this process started the connected Ray, which no other machine can join."""
    node: Any = ray._private.worker._global_node
    return node is not None and bool(node.is_head())


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Restore the handler of SIGTERM, which Ray replaces by one that dumps its stack and aborts the driver."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if before is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _own_authentication() -> Iterator[None]:
    """Restore the authentication variables of this process when it disconnects."""
    before = {name: os.environ.get(name) for name in _AUTHENTICATION}
    try:
        yield
    finally:
        _set(before)
        _forget_authentication()


def _new_token() -> dict[str, str]:
    """Variables that make a new cluster require a token, which only this user's processes hold in memory.

    Ray itself would write a token below the home folder, which turns authentication on for the user's later clusters.
    """
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def _forget_authentication() -> None:
    """Make Ray read the variables again. In this order, or a thread that still sends requests may miss the token."""
    raylet: Any = ray._raylet
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables within a `with` block, for this process and those that it starts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Make a Ray that is started within a `with` block listen on 127.0.0.1 only.

    On Linux Ray's servers listen on every interface, without a password, and any client can run code. Ray's own
    switch is for desktop systems and is read once, at import; `_node_ip_address` does not help, since Ray replaces a
    loopback address by the machine's.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
