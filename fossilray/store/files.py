"""The files of a run directory on a disk or in an object store, with the one act commits need: create if absent.

Paths are relative to the directory and use `/`. Every fault of the store comes out as a StoreError that says
what to do; an absent file stays a FileNotFoundError, for callers to whom absence means something.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import fsspec

from fossilray.config import StoreConfig
from fossilray.errors import NoConditionalCreate, StoreError

CONFLICT_TRIES = 8
"""S3 answers 409 while another conditional PUT of the same key is under way, which settles within a second."""

READ_THREADS = 16


class Files(Protocol):
    """A run directory's files."""

    filesystem: fsspec.AbstractFileSystem
    """For readers that speak fsspec (DuckDB, pyarrow, Zarr)."""
    root: str
    """The directory as `filesystem` names it."""
    url: str
    """The directory with its protocol; a plain absolute path on a disk."""
    options: dict[str, Any]
    """What fsspec was told, for readers that open a filesystem of their own; holds no secret."""

    def read(self, path: str) -> bytes:
        """All bytes of a file."""
        ...

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Several (start, stop) ranges of a file's bytes, read side by side where that helps."""
        ...

    def read_tail(self, path: str, size: int) -> bytes:
        """The last `size` bytes of a file, or all if it is shorter."""
        ...

    def write(self, path: str, content: bytes) -> None:
        """Write or replace a file; a reader sees the old content or the new, never a part."""
        ...

    def create(self, path: str, content: bytes) -> bool:
        """Create a file whole unless it exists; False if it did. Of many who try at once one gets True.

        Raises:
            NoConditionalCreate: the store cannot do that.
        """
        ...

    def find(self, folder: str) -> list[str]:
        """Every file below a folder, sorted; empty if there is no such folder."""
        ...

    def names(self, folder: str) -> list[str]:
        """What lies directly in a folder, files and folders, sorted; empty if there is no such folder."""
        ...

    def delete(self, path: str) -> None:
        """Delete a file or a folder with all below it; nothing happens if it is not there."""
        ...


def open_files(url: str, config: StoreConfig) -> Files:
    """The files below a local path or a URL that fsspec knows; touches nothing yet.

    Raises:
        StoreError: the protocol is unknown, or its package is not installed, or the URL holds credentials.
    """
    protocol, separator, rest = url.partition("://")
    if not separator or protocol in ("file", "local"):
        return LocalFiles(Path(rest if separator else url), single_writer=config.single_writer)
    if "@" in rest.partition("/")[0]:
        raise StoreError(
            f"a {protocol}:// address must not hold credentials; put them into the shared AWS credentials "
            "file and name its profile in store.profile"
        )
    try:
        return RemoteFiles(protocol, rest, config)
    except (ValueError, ImportError) as error:
        raise StoreError(f"cannot reach {url}: {error}; use a local path or s3://bucket/folder") from None


def read_many(files: Files, paths: Sequence[str]) -> list[bytes]:
    """The contents of many files, read side by side."""
    if not paths:
        return []
    with ThreadPoolExecutor(min(READ_THREADS, len(paths))) as readers:
        return list(readers.map(files.read, paths))


class LocalFiles:
    """Files on a disk, written below `.tmp` and moved into place."""

    def __init__(self, root: Path, *, single_writer: bool) -> None:
        self._root = root.expanduser().absolute()
        self._single_writer = single_writer
        self.filesystem = fsspec.filesystem("file")
        self.root = self.url = str(self._root)
        self.options: dict[str, Any] = {}

    def read(self, path: str) -> bytes:
        with _told(self.url, "read"):
            return (self._root / path).read_bytes()

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        found = []
        with _told(self.url, "read"), (self._root / path).open("rb") as file:
            for start, stop in ranges:
                file.seek(start)
                found.append(file.read(stop - start))
        return found

    def read_tail(self, path: str, size: int) -> bytes:
        with _told(self.url, "read"), (self._root / path).open("rb") as file:
            file.seek(-min(size, file.seek(0, os.SEEK_END)), os.SEEK_END)
            return file.read()

    def write(self, path: str, content: bytes) -> None:
        with _told(self.url, "write to"), self._spare_file(content) as spare:
            spare.replace(self._ready(path))

    def create(self, path: str, content: bytes) -> bool:
        with _told(self.url, "write to"), self._spare_file(content) as spare:
            target = self._ready(path)
            if self._single_writer:
                if target.exists():
                    return False
                spare.replace(target)
                return True
            try:
                # A hard link appears with the whole content, or not at all where the name is taken.
                os.link(spare, target)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
                    raise _cannot_create(self.url, "it knows no hard links") from None
                raise
            return True

    def find(self, folder: str) -> list[str]:
        with _told(self.url, "list"):
            # Plain strings: a run of 150,000 slides is listed at every start, and paths cost thrice as much.
            return sorted(
                f"{above}/{name}"[len(self.root) + 1 :]
                for above, _, names in os.walk(f"{self.root}/{folder}".rstrip("/"))
                for name in names
            )

    def names(self, folder: str) -> list[str]:
        with _told(self.url, "list"):
            try:
                return sorted(os.listdir(f"{self.root}/{folder}"))  # noqa: PTH208 (paths cost more)
            except FileNotFoundError:
                return []

    def delete(self, path: str) -> None:
        with _told(self.url, "delete from"), suppress(FileNotFoundError):
            target = self._root / path
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink()

    def _ready(self, path: str) -> Path:
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    @contextmanager
    def _spare_file(self, content: bytes) -> Iterator[Path]:
        spare = self._ready(f".tmp/{secrets.token_hex(8)}")
        try:
            with spare.open("wb") as file:
                file.write(content)
                file.flush()
                # Else a power cut could leave a name without its content, and a commit is a name.
                os.fsync(file.fileno())
            yield spare
        finally:
            spare.unlink(missing_ok=True)


