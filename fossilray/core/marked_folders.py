"""Temporary folders on a local disk, each marked with its owning process; only marked folders are deleted.

PARENT/<prefix><id>/
  owner.json     the mark: id, host, boot, process and its start; locked while the process runs
  …              content
A folder without a valid mark is never deleted, whatever its name and age. Deletion depends on no clock and
follows no link: it works on the descriptor through which the mark was read.
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
_Inode = tuple[int, int]
"""Device and inode."""
_locks: set[int] = set()
"""Descriptors that hold the locks of this process's folders."""


class MarkedFolder:
    """A new folder below `parent`, deleted when it is closed or when the interpreter ends.

    Raises:
        OSError: it cannot be created, or its disk has no locks.
    """

    def __init__(self, parent: Path, *, prefix: str = "") -> None:
        self.id = secrets.token_hex(_ID_BYTES)
        self.path = parent / f"{prefix}{self.id}"
        self._inode, lock = _create(self.path, self.id)
        # Also runs when the interpreter exits, as it does when a signal is turned into SystemExit.
        self._close = weakref.finalize(self, _close, self.path, self._inode, lock, os.getpid())

    def remove(self, name: str) -> None:
        """Delete a file or folder directly in this folder, if it exists; errors are left to `close`."""
        # Opened again because another thread may have closed the folder.
        with suppress(OSError), _opened(self.path, self._inode) as folder:
            _remove(name, folder)

    def close(self) -> None:
        """Delete the folder and its content."""
        self._close()


def private_folder(parent: Path, name: str) -> Path:
    """Return `parent/name`, created if absent: a folder that only this user can read and write.

    Raises:
        OSError: it cannot be created, or is a link, not a folder, or another user's.
    """
    path = parent / name
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    try:
        folder = os.open(path, _OPEN_FOLDER)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise NotADirectoryError(error.errno, f"{path} is a link or not a folder") from None
        raise
    try:
        status = os.fstat(folder)
        if status.st_uid != os.geteuid():
            raise PermissionError(
                errno.EPERM, f"{path} belongs to another user (id {status.st_uid}, not {os.geteuid()})"
            )
        if stat.S_IMODE(status.st_mode) & 0o077:
            os.fchmod(folder, 0o700)
            if stat.S_IMODE(os.fstat(folder).st_mode) & 0o022:
                raise PermissionError(
                    errno.EPERM,
                    f"{path} can be written by other users, and its disk does not allow a change of that",
                )
    finally:
        os.close(folder)
    return path


def remove_abandoned(parent: Path, *, prefix: str = "") -> list[Path]:
    """Delete marked folders of this user whose process is known to have ended, and return their paths.

    A folder is kept where that is unknown, as on a disk that another machine may use.
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
    """Delete the folder of a process that has ended, if it has this id; return whether it was deleted."""
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


def _create(path: Path, identifier: str) -> tuple[_Inode, int]:
    """Create a folder; its inode, and a descriptor of its mark, which is locked before it gets its name."""
    path.mkdir(mode=0o700)
    new_mark = f"{OWNER}.new"
    lock = -1
    folder = os.open(path, _OPEN_FOLDER)
    try:
        lock = os.open(new_mark, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
        try_lock(lock)
        os.write(lock, json.dumps(asdict(Owner.new(identifier))).encode())
        os.fsync(lock)
        os.rename(new_mark, OWNER, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(new_mark, dir_fd=folder)
        with suppress(OSError):
            path.rmdir()
        if lock >= 0:
            os.close(lock)
        raise
    else:
        _watch_forks()
        _locks.add(lock)
        return _inode_of(folder), lock
    finally:
        os.close(folder)


def _drop_locks() -> None:
    for lock in _locks:
        with suppress(OSError):
            os.close(lock)
    _locks.clear()


@cache
def _watch_forks() -> None:
    """A forked child inherits the descriptors, and would keep the locks after this process has ended."""
    os.register_at_fork(after_in_child=_drop_locks)


def _close(path: Path, inode: _Inode, lock: int, owner: int) -> None:
    # A forked child inherits the object but does not own the folder.
    if os.getpid() != owner:
        return
    with suppress(OSError), _opened(path, inode) as folder:
        _empty(folder)
        path.rmdir()
    _locks.discard(lock)
    with suppress(OSError):
        os.close(lock)


@contextmanager
def _opened(path: Path, inode: _Inode) -> Iterator[int]:
    """A descriptor of the folder, if it is still the one that was created at this path."""
    folder = os.open(path, _OPEN_FOLDER)
    try:
        if _inode_of(folder) != inode:
            raise FileNotFoundError(path)
        yield folder
    finally:
        os.close(folder)


def _inode_of(folder: int) -> _Inode:
    status = os.fstat(folder)
    return status.st_dev, status.st_ino


def _remove_if(above: int, name: str, *, prefix: str) -> bool:
    """Delete a folder if its mark is valid and its owner has ended; return whether it was deleted."""
    try:
        with _abandoned(above, name, prefix=prefix) as folder:
            if folder is None:
                return False
            _empty(folder)
            os.rmdir(name, dir_fd=above)
            return True
    except OSError:
        # Another process is deleting it, or a file in it cannot be deleted; the mark goes last.
        return False


@contextmanager
def _abandoned(above: int, name: str, *, prefix: str) -> Iterator[int | None]:
    """A descriptor of the folder if it has a valid mark of this user and its owner has ended; its lock is held."""
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
    status = os.fstat(mark)
    if status.st_uid != os.geteuid() or not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
        return False
    owner = Owner.parse(os.pread(mark, _MOST_BYTES, 0))
    if owner is None or name != f"{prefix}{owner.id}":
        return False
    with suppress(BlockingIOError):
        try_lock(mark)
        return owner.has_ended(folder)
    return False


def _empty(folder: int) -> None:
    """Delete the content of a folder, its mark last, so that an interrupted deletion can be resumed."""
    with suppress(OSError):
        for name in os.listdir(folder):
            if name != OWNER:
                _remove(name, folder)
        if os.listdir(folder) == [OWNER]:
            os.unlink(OWNER, dir_fd=folder)


def _remove(name: str, folder: int) -> None:
    with suppress(OSError):
        if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            # By descriptors, so that no link is followed, not even one that is created meanwhile.
            shutil.rmtree(name, ignore_errors=True, dir_fd=folder)
        else:
            os.unlink(name, dir_fd=folder)
