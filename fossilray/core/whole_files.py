"""Files and folders that appear whole or not at all: written aside, then renamed. Every output is written here.

The name aside is `.<name>.<16 hex digits>.fossilray-part`, beside the final one, and its writer holds a lock on it.
What a killed process left is deleted by the next one that writes the same output: it bears such a name, belongs to
the same user, is no link, and its lock is free. Where the file system has no locks it is left alone.
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
from fossilray.core.machine import lock, lock_at_once

if TYPE_CHECKING:
    from typing_extensions import Buffer

PART = ".fossilray-part"
_ASIDE = re.compile(r"\..+\.[0-9a-f]{16}" + re.escape(PART))
_LONGEST_NAME_BYTES = 255
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DISK_FAULTS = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO)
# What a redirected standard output leads to must be written into, not replaced.
_STREAMS = re.compile(r"/dev/(std|fd/)|/proc/")


@contextmanager
def whole_file(
    path: Path, *, sweep: bool = True, lasting: bool = True, later: bool = False
) -> Iterator[IO[bytes]]:
    """A file to write, seek and read in, which is seen at `path` once the block ends, or not at all.

    Folders above are made. A file that is there is replaced and keeps its permissions; of a link, the file it leads
    to. A device or a pipe is written into. sweep: look for what killed writers of this file left. lasting: it
    survives a power cut; not worth its time for each of many small files. later: a fault is told at the end of the
    block and not to the library that writes, for one that drops it.

    Raises:
        UsageError: there can be no such file.
        StoreError: the disk is full or fails.
    """
    if _is_stream(path):
        with _told(path):
            number = os.open(path, os.O_WRONLY)
        with _Sink.opened(number, path, "wb") as stream:
            yield stream
        return
    target, aside, number = _begin_file(path, sweep=sweep)
    try:
        with _Sink.opened(number, path, "r+b", later=later) as sink:
            yield sink
            sink.flush()
            _raw_of(sink).tell_fault()
            with _told(path):
                if lasting:
                    os.fsync(number)
                os.rename(aside, target)  # noqa: PTH104
    except BaseException:
        with suppress(OSError):
            os.unlink(aside)  # noqa: PTH108
        raise


@contextmanager
def whole_text(path: Path, *, newline: str | None = None) -> Iterator[IO[str]]:
    """`whole_file` for text in UTF-8."""
    with whole_file(path) as sink:
        text = io.TextIOWrapper(sink, encoding="utf-8", newline=newline)
        try:
            yield text
        finally:
            text.detach()


def write_whole(path: Path, content: bytes | str, *, sweep: bool = True, lasting: bool = True) -> None:
    """Write or replace a file as `whole_file` does; text in UTF-8."""
    with whole_file(path, sweep=sweep, lasting=lasting) as sink:
        sink.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which is seen at `path` once the block ends, or not at all; fill it with `write_new`.

    `path` is absent or an empty folder.

    Raises:
        UsageError: there can be no such folder, or it holds something.
        StoreError: the disk is full or fails.
    """
    with _told(path):
        target = Path(os.path.realpath(path))
        os.makedirs(target.parent, exist_ok=True)  # noqa: PTH103
        sweep_parts(target.parent, of=target.name)
        if target.is_dir() and os.listdir(target):  # noqa: PTH208
            raise UsageError(f"{path} is not empty; name a new folder")
        aside, lock = _begin_folder(target)
    try:
        yield aside
        with _told(path):
            os.rename(aside, target)  # noqa: PTH104
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def make_folder(path: Path) -> None:
    """A folder for many files, with what killed writers left in it deleted; it may be there already.

    Raises:
        UsageError: there can be no such folder.
        StoreError: the disk is full or fails.
    """
    with _told(path):
        os.makedirs(path, exist_ok=True)  # noqa: PTH103
        sweep_parts(path)


def write_new(path: Path, content: bytes | str) -> None:
    """Write a file of a folder that `whole_folder` gave, which nobody reads yet.

    Raises:
        StoreError: the disk is full or fails.
    """
    with _told(path):
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    with _Sink.opened(number, path, "wb") as sink:
        sink.write(content.encode() if isinstance(content, str) else content)
        sink.flush()


def sweep_parts(folder: Path, *, of: str | None = None) -> None:
    """Delete what killed writers left in a folder. of: name of the one output to look for; None: any."""
    begin = None if of is None else _begin_of(of)
    for name in os.listdir(folder):  # noqa: PTH208
        if name.endswith(PART) and _ASIDE.fullmatch(name) and _is_of(name, begin):
            # Of somebody else, or deleted just now by another writer.
            with suppress(OSError):
                _delete_unheld(folder / name)


def cannot_write(path: Path, error: OSError) -> FossilrayError:
    """What is wrong with the place of an output, in one sentence with its remedy."""
    told = f"cannot write {path}: {error.strerror or error}; "
    if error.errno in _NO_ROOM:
        return StoreError(told + "free some space there and start the same command again")
    if error.errno in _DISK_FAULTS:
        return StoreError(told + "check that disk or share and start the same command again")
    return UsageError(told + "choose another place")