class RemoteFiles:
    """Files in an object store, through fsspec."""

    def __init__(self, protocol: str, path: str, config: StoreConfig) -> None:
        self._single_writer = config.single_writer
        self.options = _storage_options(protocol, config)
        self._faults = _faults(protocol)
        self.filesystem = fsspec.filesystem(protocol, **self.options)
        self.root = self.filesystem._strip_protocol(f"{protocol}://{path}").rstrip("/")
        self.url = f"{protocol}://{self.root.lstrip('/')}"

    def read(self, path: str) -> bytes:
        with self._told("read"):
            content: bytes = self.filesystem.cat_file(self._full(path))
            return content

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        starts, stops = [start for start, _ in ranges], [stop for _, stop in ranges]
        with self._told("read"):
            found: list[bytes] = self.filesystem.cat_ranges(
                [self._full(path)] * len(ranges), starts, stops, on_error="raise"
            )
            return found

    def read_tail(self, path: str, size: int) -> bytes:
        with self._told("read"):
            content: bytes = self.filesystem.cat_file(self._full(path), start=-size)
            return content

    def write(self, path: str, content: bytes) -> None:
        with self._told("write to"):
            self.filesystem.pipe_file(self._full(path), content)

    def create(self, path: str, content: bytes) -> bool:
        full = self._full(path)
        with self._told("write to"):
            if self._single_writer:
                if self.filesystem.exists(full):
                    return False
                self.filesystem.pipe_file(full, content)
                return True
            for attempt in range(CONFLICT_TRIES):
                try:
                    # S3: PUT with If-None-Match: *
                    self.filesystem.pipe_file(full, content, mode="create")
                    return True
                except OSError as error:
                    status = _http_status(error)
                    if isinstance(error, FileExistsError) or status == 412:
                        return False
                    if status == 501:
                        raise _cannot_create(self.url, "it refuses If-None-Match") from None
                    if status != 409:
                        raise
                time.sleep(0.05 * 2**attempt)
        raise StoreError(
            f"{self.url} answers conflict to every try to create {path}; start the same command again"
        )

    def find(self, folder: str) -> list[str]:
        with self._told("list"):
            try:
                found = self.filesystem.find(self._full(folder))
            except FileNotFoundError:
                return []
        return sorted(path[len(self.root) + 1 :] for path in found)

    def names(self, folder: str) -> list[str]:
        with self._told("list"):
            try:
                found = self.filesystem.ls(self._full(folder), detail=False)
            except FileNotFoundError:
                return []
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    def delete(self, path: str) -> None:
        with self._told("delete from"), suppress(FileNotFoundError):
            self.filesystem.rm(self._full(path), recursive=True)

    def _full(self, path: str) -> str:
        return f"{self.root}/{path}"

    @contextmanager
    def _told(self, act: str) -> Iterator[None]:
        try:
            with _told(self.url, act):
                yield
        except self._faults as error:
            raise StoreError(
                f"cannot {act} {self.url}: {_first_line(error)}; check store.endpoint_url, store.profile and "
                "the network"
            ) from None


@contextmanager
def _told(url: str, act: str) -> Iterator[None]:
    """Turn the operating system's errors into one sentence, absent files apart."""
    try:
        yield
    except FileNotFoundError as error:
        if act.startswith("write"):
            raise StoreError(f"cannot write to {url}: {_first_line(error)}; create it first") from None
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            remedy = "free some space and start the same command again; committed slides are kept"
        elif isinstance(error, PermissionError):
            remedy = "change its permissions, or choose another run directory"
        else:
            remedy = "check the address, or choose another run directory"
        raise StoreError(f"cannot {act} {url}: {_first_line(error)}; {remedy}") from None


def _first_line(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).strip().splitlines()[0].rstrip(".")


def _cannot_create(url: str, why: str) -> NoConditionalCreate:
    return NoConditionalCreate(
        f"{url} cannot create a file only if it is absent ({why}), so two workers could both commit a slide; "
        "use another store, or promise with --single-writer that one driver alone commits"
    )


def _http_status(error: BaseException) -> int | None:
    # s3fs raises an OSError whose cause is botocore's ClientError, which carries the answer.
    response = getattr(error.__cause__, "response", None) or {}
    status: int | None = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status


def _storage_options(protocol: str, config: StoreConfig) -> dict[str, Any]:
    if protocol not in ("s3", "s3a"):
        return {}
    # A cached listing would hide what other machines have committed since.
    options: dict[str, Any] = {"use_listings_cache": False}
    if config.endpoint_url:
        options["endpoint_url"] = config.endpoint_url
    if config.region:
        options["client_kwargs"] = {"region_name": config.region}
    if config.profile:
        options["profile"] = config.profile
    if config.anonymous:
        options["anon"] = True
    return options


def _faults(protocol: str) -> tuple[type[Exception], ...]:
    if protocol not in ("s3", "s3a"):
        return ()
    from botocore.exceptions import BotoCoreError

    return (BotoCoreError,)
