"""Listing and ranged reads of slide files in an object store.

Files are named by their full URL. A listing of up to 1,000 files is one request, and so is a range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from fossilray.core.config import AccessConfig
from fossilray.core.errors import SourceAccessDenied, SourceUnreachable
from fossilray.slides.dicom import DicomSeries
from fossilray.store.files.options import (
    S3,
    first_sentence,
    is_retryable,
    remote_filesystem,
    transport_errors,
)
from fossilray.store.files.retry import repeat_interrupted

Response = TypeVar("Response")

FILES_PER_LISTING = 1000
"""Maximum number of files in one S3 listing."""

_VERSION_KEYS = ("ETag", "etag", "md5Hash")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file in an object store; `version` changes whenever its content does."""

    url: str
    bytes: int
    version: str


def open_source(url: str, access: AccessConfig) -> SlideSource:
    """Return the object store of a URL; no request is sent yet.

    Raises:
        SourceUnreachable: the protocol is unknown, its package is not installed, or the URL holds credentials.
    """
    protocol, _, rest = url.partition("://")
    if "@" in rest.partition("/")[0]:
        raise SourceUnreachable(
            f"a {protocol}:// address of slides must not hold credentials; put them into the shared AWS "
            "credentials file and name its profile in slides.access.profile"
        )
    try:
        return SlideSource(protocol, access)
    except (ValueError, ImportError) as error:
        raise SourceUnreachable(
            f"cannot reach {url}: {first_sentence(error)}; use a local folder or s3://bucket/folder"
        ) from None


class SlideSource:
    """Object store from which slides are read; safe for many threads.

    Every method raises SourceUnreachable when the store is unreachable, SourceAccessDenied when it
    denies access.
    """

    def __init__(self, protocol: str, access: AccessConfig) -> None:
        self.protocol = protocol
        self._filesystem = remote_filesystem(protocol, access)
        self._tries = access.tries
        self.series: dict[tuple[str, str], DicomSeries | None] = {}
        """DICOM series of the files that were looked at, by URL and version."""
        self._faults: tuple[type[Exception], ...] = (OSError, *transport_errors(protocol))

    def walk(self, folder: str) -> Iterator[RemoteFile]:
        """Yield every file below a folder; none if the folder is missing. S3 listings are read page by page."""
        prefix = folder.rstrip("/") + "/"
        pages = self._s3_pages(prefix) if self.protocol in S3 else self._all_at_once(prefix)
        for url, size, version in pages:
            # Consoles mark folders by empty files whose name ends in a slash.
            if not url.endswith("/"):
                yield RemoteFile(url, size, version)

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders directly in a folder; none if it is missing."""
        return [
            str(entry["name"]).rstrip("/").rpartition("/")[2]
            for entry in self._entries(folder)
            if entry["type"] == "directory"
        ]

    def files(self, folder: str) -> list[RemoteFile]:
        """Return the files directly in a folder; none if it is missing."""
        return [
            RemoteFile(
                f"{folder}/{entry['name'].rpartition('/')[2]}", int(entry["size"] or 0), _version(entry)
            )
            for entry in self._entries(folder)
            if entry["type"] == "file" and not entry["name"].endswith("/")
        ]

    def file(self, url: str) -> RemoteFile:
        """Return the size and version of one file.

        Raises:
            FileNotFoundError: the file is missing.
        """
        info = self._request(url, lambda: self._filesystem.info(url))
        if info["type"] != "file":
            raise FileNotFoundError(url)
        return RemoteFile(url, int(info["size"] or 0), _version(info))

    def read(self, file: RemoteFile, start: int = 0, stop: int | None = None) -> bytes:
        """Read bytes [start, stop) of a file in one request; fewer if it ends before.

        Raises:
            FileNotFoundError: the file no longer exists.
        """
        end = file.bytes if stop is None else min(stop, file.bytes)
        if start >= end:
            return b""
        content: bytes = self._request(
            file.url, lambda: self._filesystem.cat_file(file.url, start=start, end=end)
        )
        return content

    def _entries(self, folder: str) -> list[dict[str, Any]]:
        try:
            entries: list[dict[str, Any]] = self._request(
                folder, lambda: self._filesystem.ls(f"{folder}/", detail=True, refresh=True)
            )
        except FileNotFoundError:
            return []
        return entries

    def _s3_pages(self, prefix: str) -> Iterator[tuple[str, int, str]]:
        # s3fs would collect the whole listing, some 2 kB a file.
        bucket, _, key = prefix.partition("://")[2].partition("/")
        marker: dict[str, str] = {}
        while True:
            page = self._request(prefix, lambda: self._list_page(bucket, key, marker))  # noqa: B023 (called at once)
            for item in page.get("Contents", ()):
                yield f"{self.protocol}://{bucket}/{item['Key']}", item["Size"], _version(item)
            if not page.get("IsTruncated"):
                return
            marker = {"ContinuationToken": page["NextContinuationToken"]}

    def _list_page(self, bucket: str, key: str, marker: dict[str, str]) -> dict[str, Any]:
        try:
            page: dict[str, Any] = self._filesystem.call_s3(
                "list_objects_v2", Bucket=bucket, Prefix=key, MaxKeys=FILES_PER_LISTING, **marker
            )
        except FileNotFoundError:
            # The bucket is missing.
            return {}
        return page

    def _all_at_once(self, prefix: str) -> Iterator[tuple[str, int, str]]:
        try:
            files = self._request(prefix, lambda: self._filesystem.find(prefix, detail=True))
        except FileNotFoundError:
            return
        for path, info in sorted(files.items()):
            yield f"{self.protocol}://{path.lstrip('/')}", int(info["size"] or 0), _version(info)

    def _request(self, url: str, send: Callable[[], Response]) -> Response:
        """Return the response; interrupted requests that the libraries do not repeat are repeated here."""
        try:
            return repeat_interrupted(send, protocol=self.protocol, tries=self._tries, faults=self._faults)
        except FileNotFoundError:
            raise
        except self._faults as error:
            kind = SourceUnreachable if is_retryable(error, self.protocol) else SourceAccessDenied
            raise kind(
                f"cannot read {url}: {first_sentence(error)}; check the network, slides.access and who may read there"
            ) from None


def _version(info: dict[str, Any]) -> str:
    stated = next((info[key] for key in _VERSION_KEYS if info.get(key)), "")
    return str(stated).strip('"')
