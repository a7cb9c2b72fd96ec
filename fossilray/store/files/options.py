"""How object stores are reached through fsspec: what its filesystems are told, and what their faults mean.

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

S3FS_TRIES = 1
"""s3fs would try some faults 5 times over, those of a read 25 times, around all of botocore's tries."""

READERS_TRIES = 3
"""But no other process repeats an answer that broke off under a library that reads through fsspec by itself."""

LARGEST_PUT_BYTES = 5 * 2**30
"""The most that one PUT may carry in S3."""

EXTRAS = {**dict.fromkeys(GOOGLE, "gcs"), **dict.fromkeys(AZURE, "azure")}
"""The optional packages of fossilray that a protocol needs."""


def remote_filesystem(protocol: str, access: AccessConfig) -> fsspec.AbstractFileSystem:
    """fsspec's filesystem, told of retries and timeouts; no connection is made yet.

    Raises:
        ValueError: no process knows the protocol, or its library finds no account.
        ImportError: its package is not installed.
    """
    filesystem = fsspec.filesystem(protocol, **remote_options(protocol, access))
    if protocol in S3:
        filesystem.retries = S3FS_TRIES
    return filesystem


def readers_filesystem(protocol: str, access: AccessConfig) -> fsspec.AbstractFileSystem:
    """The same for libraries that read through fsspec by themselves, such as DuckDB."""
    filesystem = fsspec.filesystem(protocol, skip_instance_cache=True, **remote_options(protocol, access))
    if protocol in S3:
        filesystem.retries = READERS_TRIES
    return filesystem


def remote_options(protocol: str, access: AccessConfig) -> dict[str, Any]:
    """What `fsspec.filesystem(protocol, **options)` is told; holds no secret."""
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
    """What `pipe_file` is told to create a file only if it is absent, in one request whatever its size."""
    # S3 sends If-None-Match: *, Google ifGenerationMatch=0; above two (one) chunks they would send parts.
    if protocol in S3:
        return {"mode": "create", "chunksize": LARGEST_PUT_BYTES // 2}
    if protocol in GOOGLE:
        return {"mode": "create", "chunksize": LARGEST_PUT_BYTES}
    return {"mode": "create"}


def read_options(protocol: str) -> dict[str, Any]:
    """What `cat_file` is told to read a whole file in one request."""
    # s3fs would ask for the size first, to read large files in parallel.
    return {"max_concurrency": 1} if protocol in S3 else {}


def transport_errors(protocol: str) -> tuple[type[Exception], ...]:
    """What a protocol's library raises beside OSError: no answer, no credentials, an answer that is none."""
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
    """Whether an answer ended early or was 429, which no process beneath repeats."""
    if protocol not in S3:
        return False
    from aiobotocore.response import AioReadTimeoutError
    from aiohttp import ClientPayloadError
    from botocore.exceptions import IncompleteReadError, ResponseStreamingError

    broken = (AioReadTimeoutError, ClientPayloadError, IncompleteReadError, ResponseStreamingError)
    return isinstance(error, broken) or http_status(error) == 429


def is_retryable(error: Exception, protocol: str) -> bool:
    """Whether the store may well answer later: throttled, a server's fault, no connection, too slow."""
    status = http_status(error)
    if status is not None:
        return status in (408, 429) or (status >= 500 and status != 501)
    return isinstance(error, (TimeoutError, ConnectionError, *_lost_connections(protocol)))


def http_status(error: BaseException) -> int | None:
    """The HTTP status that a library's error carries, if any."""
    # s3fs raises an OSError whose cause is botocore's ClientError, which carries the answer.
    response = getattr(error.__cause__, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        # gcsfs says code, azure says status_code.
        status = getattr(error, "status_code", None) or getattr(error, "code", None)
    return status if isinstance(status, int) else None


def first_sentence(error: BaseException) -> str:
    """An error's first line without its full stop, and without anything that could be a credential."""
    text = str(getattr(error, "strerror", None) or error).strip() or type(error).__name__
    return without_secrets(text.splitlines()[0].strip().rstrip("."))


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
