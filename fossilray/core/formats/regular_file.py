"""Opening of regular files only: reading a pipe, a socket or a device could block forever."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotRegular(OSError):
    """The path does not lead to a regular file."""


def open_descriptor(path: Path | str) -> int:
    """Open a regular file for reading and return its descriptor.

    Raises:
        NotRegular: it is a folder, a pipe, a socket or a device.
        OSError: it cannot be opened.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        # A socket, or a device without a driver, cannot even be opened.
        if error.errno in (errno.ENXIO, errno.ENODEV, errno.EOPNOTSUPP):
            _expect_regular(os.stat(path).st_mode, path)  # noqa: PTH116
        raise
    try:
        _expect_regular(os.fstat(file).st_mode, path)
    except OSError:
        os.close(file)
        raise
    return file


def open_regular(path: Path | str) -> BinaryIO:
    """Open a regular file for reading.

    Raises: as open_descriptor.
    """
    return os.fdopen(open_descriptor(path), "rb")


def read_regular(path: Path | str, *, most_bytes: int | None = None) -> bytes:
    """Read a regular file; of a file with more than most_bytes, the first most_bytes + 1.

    Raises: as open_descriptor.
    """
    with open_regular(path) as file:
        return file.read(-1 if most_bytes is None else most_bytes + 1)


def _expect_regular(mode: int, path: Path | str) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise NotRegular(code, f"it is {kind}, not a regular file", str(path))
