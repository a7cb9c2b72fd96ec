"""Pipes, devices, sockets and folders in place of files, as a parameter of tests."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest


def lay_pipe(path: Path) -> None:
    os.mkfifo(path)


def lay_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def lay_socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # a socket's path has at most about 100 characters
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(before)


KINDS = {"pipe": lay_pipe, "device": lay_device, "socket": lay_socket, "folder": Path.mkdir}
irregular = pytest.mark.parametrize("lay", KINDS.values(), ids=KINDS.keys())
