"""Scratch folder of one process on a local disk, deleted when that process ends.

ROOT/fossilray-scratch-<user id>/<id>/     one for each process, with the mark that `marked_folders` describes
The folder of a killed process is deleted by the next one on that machine. Nothing else in ROOT is modified.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from fossilray.core.errors import ScratchFull
from fossilray.core.marked_folders import MarkedFolder, private_folder, remove_abandoned

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Scratch:
    """New, empty folder below `root` (None: the system's temporary folder).

    Raises:
        ScratchFull: the folder cannot be created.
    """

    def __init__(self, root: str | None) -> None:
        above = scratch_root(root)
        try:
            above.mkdir(parents=True, exist_ok=True)
            folder = private_folder(above, _name())
            remove_abandoned(folder)
            self._marked = MarkedFolder(folder)
        except OSError as error:
            raise scratch_full(above, error) from None
        self.folder = self._marked.path

    def free_bytes(self) -> int:
        """Return the free bytes on the disk."""
        return shutil.disk_usage(self.folder).free

    def remove(self, name: str) -> None:
        """Delete a file or folder directly in the scratch folder, if it exists."""
        self._marked.remove(name)

    def close(self) -> None:
        """Delete the folder with its contents."""
        self._marked.close()


def scratch_root(root: str | None) -> Path:
    """Return the parent of scratch folders: `root` (slides.scratch), or the system's temporary folder."""
    return Path(root or tempfile.gettempdir())


def delete_abandoned(above: Path) -> list[Path]:
    """Delete this user's scratch folders whose processes have ended, and return them."""
    folder = above / _name()
    try:
        status = folder.lstat()
    except OSError:
        return []
    # A link or another user's folder is not this user's scratch.
    return (
        remove_abandoned(folder)
        if folder.is_dir() and not folder.is_symlink() and status.st_uid == os.geteuid()
        else []
    )


def scratch_full(folder: Path, error: OSError) -> ScratchFull:
    """Return the error for a full or failing disk below `folder`."""
    if error.errno in _NO_ROOM:
        remedy = "free some space there, or set slides.scratch to a larger disk"
    else:
        remedy = "set slides.scratch to a local folder that can be written"
    return ScratchFull(f"cannot stage slides in {folder}: {error.strerror or error}; {remedy}")


def _name() -> str:
    return f"fossilray-scratch-{os.geteuid()}"
