"""A folder of one process on a local disk, deleted however that process ends.

The owner holds a lock on a file inside it for life. What a killed process left is deleted by the next owner on
that machine: a folder whose lock nobody holds belongs to nobody.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import time
import weakref
from contextlib import suppress
from pathlib import Path

from fossilray.errors import ScratchFull

_PREFIX = "fossilray-"
_LOCK = "lock"
# A folder is without a lock file for microseconds; one that stays so was left by a crash at that moment.
_LOCKLESS_S = 3600.0
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Scratch:
    """A new, empty folder below `root` (unset: the system's temporary folder).

    Raises:
        ScratchFull: it cannot be made.
    """

    def __init__(self, root: str | None) -> None:
        above = scratch_root(root)
        try:
            above.mkdir(parents=True, exist_ok=True)
            sweep_abandoned(above)
            self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=above))
            lock = _lock(self.folder)
        except OSError as error:
            raise no_room(above, error) from None
        # Also runs when the interpreter exits, as it does when a signal is turned into SystemExit.
        self._delete = weakref.finalize(self, _delete, self.folder, lock, os.getpid())

    def free_bytes(self) -> int:
        """Room left on the disk."""
        return shutil.disk_usage(self.folder).free

    def close(self) -> None:
        """Delete the folder with all it holds."""
        self._delete()


def scratch_root(root: str | None) -> Path:
    """Where folders of scratch are made: slides.scratch, or the system's temporary folder."""
    return Path(root or tempfile.gettempdir())


def sweep_abandoned(above: Path) -> list[Path]:
    """The folders of dead processes that lay in `above`; they are gone now."""
    swept = []
    for folder in sorted(above.glob(f"{_PREFIX}*")):
        # Somebody else's folder, or one that somebody else deletes just now, is none of ours.
        with suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid() or not _is_abandoned(folder):
                continue
            shutil.rmtree(folder, ignore_errors=True)
            swept.append(folder)
    return swept


def no_room(place: Path, error: OSError) -> ScratchFull:
    """What is wrong with the disk below `place`, in one sentence."""
    if error.errno in _NO_ROOM:
        remedy = "free some space there, or set slides.scratch to a larger disk"
    else:
        remedy = "set slides.scratch to a local folder that can be written"
    return ScratchFull(f"cannot stage slides in {place}: {error.strerror or error}; {remedy}")


def _lock(folder: Path) -> int:
    """A descriptor that holds the folder's lock; the lock file appears locked, never before."""
    made = folder / f"{_LOCK}.new"
    lock = os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        made.rename(folder / _LOCK)
    except OSError:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return lock


def _is_abandoned(folder: Path) -> bool:
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return time.time() - folder.stat().st_mtime > _LOCKLESS_S
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def _delete(folder: Path, lock: int, owner: int) -> None:
    # A child that this process forked inherits the object, not the folder.
    if os.getpid() != owner:
        return
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        os.close(lock)
