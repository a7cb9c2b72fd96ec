"""Access to object stores through fsspec: options of its filesystems, and the classes of their errors.

S3 repeats requests inside botocore (retry mode `standard`: waits that double and vary, up to 20 s), gs:// and
az:// inside their own libraries. `tries` and `timeout_s` are AccessConfig's.
"""

from __future__ import annotations

from typing import Any

import fsspec

from fossilray.core.config import AccessConfig
from fossilray.core.text import without_secrets

S3 = ("s3", "s3a")
GOOGLE = ("gs", "gcs")
AZURE = ("az", "abfs", "abfss")

CONNECTIONS = 64
"""Connections kept to one endpoint; botocore's own 10 would queue our readers and the parts of an upload."""

S3FS_ATTEMPTS = 1
"""s3fs would retry some errors 5 times and those of a read 25 times, around all of botocore's retries."""

READERS_ATTEMPTS = 3
"""Retries for libraries that read through fsspec themselves; botocore does not repeat an interrupted response."""

LARGEST_PUT_BYTES = 5 * 2**30
"""The most that one PUT may carry in S3."""

EXTRAS = {**dict.fromkeys(GOOGLE, "gcs"), **dict.fromkeys(AZURE, "azure")}
"""The optional packages of fossilray that a protocol needs."""


def remote_filesystem(protocol: str, access: AccessConfig) -> fsspec.AbstractFileSystem:
    """Return fsspec's filesystem with retries and timeouts set; no connection is made yet.

    Raises:
        ValueError: the protocol is unknown, or its library finds no account.
        ImportError: its package is not installed.
    """
    filesystem = fsspec.filesystem(protocol, **remote_options(protocol, access))
    if protocol in S3:
        filesystem.retries = S3FS_ATTEMPTS
    return filesystem


def readers_filesystem(protocol: str, access: AccessConfig) -> fsspec.AbstractFileSystem:
    """Return the filesystem for libraries that read through fsspec themselves, such as DuckDB."""
    filesystem = fsspec.filesystem(protocol, skip_instance_cache=True, **remote_options(protocol, access))
    if protocol in S3:
        filesystem.retries = READERS_ATTEMPTS
    return filesystem


def remote_options(protocol: str, access: AccessConfig) -> dict[str, Any]:
    """Return the options of `fsspec.filesystem(protocol, **options)`; they hold no secret."""
    # A cached listing would hide what other machines have committed since.
    options: dict[str, Any] = {"use_listings_cache": False}
    if protocol in S3:
        options["config_kwargs"] = {
            "retries": {"mode": "standard", "total_max_attempts": access.tries},
            "connect_timeout": access.timeout_s,
            "read_timeout": access.timeout_s,
            "max_pool_connections": CONNECTIONS,
        }
        if access.endpoint_url:
            options["endpoint_url"] = access.endpoint_url
        if access.region:
            options["client_kwargs"] = {"region_name": access.region}
        if access.profile:
            options["profile"] = access.profile
        if access.anonymous:
            options["anon"] = True
    elif protocol in GOOGLE:
        options["requests_timeout"] = access.timeout_s
        if access.endpoint_url:
            options["endpoint_url"] = access.endpoint_url
        if access.anonymous:
            options["token"] = "anon"
    elif protocol in AZURE:
        options["connection_timeout"] = options["read_timeout"] = max(1, round(access.timeout_s))
        options["anon"] = access.anonymous
        if access.endpoint_url:
            options["account_host"] = access.endpoint_url.partition("://")[2].rstrip("/")
    return options


def create_options(protocol: str) -> dict[str, Any]:
    """Return the options by which `pipe_file` creates a file only if it is absent, in one request of any size."""
    # S3 sends If-None-Match: *, Google ifGenerationMatch=0; above two (one) chunks they would send parts.
    if protocol in S3:
        return {"mode": "create", "chunksize": LARGEST_PUT_BYTES // 2}
    if protocol in GOOGLE:
        return {"mode": "create", "chunksize": LARGEST_PUT_BYTES}
    return {"mode": "create"}


def read_options(protocol: str) -> dict[str, Any]:
    """Return the options by which `cat_file` reads a whole file in one request."""
    # s3fs would request the size first, to read large files in parallel.
    return {"max_concurrency": 1} if protocol in S3 else {}


def transport_errors(protocol: str) -> tuple[type[Exception], ...]:
    """Return the errors of a protocol's library beside OSError: no response, an invalid one, no credentials."""
    if protocol in S3:
        from aiohttp import ClientError
        from botocore.exceptions import BotoCoreError
        from botocore.parsers import ResponseParserError

        return (BotoCoreError, ResponseParserError, ClientError)
    if protocol in GOOGLE:
        from aiohttp import ClientError
        from gcsfs.retry import HttpError
        from google.auth.exceptions import GoogleAuthError

        return (HttpError, GoogleAuthError, ClientError)
    if protocol in AZURE:
        from aiohttp import ClientError
        from azure.core.exceptions import AzureError

        return (AzureError, ClientError)
    return ()


def is_interrupted(error: Exception, protocol: str) -> bool:
    """Return whether a response ended early or was 429, which the libraries do not repeat."""
    if protocol not in S3:
        return False
    from aiobotocore.response import AioReadTimeoutError
    from aiohttp import ClientPayloadError
    from botocore.exceptions import IncompleteReadError, ResponseStreamingError

    broken = (AioReadTimeoutError, ClientPayloadError, IncompleteReadError, ResponseStreamingError)
    return isinstance(error, broken) or http_status(error) == 429


def is_retryable(error: Exception, protocol: str) -> bool:
    """Return whether the request may succeed later: throttled, a server's error, no connection, a timeout."""
    status = http_status(error)
    if status is not None:
        return status in (408, 429) or (status >= 500 and status != 501)
    return isinstance(error, (TimeoutError, ConnectionError, *_lost_connections(protocol)))


def http_status(error: BaseException) -> int | None:
    """Return the HTTP status of a library's error, if it has one."""
    # s3fs raises an OSError whose cause is botocore's ClientError, which has the response.
    response = getattr(error.__cause__, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        # gcsfs names it code, azure status_code.
        status = getattr(error, "status_code", None) or getattr(error, "code", None)
    return status if isinstance(status, int) else None


def first_sentence(error: BaseException) -> str:
    """Return an error's first line without its full stop, and without anything that could be a credential."""
    text = str(getattr(error, "strerror", None) or error).strip() or type(error).__name__
    line = text.splitlines()[0].strip().rstrip(".")
    return without_secrets(line or type(error).__name__)


def _lost_connections(protocol: str) -> tuple[type[Exception], ...]:
    if protocol in S3:
        from aiohttp import ClientError
        from botocore import exceptions
        from botocore.parsers import ResponseParserError

        return (
            exceptions.HTTPClientError,
            exceptions.ConnectionError,
            exceptions.IncompleteReadError,
            ResponseParserError,
            ClientError,
        )
    if protocol in GOOGLE:
        from aiohttp import ClientError
        from google.auth.exceptions import TransportError

        return (TransportError, ClientError)
    if protocol in AZURE:
        from aiohttp import ClientError
        from azure.core.exceptions import ServiceRequestError, ServiceResponseError

        return (ServiceRequestError, ServiceResponseError, ClientError)
    return ()
