"""Folders of one process on a local disk, each with a file that says whose it is; only those are ever deleted.

PARENT/<prefix><id>/
  owner.json     the mark: id, host, start of the machine, process and its start; locked while the process lives
  …              what the process keeps there
A folder without a valid mark is never deleted, whatever its name and age. No clock is asked and no link followed:
what is deleted is what the descriptor shows through which the mark was read.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import stat
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path

from fossilray.core.folder_owners import Owner
from fossilray.core.machine import try_lock

OWNER = "owner.json"
_ID_BYTES = 4
_MOST_BYTES = 4096
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_Place = tuple[int, int]
"""Device and inode."""
_locks: set[int] = set()
"""Descriptors by which this process holds its folders."""


class MarkedFolder:
    """A new, empty folder below `parent`, deleted when closed or when the interpreter ends.

    Raises:
        OSError: it cannot be made, or its disk knows no locks.
    """

    def __init__(self, parent: Path, *, prefix: str = "") -> None:
        self.id = secrets.token_hex(_ID_BYTES)
        self.path = parent / f"{prefix}{self.id}"
        self._place, lock = _make(self.path, self.id)
        # Also runs when the interpreter exits, as it does when a signal is turned into SystemExit.
        self._close = weakref.finalize(self, _close, self.path, self._place, lock, os.getpid())

    def remove(self, name: str) -> None:
        """Delete one file or folder directly in it, if it is there; what withstands is left for `close`."""
        # Opened anew, for another thread may have closed the folder.
        with suppress(OSError), _opened(self.path, self._place) as folder:
            _remove(name, folder)

    def close(self) -> None:
        """Delete the folder with all it holds."""
        self._close()


def private_folder(parent: Path, name: str) -> Path:
    """`parent/name`, made if absent: a folder of this user that no other one can look into or write to.

    Raises:
        OSError: it cannot be made, or what is there is a link, no folder, or another user's.
    """
    path = parent / name
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    try:
        folder = os.open(path, _OPEN_FOLDER)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise NotADirectoryError(error.errno, f"{path} is a link or no folder") from None
        raise
    try:
        found = os.fstat(folder)
        if found.st_uid != os.geteuid():
            raise PermissionError(
                errno.EPERM, f"{path} belongs to another user (id {found.st_uid}, not {os.geteuid()})"
            )
        if stat.S_IMODE(found.st_mode) & 0o077:
            os.fchmod(folder, 0o700)
            if stat.S_IMODE(os.fstat(folder).st_mode) & 0o022:
                raise PermissionError(
                    errno.EPERM,
                    f"{path} can be written by other users, and its disk does not let that change",
                )
    finally:
        os.close(folder)
    return path


def remove_abandoned(parent: Path, *, prefix: str = "") -> list[Path]:
    """Delete the marked folders of this user whose process is known to have ended; which those were.

    Where that cannot be known (another machine may own it) a folder stays.
    """
    try:
        above = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return []
    try:
        names = [name for name in sorted(os.listdir(above)) if name.startswith(prefix)]  # noqa: PTH208 (of a descriptor)
        return [parent / name for name in names if _remove_if(above, name, prefix=prefix)]
    except OSError:
        return []
    finally:
        os.close(above)


def remove_marked(path: Path, identifier: str) -> bool:
    """Delete the folder of a process that has ended, if it bears this id; whether it did."""
    try:
        above = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        return path.name.endswith(identifier) and _remove_if(
            above, path.name, prefix=path.name.removesuffix(identifier)
        )
    finally:
        os.close(above)


def _make(path: Path, identifier: str) -> tuple[_Place, int]:
    """A new folder, and a descriptor of its mark, which is locked and whole before it has its name."""
    path.mkdir(mode=0o700)
    aside = f"{OWNER}.new"
    lock = -1
    folder = os.open(path, _OPEN_FOLDER)
    try:
        lock = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
        try_lock(lock)
        os.write(lock, json.dumps(asdict(Owner.new(identifier))).encode())
        os.fsync(lock)
        os.rename(aside, OWNER, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(aside, dir_fd=folder)
        with suppress(OSError):
            path.rmdir()
        if lock >= 0:
            os.close(lock)
        raise
    else:
        _watch_forks()
        _locks.add(lock)
        return _place_of(folder), lock
    finally:
        os.close(folder)


def _drop_locks() -> None:
    for lock in _locks:
        with suppress(OSError):
            os.close(lock)
    _locks.clear()


@cache
def _watch_forks() -> None:
    """A child that is forked inherits the descriptors, and would hold the locks on when this process is gone."""
    os.register_at_fork(after_in_child=_drop_locks)


def _close(path: Path, place: _Place, lock: int, owner: int) -> None:
    # A child that this process forked inherits the object, not the folder.
    if os.getpid() != owner:
        return
    with suppress(OSError), _opened(path, place) as folder:
        _empty(folder)
        path.rmdir()
    _locks.discard(lock)
    with suppress(OSError):
        os.close(lock)


@contextmanager
def _opened(path: Path, place: _Place) -> Iterator[int]:
    """A descriptor of the folder, if it still is the one that was made there."""
    folder = os.open(path, _OPEN_FOLDER)
    try:
        if _place_of(folder) != place:
            raise FileNotFoundError(path)
        yield folder
    finally:
        os.close(folder)


def _place_of(folder: int) -> _Place:
    found = os.fstat(folder)
    return found.st_dev, found.st_ino


def _remove_if(above: int, name: str, *, prefix: str) -> bool:
    """Delete a folder if its mark is valid and its owner has ended; whether it is gone."""
    try:
        with _abandoned(above, name, prefix=prefix) as folder:
            if folder is None:
                return False
            _empty(folder)
            os.rmdir(name, dir_fd=above)
            return True
    except OSError:
        # Another process deletes it just now, or something in it withstands; the mark goes last.
        return False


@contextmanager
def _abandoned(above: int, name: str, *, prefix: str) -> Iterator[int | None]:
    """A descriptor of the folder if it bears a valid mark of this user and its owner has ended; its lock is held."""
    folder = os.open(name, _OPEN_FOLDER, dir_fd=above)
    try:
        if os.fstat(folder).st_uid != os.geteuid():
            yield None
            return
        mark = os.open(OWNER, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        try:
            yield folder if _has_ended(folder, mark, name, prefix=prefix) else None
        finally:
            os.close(mark)
    finally:
        os.close(folder)


def _has_ended(folder: int, mark: int, name: str, *, prefix: str) -> bool:
    found = os.fstat(mark)
    if found.st_uid != os.geteuid() or not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_BYTES:
        return False
    owner = Owner.parse(os.pread(mark, _MOST_BYTES, 0))
    if owner is None or name != f"{prefix}{owner.id}":
        return False
    with suppress(BlockingIOError):
        try_lock(mark)
        return owner.has_ended(folder)
    return False


def _empty(folder: int) -> None:
    """Delete all that a folder holds, its mark last, so that what is interrupted can be taken up again."""
    with suppress(OSError):
        for name in os.listdir(folder):
            if name != OWNER:
                _remove(name, folder)
        if os.listdir(folder) == [OWNER]:
            os.unlink(OWNER, dir_fd=folder)


def _remove(name: str, folder: int) -> None:
    with suppress(OSError):
        if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            # By descriptors, so that no link is followed, also none that is put there meanwhile.
            shutil.rmtree(name, ignore_errors=True, dir_fd=folder)
        else:
            os.unlink(name, dir_fd=folder)
