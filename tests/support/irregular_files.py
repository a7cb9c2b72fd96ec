"""Pipes, devices, sockets and folders in place of files, as a parameter of tests."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # a socket's path has at most about 100 characters
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(before)


KINDS = {"pipe": make_pipe, "device": make_device, "socket": make_socket, "folder": Path.mkdir}
irregular = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())
