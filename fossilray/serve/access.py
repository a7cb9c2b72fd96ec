"""Checks of each request before a route sees it, and headers of every response."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fossilray.serve.annotators import Annotators

TOKEN_COOKIE = "fossilray_token"
MOST_BODY_BYTES = 2 * 2**20
_MOST_BYTES_OF = {"/api/identify": 65 * 2**20}
"""Of paths that take more: photographs, which their route bounds more closely."""
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
_SAFE = ("GET", "HEAD")
_OPEN_PATHS = ("/login", "/static/")
"""Paths that need no token: what the page to enter one is made of."""


class Gate:
    """Refuses requests under a foreign name (DNS rebinding), from another origin (CSRF), without a token, or too large.

    hosts: names of this server without the port.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], annotators: Annotators) -> None:
        self._app, self._hosts, self._annotators = app, frozenset(hosts), annotators

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, _bounded(receive, _most_bytes(scope)), send_with_headers)
        else:
            await refusal(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if _name_of(host) not in self._hosts:
            return _refused(
                421, f"this server is not known as {host!r:.100}; see --allow-host of fossilray serve"
            )
        if scope["method"] not in _SAFE:
            origin = headers.get("origin")
            if origin is None or urlsplit(origin).netloc != host:
                return _refused(403, "a change must come from a page of this server")
        if int(headers.get("content-length", "0") or 0) > _most_bytes(scope):
            return _refused(413, f"a request may have {_most_bytes(scope):,} bytes")
        path = scope["path"]
        if self._annotators.needs_token and not path.startswith(_OPEN_PATHS):
            if self._annotators.is_guessed_at():
                return _refused(429, "too many wrong tokens; wait a minute")
            if self._annotators.of_token(token_of(headers)) is None:
                return _refused(401, "give your token")
        return None


def token_of(headers: Headers) -> str | None:
    """Return the token of a request: of its Authorization header, else of its cookie."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    if kind.casefold() == "bearer":
        return token.strip()
    for part in headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == TOKEN_COOKIE:
            return value
    return None


def _most_bytes(scope: Scope) -> int:
    return _MOST_BYTES_OF.get(scope["path"], MOST_BODY_BYTES)


def _bounded(receive: Receive, most_bytes: int) -> Receive:
    """Return `receive` that ends a body beyond the limit, whose length was not stated."""
    received = 0

    async def bounded() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > most_bytes:
            return {"type": "http.disconnect"}
        return message

    return bounded


def _name_of(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].casefold()


def _refused(status: int, reason: str) -> JSONResponse:
    return JSONResponse({"detail": reason}, status_code=status)
