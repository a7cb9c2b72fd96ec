"""Deletion of files and folders on a disk through descriptors, so that no link is followed."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fossilray.core.errors import LinkInTheWay

_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def delete_below(root: Path, path: str) -> None:
    """Delete a file, or a folder with all its content. The root itself may be reached through links.

    Raises:
        LinkInTheWay: `path` is a link, or leads through one; nothing was deleted.
        FileNotFoundError: it does not exist.
        OSError: the system refuses.
    """
    *above, name = path.split("/")
    if ".." in above or name in ("", ".", ".."):
        raise ValueError(f"{path!r} does not name a file below a folder")
    with _walked(root, above) as folder:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            raise _refusal(root, path)
        if stat.S_ISDIR(mode):
            # By descriptors below this one: links inside are deleted themselves, not what they lead to.
            shutil.rmtree(name, dir_fd=folder)
        else:
            os.unlink(name, dir_fd=folder)


def links_below(root: Path, folder: str) -> list[str]:
    """The links below `root` that are the folder, lie on the way to it or in it, relative to `root`, sorted."""
    path, relative = str(root), ""
    for step in filter(None, folder.split("/")):
        path, relative = f"{path}/{step}", f"{relative}/{step}".lstrip("/")
        if os.path.islink(path):  # noqa: PTH114 (paths cost more)
            return [relative]
    return sorted(_links_in(path, relative))


def _links_in(folder: str, relative: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as scan:
            entries = [
                (entry.name, entry.is_symlink(), entry.is_dir(follow_symlinks=False)) for entry in scan
            ]
    except (FileNotFoundError, NotADirectoryError):
        return
    for name, is_link, is_folder in entries:
        path = f"{relative}/{name}".lstrip("/")
        if is_link:
            yield path
        elif is_folder:
            yield from _links_in(f"{folder}/{name}", path)


@contextmanager
def _walked(root: Path, steps: list[str]) -> Iterator[int]:
    """A descriptor of the folder to which the steps lead."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for number, step in enumerate(steps):
            try:
                below = os.open(step, _OPEN_FOLDER, dir_fd=folder)
            except OSError as error:
                # Systems report different errors for a link that is not to be followed.
                if error.errno in (errno.ELOOP, errno.ENOTDIR) and _is_link(step, folder):
                    raise _refusal(root, "/".join(steps[: number + 1])) from None
                raise
            os.close(folder)
            folder = below
        yield folder
    finally:
        os.close(folder)


def _is_link(name: str, folder: int) -> bool:
    return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)


def _refusal(root: Path, path: str) -> LinkInTheWay:
    return LinkInTheWay(
        f"{root}/{path} is a link, and nothing is deleted through links; replace it by its target, or remove it by hand"
    )
