"""A folder of one process on a local disk, deleted however that process ends.

ROOT/fossilray-scratch-<user id>/<id>/     one for each process, with the mark that `marked_folders` describes
What a killed process left is deleted by the next one on that machine. Nothing else in ROOT is ever touched.
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
    """A new, empty folder below `root` (unset: the system's temporary folder).

    Raises:
        ScratchFull: it cannot be made.
    """

    def __init__(self, root: str | None) -> None:
        above = scratch_root(root)
        try:
            above.mkdir(parents=True, exist_ok=True)
            own = private_folder(above, _name())
            remove_abandoned(own)
            self._marked = MarkedFolder(own)
        except OSError as error:
            raise scratch_full(above, error) from None
        self.folder = self._marked.path

    def free_bytes(self) -> int:
        """Room left on the disk."""
        return shutil.disk_usage(self.folder).free

    def remove(self, name: str) -> None:
        """Delete one file or folder directly in it, if it is there."""
        self._marked.remove(name)

    def close(self) -> None:
        """Delete the folder with all it holds."""
        self._marked.close()


def scratch_root(root: str | None) -> Path:
    """Where folders of scratch are made: slides.scratch, or the system's temporary folder."""
    return Path(root or tempfile.gettempdir())


def delete_abandoned(above: Path) -> list[Path]:
    """The folders of scratch whose processes have ended; they are gone now."""
    own = above / _name()
    try:
        found = own.lstat()
    except OSError:
        return []
    # A link, or another user's folder: what lies in it is not this user's scratch.
    return (
        remove_abandoned(own)
        if own.is_dir() and not own.is_symlink() and found.st_uid == os.geteuid()
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