class _Sink(io.RawIOBase):
    """A file by its number, whose faults are told as ours."""

    def __init__(self, number: int, path: Path, *, later: bool = False) -> None:
        self._number, self._path, self._later = number, path, later
        self._is_dropped = False
        self._fault: FossilrayError | None = None

    @staticmethod
    @contextmanager
    def opened(number: int, path: Path, mode: str, *, later: bool = False) -> Iterator[IO[bytes]]:
        raw = _Sink(number, path, later=later)
        buffered: IO[bytes] = io.BufferedRandom(raw) if mode == "r+b" else io.BufferedWriter(raw)
        try:
            yield buffered
        except BaseException:
            raw._is_dropped = True  # closing would try again to write what waits
            raw.tell_fault()
            raise
        finally:
            buffered.close()

    def write(self, piece: Buffer) -> int:
        if self._is_dropped:
            return memoryview(piece).nbytes
        try:
            return os.write(self._number, piece)
        except OSError as error:
            self._fault = self._fault or cannot_write(self._path, error)
            self._is_dropped = True
            if self._later:
                return memoryview(piece).nbytes
            raise self._fault from None

    def tell_fault(self) -> None:
        """Raise the fault that a write met, whether or not the writer passed it on."""
        if self._fault is not None:
            raise self._fault from None

    def readinto(self, space: Buffer) -> int:
        with _told(self._path):
            return os.readv(self._number, [space])

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return os.lseek(self._number, offset, whence)

    def truncate(self, size: int | None = None) -> int:
        size = self.tell() if size is None else size
        try:
            os.ftruncate(self._number, size)
        except OSError as error:
            self._fault = self._fault or cannot_write(self._path, error)
            if not self._later:
                raise self._fault from None
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


def _raw_of(sink: IO[bytes]) -> _Sink:
    raw = getattr(sink, "raw", None)
    assert isinstance(raw, _Sink)
    return raw


@contextmanager
def _told(path: Path) -> Iterator[None]:
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
    """The permissions of a file that will be replaced, refused as opening it would be; None: there is none."""
    try:
        there = os.stat(target)  # noqa: PTH116
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(there.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return stat.S_IMODE(there.st_mode)


def _begin_file(path: Path, *, sweep: bool) -> tuple[Path, Path, int]:
    """Where the file will be seen, its name aside, and the number that holds its lock."""
    with _told(path):
        target = Path(os.path.realpath(path))
        kept = _check(target)
        os.makedirs(target.parent, exist_ok=True)  # noqa: PTH103 (the calls that tests intercept)
        if sweep:
            sweep_parts(target.parent, of=target.name)
        aside, number = begin_part(target)
    if kept is not None:
        with suppress(PermissionError):
            os.fchmod(number, kept)
    return target, aside, number


def _begin_of(name: str) -> str:
    """How names aside begin for an output of this name."""
    room = _LONGEST_NAME_BYTES - len(f"..{16 * '0'}{PART}")
    return f".{name.encode()[:room].decode(errors='ignore')}."


def _is_of(name: str, begin: str | None) -> bool:
    return begin is None or (name.startswith(begin) and len(name) == len(begin) + 16 + len(PART))


def _aside(target: Path) -> Path:
    return target.with_name(f"{_begin_of(target.name)}{secrets.token_hex(8)}{PART}")


def begin_part(target: Path) -> tuple[Path, int]:
    """A new file aside for an output, and its number, which holds its lock; its folder exists."""
    while True:
        aside = _aside(target)
        number = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        if _is_locked(aside, number):
            return aside, number
        os.close(number)


def _begin_folder(target: Path) -> tuple[Path, int]:
    """A new folder aside, and a number that holds its lock."""
    while True:
        aside = _aside(target)
        os.mkdir(aside)  # noqa: PTH102
        number = os.open(aside, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if _is_locked(aside, number):
            return aside, number
        os.close(number)


def _is_locked(aside: Path, number: int) -> bool:
    """Lock it; False where another process swept it in the moment that it was without a lock."""
    with suppress(OSError):  # a file system without locks: then nobody sweeps there either
        lock(number)
    try:
        return os.path.samestat(os.stat(aside), os.fstat(number))  # noqa: PTH116
    except FileNotFoundError:
        return False


def _delete_unheld(part: Path) -> None:
    """Delete a file or folder aside whose writer is dead.

    Raises:
        OSError: it is held, a link, or somebody else's.
    """
    is_folder = stat.S_ISDIR(os.lstat(part).st_mode)
    flags = os.O_RDONLY | os.O_DIRECTORY if is_folder else os.O_RDWR
    number = os.open(part, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(number)
        is_ours = found.st_uid == os.getuid() and (is_folder or stat.S_ISREG(found.st_mode))
        if not is_ours:
            return
        lock_at_once(number)
        if not os.path.samestat(os.lstat(part), found):
            return
        if is_folder:
            shutil.rmtree(part)
        else:
            os.unlink(part)  # noqa: PTH108
    finally:
        os.close(number)
