"""Slides in a fake S3 on the loopback, and a count of requests to it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest

from fossilray.core.config import StoreConfig
from fossilray.slides.remote.source import SlideSource


def upload(folder: Path, url: str, config: StoreConfig) -> None:
    """Every file below a folder, below a URL."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    client = s3_client(config)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            key = f"{prefix}/{path.relative_to(folder)}".lstrip("/")
            client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())


def put(url: str, content: bytes, config: StoreConfig) -> None:
    bucket, _, key = url.removeprefix("s3://").partition("/")
    s3_client(config).put_object(Bucket=bucket, Key=key, Body=content)


@functools.cache
def s3_client(config: StoreConfig) -> Any:
    return boto3.client("s3", endpoint_url=config.endpoint_url, region_name=config.region)


@dataclass
class RequestCounts:
    """Requests of one kind of call to a source, and the bytes that came back."""

    listings: int = 0
    looks: int = 0
    reads: list[tuple[str, int]] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.reads)

    @property
    def requests(self) -> int:
        return self.listings + self.looks + len(self.reads)


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[RequestCounts]:
    """Requests of sources to the store, by the calls that fsspec's filesystem gets from them."""
    counts = RequestCounts()
    init = SlideSource.__init__

    def watched(self: SlideSource, *arguments: Any) -> None:
        init(self, *arguments)
        self._filesystem = _Watched(self._filesystem, counts)  # type: ignore[assignment]

    with monkeypatch.context() as patch:
        patch.setattr(SlideSource, "__init__", watched)
        yield counts


class _Watched:
    def __init__(self, filesystem: Any, counts: RequestCounts) -> None:
        self._filesystem, self._counts = filesystem, counts

    def cat_file(self, url: str, **limits: Any) -> bytes:
        content: bytes = self._filesystem.cat_file(url, **limits)
        self._counts.reads.append((url, len(content)))
        return content

    def info(self, url: str) -> Any:
        self._counts.looks += 1
        return self._filesystem.info(url)

    def call_s3(self, method: str, **arguments: Any) -> Any:
        self._counts.listings += 1
        return self._filesystem.call_s3(method, **arguments)
