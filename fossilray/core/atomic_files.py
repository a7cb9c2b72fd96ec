"""Atomic output files and folders: written under a temporary name, then renamed. Every output is written here.

The temporary name is `.<name>.<16 hex digits>.fossilray-part`, in the same folder, and its writer holds a lock on it.
Parts of killed processes are deleted by the next process that writes the same output, if they have such a name, belong
to the same user, are not links, and are not locked. On a file system without locks they are kept.
"""

from __future__ import annotations

import errno
import io
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from fossilray.core.errors import FossilrayError, StoreError, UsageError
from fossilray.core.machine import lock, try_lock

if TYPE_CHECKING:
    from typing_extensions import Buffer

PART = ".fossilray-part"
_PART_NAME = re.compile(r"\..+\.[0-9a-f]{16}" + re.escape(PART))
_LONGEST_NAME_BYTES = 255
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DISK_FAULTS = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO)
# The file behind a redirected standard output is written into, not replaced.
_STREAMS = re.compile(r"/dev/(std|fd/)|/proc/")


@contextmanager
def atomic_file(
    path: Path, *, clean: bool = True, durable: bool = True, defer_errors: bool = False
) -> Iterator[IO[bytes]]:
    """Open a file for writing, seeking and reading that appears at `path` when the block ends without an exception.

    Parent folders are created. An existing file is replaced and keeps its permissions; a link is kept, and its target
    replaced. A device or a pipe is written into.

    Args:
        path: the final path.
        clean: delete parts of killed writers of this file.
        durable: flush the file to disk before it is renamed; costs time for each of many small files.
        defer_errors: raise write errors at the end of the block, for libraries that ignore them.

    Raises:
        UsageError: no file can be created at this path.
        StoreError: the disk is full or fails.
    """
    if _is_stream(path):
        with _translated(path):
            number = os.open(path, os.O_WRONLY)
        with _Output.opened(number, path, "wb") as stream:
            yield stream
        return
    target, part, number = _begin_file(path, clean=clean)
    try:
        with _Output.opened(number, path, "r+b", defer_errors=defer_errors) as sink:
            yield sink
            sink.flush()
            _raw_of(sink).raise_error()
            with _translated(path):
                if durable:
                    os.fsync(number)
                os.rename(part, target)  # noqa: PTH104
    except BaseException:
        with suppress(OSError):
            os.unlink(part)  # noqa: PTH108
        raise


@contextmanager
def atomic_text(path: Path, *, newline: str | None = None) -> Iterator[IO[str]]:
    """Open a text file in UTF-8 for writing, as `atomic_file` does."""
    with atomic_file(path) as sink:
        text = io.TextIOWrapper(sink, encoding="utf-8", newline=newline)
        try:
            yield text
        finally:
            text.detach()


