"""An S3 server on the loopback that can be told to fail, for tests of what survives that.

`faulty_s3` gives an empty bucket's address, how it is reached, and what makes it fail. The server lives in the
process of the tests; workers in other processes reach it too.
"""

from __future__ import annotations

import logging
import secrets
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import boto3
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from s3fs import S3FileSystem
from werkzeug.serving import make_server

from fossilray.core.config import StoreConfig

ACCESS_KEY, SECRET_KEY = "AKIAFOSSILRAYTEST777", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYopensesame"
KEYS = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_EC2_METADATA_DISABLED": "true",
}

Fault = Literal[
    "slow down",
    "internal error",
    "too many requests",
    "forbidden",
    "conflict",
    "not implemented",
    "reset",
    "silence",
    "lost response",
    "late answer",
    "half a response",
    "slow bytes",
]
"""The last six: hang up at once; say nothing and do nothing; do the work and hang up; do the work and answer
too late; hang up in the middle of what is read; let it trickle."""

ANSWERS: dict[str, tuple[str, str]] = {
    "slow down": ("503 Slow Down", "SlowDown"),
    "internal error": ("500 Internal Server Error", "InternalError"),
    "too many requests": ("429 Too Many Requests", "TooManyRequests"),
    "forbidden": ("403 Forbidden", "AccessDenied"),
    "conflict": ("409 Conflict", "ConditionalRequestConflict"),
    "not implemented": ("501 Not Implemented", "NotImplemented"),
}


class Request(NamedTuple):
    """A request of a client."""

    method: str
    path: str
    query: str


@dataclass
class Controller:
    """Makes the server fail, and records the requests."""

    silence_s: float = 0.7
    """How long `silence` and `late answer` keep quiet: longer than the client's timeout."""
    ignores_conditions: bool = False
    """Be a store that does not know If-None-Match."""
    forbids: str = ""
    """While it is set, every request whose path holds it is refused."""
    requests: list[Request] = field(default_factory=list)
    _faults: list[tuple[Fault, str, str]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, fault: Fault, times: int = 1, *, method: str = "", path: str = "") -> None:
        """Fail the next `times` requests of this method whose path or query holds `path`."""
        with self._lock:
            self._faults += [(fault, method, path)] * times

    def heal(self) -> None:
        """Fail no more, and forget earlier requests."""
        with self._lock:
            self._faults.clear()
            self.requests.clear()
            self.ignores_conditions = False
            self.forbids = ""

    def requests_for(self, method: str = "", path: str = "") -> list[Request]:
        """The requests of this method whose path or query holds `path`."""
        return [one for one in self.requests if method in one.method and path in f"{one.path}?{one.query}"]

    def pending(self) -> int:
        """How many faults nobody has met yet."""
        return len(self._faults)

    def note(self, request: Request) -> Fault | None:
        """Remember a request; how it is to fail."""
        with self._lock:
            self.requests.append(request)
            if self.forbids and self.forbids in request.path:
                return "forbidden"
            for number, (fault, method, path) in enumerate(self._faults):
                if method in request.method and path in f"{request.path}?{request.query}":
                    del self._faults[number]
                    return fault
        return None


class FaultyS3(NamedTuple):
    """A run's address in an empty bucket, how it is reached, and what makes it fail."""

    url: str
    config: StoreConfig
    controller: Controller


class FaultyApp:
    """moto's S3 behind a controller. Writes are done one by one, as S3 does those of one key."""

    def __init__(self, app: WSGIApplication, controller: Controller) -> None:
        self._app = app
        self._controller = controller
        self._writing = threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # Werkzeug hands the path over as UTF-8 that claims to be Latin-1.
        path = unquote(environ["PATH_INFO"].encode("latin-1").decode())
        fault = self._controller.note(Request(environ["REQUEST_METHOD"], path, environ["QUERY_STRING"]))
        if self._controller.ignores_conditions:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        if fault in ANSWERS:
            return self._refuse(environ, start_response, *ANSWERS[fault])
        if fault == "silence":
            time.sleep(self._controller.silence_s)
        if fault in ("reset", "silence"):
            return self._hang_up(environ)
        if fault is None:
            return self._work(environ, start_response)
        if fault == "slow bytes":
            return self._trickle(environ, start_response)
        answer: list[Any] = []
        body = b"".join(self._work(environ, lambda *parts: answer.extend(parts) or (lambda _: None)))
        if fault == "late answer":
            time.sleep(self._controller.silence_s)
        if fault == "half a response":
            write = start_response(answer[0], answer[1])
            write(body[: len(body) // 2])
        return self._hang_up(environ)

    def _work(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return self._app(environ, start_response)
        with self._writing:
            return list(self._app(environ, start_response))

    def _trickle(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        body = b"".join(self._work(environ, start_response))
        step = max(1, len(body) // 10)
        for start in range(0, len(body), step):
            time.sleep(self._controller.silence_s / 8)
            yield body[start : start + step]

    def _refuse(
        self, environ: WSGIEnvironment, start_response: StartResponse, status: str, code: str
    ) -> Iterable[bytes]:
        # Unread, the content would make the system hang up before the client has read our answer.
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        text = (
            f"<Error><Code>{code}</Code><Message>{status}, access key {ACCESS_KEY}</Message></Error>".encode()
        )
        start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(text)))])
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else text]

    def _hang_up(self, environ: WSGIEnvironment) -> Iterable[bytes]:
        connection: socket.socket = environ["werkzeug.socket"]
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Werkzeug's own files keep the socket open until it has heard of the error.
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        raise ConnectionAbortedError


@pytest.fixture(scope="session")
def faulty_server() -> Iterator[tuple[str, Controller]]:
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    controller = Controller()
    app = FaultyApp(DomainDispatcherApplication(create_backend_app), controller)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    yield f"http://127.0.0.1:{server.server_port}", controller
    server.shutdown()
    serving.join()


@pytest.fixture
def faulty_s3(faulty_server: tuple[str, Controller], monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """An empty bucket on a server that works until its controller says otherwise."""
    endpoint, controller = faulty_server
    controller.heal()
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    # Waits are botocore's own business and tested there; in other processes they are as they are.
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    monkeypatch.setattr("fossilray.store.files.retry.FIRST_WAIT_S", 0.01)
    S3FileSystem.clear_instance_cache()
    bucket = f"faulty-{secrets.token_hex(4)}"
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket=bucket)
    controller.heal()
    config = StoreConfig(endpoint_url=endpoint, region="us-east-1", tries=4, timeout_s=20.0)
    yield FaultyS3(f"s3://{bucket}/census/run", config, controller)
    controller.heal()
