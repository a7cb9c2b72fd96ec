"""A run directory's files in an object store, through fsspec."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from fossilray.core.config import StoreConfig
from fossilray.core.errors import StoreAccessDenied, StoreError
from fossilray.core.records import FileEntry
from fossilray.store.files.base import PROBE_FILES, is_spare
from fossilray.store.files.faults import conditional_create_unsupported, translate_errors
from fossilray.store.files.options import (
    S3,
    create_options,
    first_sentence,
    http_status,
    read_options,
    readers_filesystem,
    remote_filesystem,
    remote_options,
    transport_errors,
)
from fossilray.store.files.retry import repeat_interrupted, wait_before_retry

_Result = TypeVar("_Result")

CONFLICT_TRIES = 8
"""S3 responds with 409 while another conditional PUT of the same key is in progress; that ends within a second."""

KEYS_A_DELETE = 1000
"""The most that S3 takes in one request."""

_AGE_KEYS = ("LastModified", "mtime", "last_modified")
"""What s3fs, gcsfs and adlfs call the time of a file's last change."""


class RemoteFiles:
    """`Files` in an object store; every method is described there."""

    def __init__(self, protocol: str, path: str, config: StoreConfig) -> None:
        self.single_writer = config.single_writer
        self.options = remote_options(protocol, config)
        self.filesystem = readers_filesystem(protocol, config)
        self._filesystem = remote_filesystem(protocol, config)
        self.root = self._filesystem._strip_protocol(f"{protocol}://{path}").rstrip("/")
        self.url = f"{protocol}://{self.root.lstrip('/')}"
        self._protocol = protocol
        self._tries = config.tries
        self._faults: tuple[type[Exception], ...] = (OSError, *transport_errors(protocol))

    def read(self, path: str) -> bytes:
        options = read_options(self._protocol)
        content: bytes = self._retry("read", lambda: self._filesystem.cat_file(self._full(path), **options))
        return content

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        paths = [self._full(path)] * len(ranges)
        starts, stops = [start for start, _ in ranges], [stop for _, stop in ranges]
        return self._retry(
            "read", lambda: self._filesystem.cat_ranges(paths, starts, stops, on_error="raise")
        )

    def read_tail(self, path: str, size: int) -> bytes:
        tail: bytes = self._retry("read", lambda: self._filesystem.cat_file(self._full(path), start=-size))
        return tail

    def write(self, path: str, content: bytes) -> None:
        def write() -> None:
            try:
                self._filesystem.pipe_file(self._full(path), content)
            except FileNotFoundError:
                # Where the last response of a multipart upload was lost, S3 does not know the upload at the retry;
                # where the bucket is missing, this fails again.
                self._filesystem.pipe_file(self._full(path), content)

        self._retry("write to", write)

    def create(self, path: str, content: bytes) -> bool:
        full = self._full(path)
        if self.single_writer:
            if self._retry("write to", lambda: self._filesystem.exists(full)):
                return False
            self.write(path, content)
            return True
        for attempt in range(CONFLICT_TRIES):
            created = self._retry("write to", lambda: self._create_unless_contended(full, content))
            if created is not None:
                return created
            time.sleep(random.uniform(0.5, 1) * 0.05 * 2**attempt)
        raise StoreError(
            f"{self.url} responds with a conflict to every attempt to create {path}; start the same command again"
        )

    def find(self, folder: str) -> list[str]:
        return [path for path, _ in self._listed(folder)]

    def entries(self, folder: str) -> list[FileEntry]:
        return [
            FileEntry(path, bytes=int(info["size"] or 0), modified=_modified(info))
            for path, info in self._listed(folder)
        ]

    def names(self, folder: str) -> list[str]:
        try:
            paths = self._retry("list", lambda: self._filesystem.ls(self._full(folder), detail=False))
        except FileNotFoundError:
            return []
        return sorted(path.rstrip("/").rpartition("/")[2] for path in paths)

    def delete(self, path: str) -> None:
        if self._protocol in S3:
            paths = self.find(path)
            for start in range(0, len(paths), KEYS_A_DELETE):
                self._delete_from_s3(paths[start : start + KEYS_A_DELETE])
            return
        with suppress(FileNotFoundError):
            self._retry("delete from", lambda: self._filesystem.rm(self._full(path), recursive=True))

    def links(self, folder: str) -> list[str]:
        return []

    def irregular(self, folder: str) -> list[str]:
        return []

    def clock(self) -> datetime:
        path = f"{PROBE_FILES}/{secrets.token_hex(8)}"
        self.write(path, b"")
        try:
            return _modified(self._retry("read", lambda: self._filesystem.info(self._full(path))))
        finally:
            self.delete(path)

    def now(self) -> datetime:
        if self._protocol in S3:
            prefix = self.root.partition("/")[2] + "/"
            response = self._call_s3("list", "list_objects_v2", Prefix=prefix, MaxKeys=1)
            date = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
            if date:
                with suppress(ValueError):
                    return parsedate_to_datetime(date).astimezone(UTC)
        return datetime.now(UTC)

    def abort_uploads(self, before: datetime) -> int:
        probes = [
            entry for entry in self.entries(PROBE_FILES) if entry.modified < before and is_spare(entry.path)
        ]
        for probe in probes:
            self.delete(probe.path)
        # Google and Azure abort unfinished uploads themselves after a week.
        uploads = self._uploads() if self._protocol in S3 else []
        stale = [upload for upload in uploads if upload["Initiated"] < before]
        for upload in stale:
            with suppress(FileNotFoundError):
                self._call_s3(
                    "delete from", "abort_multipart_upload", Key=upload["Key"], UploadId=upload["UploadId"]
                )
        return len(probes) + len(stale)

    def _full(self, path: str) -> str:
        return f"{self.root}/{path}"

    def _listed(self, folder: str) -> list[tuple[str, dict[str, Any]]]:
        """Return every file below a folder, relative to the root, with its entry in the listing."""
        try:
            files = self._retry("list", lambda: self._filesystem.find(self._full(folder), detail=True))
        except FileNotFoundError:
            return []
        below = len(self.root) + 1
        return [
            (path[below:], info) for path, info in sorted(files.items()) if info.get("type") != "directory"
        ]

    def _create_unless_contended(self, full: str, content: bytes) -> bool | None:
        """Return whether the file was created; None where another create of it is in progress."""
        try:
            self._filesystem.pipe_file(full, content, **create_options(self._protocol))
        except self._faults as error:
            status = http_status(error)
            if isinstance(error, FileExistsError) or status == 412:
                return False
            if status == 501:
                raise conditional_create_unsupported(self.url, "it refuses If-None-Match") from None
            if status == 409:
                return None
            raise
        return True

    def _uploads(self) -> list[dict[str, Any]]:
        """Unfinished multipart uploads below the root."""
        prefix = self.root.partition("/")[2] + "/"
        uploads: list[dict[str, Any]] = []
        marker: dict[str, str] = {}
        while True:
            page = self._call_s3("list", "list_multipart_uploads", Prefix=prefix, **marker)
            uploads += [upload for upload in page.get("Uploads", ()) if upload["Key"].startswith(prefix)]
            if not page.get("IsTruncated"):
                return uploads
            marker = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def _delete_from_s3(self, paths: Sequence[str]) -> None:
        """Delete files; s3fs would not report the files that S3 has kept."""
        keys = [self._full(path).partition("/")[2] for path in paths]
        if len(keys) == 1:
            self._call_s3("delete from", "delete_object", Key=keys[0])
            return
        for attempt in range(self._tries):
            objects = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
            refused = self._call_s3("delete from", "delete_objects", Delete=objects).get("Errors", [])
            if not refused:
                return
            keys = [error["Key"] for error in refused]
            first = f"{refused[0].get('Code')}: {refused[0].get('Message')}"
            if all(error.get("Code") == "AccessDenied" for error in refused):
                raise StoreAccessDenied(
                    f"these credentials may not delete {len(keys)} files from {self.url}, {keys[0]} among them; "
                    "use a role that may (cluster/iam-operator.json)"
                )
            wait_before_retry(attempt)
        raise StoreError(
            f"cannot delete {len(keys)} files from {self.url}, {keys[0]} among them: "
            f"{first_sentence(RuntimeError(first))}; check store.profile, and what its credentials may do"
        )

    def _call_s3(self, act: str, method: str, **arguments: Any) -> dict[str, Any]:
        bucket = self.root.partition("/")[0]
        return self._retry(act, lambda: self._filesystem.call_s3(method, Bucket=bucket, **arguments))

    def _retry(self, act: str, request: Callable[[], _Result]) -> _Result:
        """Return the result of a request; repeats what the libraries below do not."""
        with translate_errors(self.url, act, protocol=self._protocol):
            return repeat_interrupted(
                request, protocol=self._protocol, tries=self._tries, faults=self._faults
            )


def _modified(info: dict[str, Any]) -> datetime:
    stated: datetime = next(info[key] for key in _AGE_KEYS if info.get(key))
    return stated.astimezone(UTC) if stated.tzinfo else stated.replace(tzinfo=UTC)
