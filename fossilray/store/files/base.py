"""The files of a run directory on a disk or in an object store, with the one act commits need: create if absent.

Paths are relative to the directory and use `/`. Every fault of the store is raised as a StoreError whose message
has a remedy; a missing file is a FileNotFoundError, because to some callers it is no fault.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Protocol

import fsspec

from fossilray.core.atomic_files import PART
from fossilray.core.errors import DamagedFile
from fossilray.core.records import FileEntry

__all__ = ["READ_THREADS", "FileEntry", "Files", "is_remote", "local_path", "read_many", "read_present"]

READ_THREADS = 16
_LOCAL_PROTOCOLS = ("file", "local")


class Files(Protocol):
    """A run directory's files."""

    filesystem: fsspec.AbstractFileSystem
    """For readers that speak fsspec (DuckDB, pyarrow, Zarr)."""
    root: str
    """The directory as `filesystem` names it."""
    url: str
    """The directory with its protocol; a plain absolute path on a disk."""
    options: dict[str, Any]
    """Options of fsspec, for readers that open a filesystem of their own; they hold no secret."""
    single_writer: bool
    """`create` checks first and writes then, which is safe for a single process only."""

    def read(self, path: str) -> bytes:
        """Return all bytes of a file."""
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
        """Create a file whole unless it exists; False if it did. Of many processes that try at once one gets True.

        False may also mean that the store created the file and its response was lost; a caller that depends on it
        compares the content of the file with its own.

        Raises:
            ConditionalCreateUnsupported: the store cannot do that.
        """
        ...

    def find(self, folder: str) -> list[str]:
        """Return every file below a folder, sorted; empty if the folder does not exist."""
        ...

    def entries(self, folder: str) -> list[FileEntry]:
        """Return every file below a folder with size and age, by path, from one listing."""
        ...

    def names(self, folder: str) -> list[str]:
        """Names of files and folders directly in a folder, sorted; empty if the folder does not exist."""
        ...

    def delete(self, path: str) -> None:
        """Delete a file or a folder with all below it; nothing happens if it is not there.

        Raises:
            LinkInTheWay: on a disk, the path is a link or leads through one; nothing was deleted.
        """
        ...

    def links(self, folder: str) -> list[str]:
        """The symbolic links in a folder and on the way to it, sorted; only a disk has some."""
        ...

    def irregular(self, folder: str) -> list[str]:
        """Folders, pipes and devices in place of files below a folder; only a disk has some.

        `find` lists them too. Readers that list a folder themselves, as DuckDB does, pass over them.
        """
        ...

    def clock(self) -> datetime:
        """The store's own time, UTC, from a small file that is written and deleted."""
        ...

    def now(self) -> datetime:
        """The store's own time, UTC, without a write: S3 sends it with every response; else this machine's."""
        ...

    def abort_uploads(self, before: datetime) -> int:
        """Abort writes that were started before that time and not completed, and return their number.

        On a disk these are files below `.tmp`, in S3 multipart uploads; in every store also files left by probes.
        """
        ...


def is_remote(path: str) -> bool:
    """Return whether a path is a URL in an object store, such as `s3://bucket/folder`.

    Plain paths and `file://` and `local://` URLs are on this machine.
    """
    protocol, separator, _ = path.partition("://")
    return bool(separator) and protocol not in _LOCAL_PROTOCOLS


def local_path(path: str) -> str:
    """Return a path on this machine without its `file://` or `local://`; other paths and URLs unchanged."""
    protocol, separator, rest = path.partition("://")
    return rest if separator and protocol in _LOCAL_PROTOCOLS else path


def read_many(files: Files, paths: Sequence[str]) -> list[bytes]:
    """The contents of many files, read side by side."""
    if not paths:
        return []
    with ThreadPoolExecutor(min(READ_THREADS, len(paths))) as readers:
        return list(readers.map(files.read, paths))


def read_present(
    files: Files, paths: Sequence[str], unread: Callable[[DamagedFile], object] | None = None
) -> dict[str, bytes]:
    """The contents of those files that still exist, by path: other processes may delete files meanwhile.

    unread: takes the errors of files that may not be read.

    Raises:
        DamagedFile: a file may not be read, and there is no `unread`.
    """

    def read(path: str) -> bytes | None:
        try:
            return files.read(path)
        except FileNotFoundError:
            return None
        except DamagedFile as error:
            if unread is None:
                raise
            unread(error)
            return None

    if not paths:
        return {}
    with ThreadPoolExecutor(min(READ_THREADS, len(paths))) as readers:
        contents = zip(paths, readers.map(read, paths), strict=True)
        return {path: content for path, content in contents if content is not None}


TEMPORARY = ".tmp"


PROBE_FILES = ".probe"


CLAIMS = ".claims"


def is_spare(path: str) -> bool:
    """Return whether a path is that of a half-written file or a probe; only fossilray gives such names."""
    return bool(_SPARE.fullmatch(path))


_SPARE = re.compile(
    rf"(?:{re.escape(TEMPORARY)}|{re.escape(PROBE_FILES)})/(?:[0-9a-f]{{16}}|\.spare\.[0-9a-f]{{16}}{re.escape(PART)})"
)
