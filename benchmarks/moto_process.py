"""A moto server on the loopback, in a process of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

_START_TIMEOUT_S = 100


@contextmanager
def moto_server() -> Iterator[str]:
    """Yield its address once it responds; the process ends with the block.

    Raises:
        RuntimeError: it does not respond.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=30)


def _wait_for(endpoint: str) -> None:
    until = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < until:
        try:
            urllib.request.urlopen(f"{endpoint}/moto-api/").close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"no server responds at {endpoint}")
