"""Files of a run directory on a disk: written below `.tmp`, then renamed or linked."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from fossilray.core.atomic_files import PART, begin_part, delete_abandoned_parts
from fossilray.core.errors import DamagedFile, StoreError
from fossilray.core.formats.regular_file import NotRegular, open_descriptor, open_regular, read_regular
from fossilray.core.records import FileEntry
from fossilray.store.files.base import CLAIMS, PROBE_FILES, TEMPORARY, is_spare
from fossilray.store.files.faults import conditional_create_unsupported, is_away, translate_errors
from fossilray.store.files.local_deletion import delete_below, links_below
from fossilray.store.files.process_note import has_ended

FOLDERS_OF_SLIDES = ("attempts", "arrays", "pending", "traces")
"""Folders of a run whose own folders are named after slides, so that a name may end in .json or .parquet."""

_FOLDER_TRIES = 50
T = TypeVar("T")


class LocalFiles:
    """`Files` on a disk; every method is described there."""

    def __init__(self, root: Path, *, single_writer: bool) -> None:
        self._root = root.expanduser().absolute()
        self.single_writer = single_writer
        self.filesystem = fsspec.filesystem("file")
        self.root = self.url = str(self._root)
        self.options: dict[str, Any] = {}
        self.mark: str | None = None
        """A file that every such directory has; without it the disk or the share is not mounted.

        Files written then would be below an empty mount point, and hidden when the share is mounted again.
        """

    def read(self, path: str) -> bytes:
        with self._translated("read", path):
            return read_regular(f"{self.root}/{path}")

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        with self._translated("read", path):
            # A pathlib.Path and a buffer would cost as much as the read itself.
            file = open_descriptor(f"{self.root}/{path}")
            try:
                _expect_no_order(file)
                return [_read_range(file, start, stop) for start, stop in ranges]
            finally:
                os.close(file)

    def read_tail(self, path: str, size: int) -> bytes:
        with self._translated("read", path), open_regular(f"{self.root}/{path}") as file:
            file.seek(-min(size, file.seek(0, os.SEEK_END)), os.SEEK_END)
            return file.read()

    def write(self, path: str, content: bytes) -> None:
        with self._translated("write to"), self._spare_file(content) as spare:
            self._in_folder_of(path, spare.replace)

    def create(self, path: str, content: bytes) -> bool:
        with self._translated("write to"), self._spare_file(content) as spare:
            return self._in_folder_of(path, lambda target: self._create(spare, target))

    def find(self, folder: str) -> list[str]:
        with self._translated("list"):
            self._check_mark()
            # Plain strings: a run of 150,000 slides is listed at every start, and Path objects take thrice the time.
            return sorted(
                f"{above}/{name}"[len(self.root) + 1 :]
                for above, below, names in os.walk(self._folder(folder), onerror=_raise_unless_absent)
                for name in (*names, *_in_place_of_files(above, below))
            )

    def entries(self, folder: str) -> list[FileEntry]:
        with self._translated("list"):
            entries = []
            for path in self.find(folder):
                # Other processes delete files while this one lists them.
                with suppress(FileNotFoundError):
                    stat = os.stat(f"{self.root}/{path}")  # noqa: PTH116 (paths cost more)
                    modified = datetime.fromtimestamp(stat.st_mtime, UTC)
                    entries.append(FileEntry(path, bytes=stat.st_size, modified=modified))
            return entries

    def names(self, folder: str) -> list[str]:
        with self._translated("list"):
            self._check_mark()
            try:
                return sorted(os.listdir(self._folder(folder)))  # noqa: PTH208 (paths cost more)
            except FileNotFoundError:
                return []

    def delete(self, path: str) -> None:
        with self._translated("delete from"), suppress(FileNotFoundError):
            self._check_mark()
            delete_below(self._root, path)

    def links(self, folder: str) -> list[str]:
        with self._translated("list"):
            return links_below(self._root, folder)

    def irregular(self, folder: str) -> list[str]:
        with self._translated("list"):
            irregular = _irregular_below(self._folder(folder))
            return sorted(path[len(self.root) + 1 :] for path in irregular)

    def clock(self) -> datetime:
        with self._translated("write to"):
            # Named as half-written files are, so that `tidy` deletes it where this process is killed.
            probe, number = self._begin_spare(PROBE_FILES)
            try:
                # A network disk stamps files by its own clock.
                return datetime.fromtimestamp(os.fstat(number).st_mtime, UTC)
            finally:
                os.close(number)
                probe.unlink(missing_ok=True)

    def now(self) -> datetime:
        return datetime.now(UTC)

    def abort_uploads(self, before: datetime) -> int:
        left = [
            entry
            for folder in (TEMPORARY, PROBE_FILES)
            if not self.links(folder)
            for entry in self.entries(folder)
            if entry.modified < before and is_spare(entry.path)
        ]
        for entry in left:
            self.delete(entry.path)
        return len(left)

    def tidy(self) -> None:
        """Delete half-written files and probes whose processes have ended, and fossilray's folders that are empty."""
        self._delete_abandoned_probes()
        for name in (TEMPORARY, PROBE_FILES, CLAIMS):
            self.tidy_folder(name)

    def tidy_folder(self, folder: str) -> None:
        """Delete half-written files in one folder whose writers are dead, and the folder if it is empty then."""
        if not self.links(folder):
            with suppress(OSError):
                delete_abandoned_parts(self._root / folder)
            with suppress(OSError):
                (self._root / folder).rmdir()

    def _delete_abandoned_probes(self) -> None:
        """Delete what `check_conditional_create` left where it was killed, or could not delete its probe."""
        with suppress(OSError, StoreError):
            for path in [] if self.links(PROBE_FILES) else self.find(PROBE_FILES):
                if is_spare(path) and not path.endswith(PART) and has_ended(self.read(path)):
                    self.delete(path)

    def _create(self, spare: Path, target: Path) -> bool:
        if self.single_writer:
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
                raise conditional_create_unsupported(self.url, "it knows no hard links") from None
            raise
        return True

    @contextmanager
    def _translated(self, act: str, path: str = "") -> Iterator[None]:
        """Translate errors; a missing file in a directory that is not mounted is a StoreUnreachable."""
        # An unreadable file, or a folder instead of it, concerns that file only: readers of many files pass over it.
        with translate_errors(
            f"{self.url}/{path}" if path else self.url, act, refusal=DamagedFile if path else StoreError
        ):
            try:
                yield
            except FileNotFoundError:
                self._check_mark()
                raise
            except NotRegular as error:
                raise DamagedFile(
                    f"{self.url}/{path} cannot be used: {error.strerror}; move it out of {self.url}, and start "
                    "the same command again or bring the file back from a copy"
                ) from None

    def _check_mark(self) -> None:
        if self.mark is None:
            return
        try:
            os.stat(f"{self.root}/{self.mark}")  # noqa: PTH116  Path.exists takes some errors for absence
        except (FileNotFoundError, NotADirectoryError):
            raise is_away(self.url, self.mark) from None

    def _folder(self, folder: str) -> str:
        return f"{self.root}/{folder}".rstrip("/")

    def _in_folder_of(self, path: str, act: Callable[[Path], T]) -> T:
        """`act` on a path whose folder is there; made again where another process tidied the empty folder away."""
        target = self._root / path
        for attempt in range(_FOLDER_TRIES):
            self._check_mark()
            try:
                # Fails with FileExistsError where the folder goes between two of its own steps.
                target.parent.mkdir(parents=True, exist_ok=True)
                return act(target)
            except (FileNotFoundError, FileExistsError):
                if attempt == _FOLDER_TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    @contextmanager
    def _spare_file(self, content: bytes) -> Iterator[Path]:
        spare, number = self._begin_spare(TEMPORARY)
        try:
            # The lock is held as long as the name exists, so that other processes see that the writer runs.
            with os.fdopen(number, "wb") as file:
                file.write(content)
                file.flush()
                # Else a power cut could leave a name without its content, and a commit is a name.
                os.fsync(number)
                yield spare
        finally:
            spare.unlink(missing_ok=True)

    def _begin_spare(self, folder: str) -> tuple[Path, int]:
        """A new file in one of our folders, and its number, which holds its lock."""
        return self._in_folder_of(f"{folder}/spare", begin_part)


def _raise_unless_absent(error: OSError) -> None:
    """Raise what os.walk would pass over in silence; only folders that were deleted meanwhile may be missing."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _in_place_of_files(above: str, folders: list[str]) -> list[str]:
    """Folders in place of files, which readers report instead of passing over them."""
    if above.rpartition("/")[2] in FOLDERS_OF_SLIDES:
        return []
    return [name for name in folders if name.endswith((".parquet", ".json"))]


def _irregular_below(folder: str) -> Iterator[str]:
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            if entry.is_file():
                continue
            if entry.is_dir(follow_symlinks=False) and not _in_place_of_files(folder, [entry.name]):
                yield from _irregular_below(entry.path)
            else:
                yield entry.path


def _expect_no_order(file: int) -> None:
    """Disable read-ahead by the system: the next reads are elsewhere."""
    if hasattr(os, "posix_fadvise"):  # not on macOS
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)


def _read_range(file: int, start: int, stop: int) -> bytes:
    """Bytes start to stop, fewer where the file ends before."""
    content = os.pread(file, stop - start, start)
    while len(content) < stop - start and (
        more := os.pread(file, stop - start - len(content), start + len(content))
    ):
        content += more
    return content