def write_atomically(path: Path, content: bytes | str, *, clean: bool = True, durable: bool = True) -> None:
    """Write or replace a file, as `atomic_file` does; text is encoded as UTF-8."""
    with atomic_file(path, clean=clean, durable=durable) as sink:
        sink.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Create a folder, to be filled with `write_new`, that appears at `path` when the block ends without an exception.

    `path` must be absent or an empty folder.

    Raises:
        UsageError: no folder can be created at this path, or it is not empty.
        StoreError: the disk is full or fails.
    """
    with _translated(path):
        target = Path(os.path.realpath(path))
        os.makedirs(target.parent, exist_ok=True)  # noqa: PTH103
        delete_abandoned_parts(target.parent, output=target.name)
        if target.is_dir() and os.listdir(target):  # noqa: PTH208
            raise UsageError(f"{path} is not empty; name a new folder")
        part, lock = _begin_folder(target)
    try:
        yield part
        with _translated(path):
            os.rename(part, target)  # noqa: PTH104
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def make_folder(path: Path) -> None:
    """Create a folder for many files, unless it exists; delete parts of killed writers in it.

    Raises:
        UsageError: no folder can be created at this path.
        StoreError: the disk is full or fails.
    """
    with _translated(path):
        os.makedirs(path, exist_ok=True)  # noqa: PTH103
        delete_abandoned_parts(path)


def write_new(path: Path, content: bytes | str) -> None:
    """Write a file into a folder of `atomic_folder`, which no process reads yet.

    Raises:
        StoreError: the disk is full or fails.
    """
    with _translated(path):
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    with _Output.opened(number, path, "wb") as sink:
        sink.write(content.encode() if isinstance(content, str) else content)
        sink.flush()


def delete_abandoned_parts(folder: Path, *, output: str | None = None) -> None:
    """Delete parts of killed writers in a folder; `output` limits it to those of one output file."""
    begin = None if output is None else _begin_of(output)
    for name in os.listdir(folder):  # noqa: PTH208
        if name.endswith(PART) and _PART_NAME.fullmatch(name) and _is_of(name, begin):
            # The part belongs to another user, or another writer has just deleted it.
            with suppress(OSError):
                _delete_unheld(folder / name)


def cannot_write(path: Path, error: OSError) -> FossilrayError:
    """Translate an error of the operating system about an output file."""
    message = f"cannot write {path}: {error.strerror or error}; "
    if error.errno in _NO_ROOM:
        return StoreError(message + "free some space there and start the same command again")
    if error.errno in _DISK_FAULTS:
        return StoreError(message + "check that disk or share and start the same command again")
    return UsageError(message + "choose another path")


class _Output(io.RawIOBase):
    """A file by its descriptor, whose errors are translated into those of fossilray."""

    def __init__(self, number: int, path: Path, *, defer_errors: bool = False) -> None:
        self._number, self._path, self._defer_errors = number, path, defer_errors
        self._is_dropped = False
        self._error: FossilrayError | None = None

    @staticmethod
    @contextmanager
    def opened(number: int, path: Path, mode: str, *, defer_errors: bool = False) -> Iterator[IO[bytes]]:
        raw = _Output(number, path, defer_errors=defer_errors)
        buffered: IO[bytes] = io.BufferedRandom(raw) if mode == "r+b" else io.BufferedWriter(raw)
        try:
            yield buffered
        except BaseException:
            raw._is_dropped = True  # closing would try again to write the buffer
            raw.raise_error()
            raise
        finally:
            buffered.close()

    def write(self, piece: Buffer) -> int:
        if self._is_dropped:
            return memoryview(piece).nbytes
        try:
            return os.write(self._number, piece)
        except OSError as error:
            self._error = self._error or cannot_write(self._path, error)
            self._is_dropped = True
            if self._defer_errors:
                return memoryview(piece).nbytes
            raise self._error from None

    def raise_error(self) -> None:
        """Raise the first error of a write, whether or not the writer passed it on."""
        if self._error is not None:
            raise self._error from None

    def readinto(self, space: Buffer) -> int:
        with _translated(self._path):
            return os.readv(self._number, [space])

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return os.lseek(self._number, offset, whence)

    def truncate(self, size: int | None = None) -> int:
        size = self.tell() if size is None else size
        try:
            os.ftruncate(self._number, size)
        except OSError as error:
            self._error = self._error or cannot_write(self._path, error)
            if not self._defer_errors:
                raise self._error from None
        return size

    def fileno(self) -> int:
        return self._number

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return stat.S_ISREG(os.fstat(self._number).st_mode)

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._number)


def _raw_of(sink: IO[bytes]) -> _Output:
    raw = getattr(sink, "raw", None)
    assert isinstance(raw, _Output)
    return raw


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from None


def _is_stream(path: Path) -> bool:
    with suppress(OSError):
        kind = os.stat(path).st_mode  # noqa: PTH116
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
            return True
    return bool(_STREAMS.match(os.path.abspath(path)))  # noqa: PTH100


def _check(target: Path) -> int | None:
    """Return the permissions of the file to replace, or None if there is none; raise as opening it would."""
    try:
        status = os.stat(target)  # noqa: PTH116
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return stat.S_IMODE(status.st_mode)


def _begin_file(path: Path, *, clean: bool) -> tuple[Path, Path, int]:
    """Return the final path, the path of the part, and the descriptor that holds its lock."""
    with _translated(path):
        target = Path(os.path.realpath(path))
        kept = _check(target)
        os.makedirs(target.parent, exist_ok=True)  # noqa: PTH103 (the calls that tests intercept)
        if clean:
            delete_abandoned_parts(target.parent, output=target.name)
        part, number = begin_part(target)
    if kept is not None:
        with suppress(PermissionError):
            os.fchmod(number, kept)
    return target, part, number


def _begin_of(name: str) -> str:
    """The beginning of the names of parts of an output."""
    room = _LONGEST_NAME_BYTES - len(f"..{16 * '0'}{PART}")
    return f".{name.encode()[:room].decode(errors='ignore')}."


def _is_of(name: str, begin: str | None) -> bool:
    return begin is None or (name.startswith(begin) and len(name) == len(begin) + 16 + len(PART))


def _part_path(target: Path) -> Path:
    return target.with_name(f"{_begin_of(target.name)}{secrets.token_hex(8)}{PART}")


def begin_part(target: Path) -> tuple[Path, int]:
    """Create a part for an output in an existing folder; its path, and the descriptor that holds its lock."""
    while True:
        part = _part_path(target)
        number = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        if _is_locked(part, number):
            return part, number
        os.close(number)


def _begin_folder(target: Path) -> tuple[Path, int]:
    """Create a folder as a part; its path, and the descriptor that holds its lock."""
    while True:
        part = _part_path(target)
        os.mkdir(part)  # noqa: PTH102
        number = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if _is_locked(part, number):
            return part, number
        os.close(number)


def _is_locked(part: Path, number: int) -> bool:
    """Lock a new part; False if another process deleted it before it was locked."""
    with suppress(OSError):  # a file system without locks, where parts are never deleted
        lock(number)
    try:
        return os.path.samestat(os.stat(part), os.fstat(number))  # noqa: PTH116
    except FileNotFoundError:
        return False


def _delete_unheld(part: Path) -> None:
    """Delete a part whose writer has ended.

    Raises:
        OSError: it is locked, or a link.
    """
    is_folder = stat.S_ISDIR(os.lstat(part).st_mode)
    flags = os.O_RDONLY | os.O_DIRECTORY if is_folder else os.O_RDWR
    number = os.open(part, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(number)
        is_ours = status.st_uid == os.getuid() and (is_folder or stat.S_ISREG(status.st_mode))
        if not is_ours:
            return
        try_lock(number)
        if not os.path.samestat(os.lstat(part), status):
            return
        if is_folder:
            shutil.rmtree(part)
        else:
            os.unlink(part)  # noqa: PTH108
    finally:
        os.close(number)
