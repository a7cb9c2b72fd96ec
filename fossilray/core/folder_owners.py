"""Which process a folder belongs to, and whether that process is known to have ended."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from fossilray.core.machine import boot_id, pid_namespace, process_start

FORMAT = "fossilray-folder/1"
_OF_ONE_MACHINE = frozenset(
    {
        "apfs",
        "bcachefs",
        "btrfs",
        "ext2",
        "ext3",
        "ext4",
        "f2fs",
        "hfs",
        "jfs",
        "overlay",
        "ramfs",
        "tmpfs",
        "xfs",
        "zfs",
    }
)
"""Filesystems that a single running system mounts, as the kernel names them."""


@dataclass(frozen=True)
class Owner:
    """The process that a folder belongs to."""

    format: str
    id: str
    """Random, and the end of the folder's name."""
    host: str
    boot: str
    """Which start of which machine; empty where the system does not tell."""
    pid_namespace: str
    """Process ids mean nothing in another one; empty where there are none."""
    pid: int
    started: str
    """When the process began, in the kernel's ticks: with it a process id is unique on a running system."""

    @staticmethod
    def new(identifier: str) -> Owner:
        """This process."""
        return Owner(
            FORMAT,
            identifier,
            socket.gethostname(),
            boot_id(),
            pid_namespace(),
            os.getpid(),
            process_start(os.getpid()),
        )

    @staticmethod
    def parse(content: bytes) -> Owner | None:
        """What a mark says; None if it is not one of this program's."""
        try:
            stated = json.loads(content)
            owner = Owner(**stated)
        except (ValueError, TypeError, RecursionError):
            return None
        texts = (owner.id, owner.host, owner.boot, owner.pid_namespace, owner.started)
        is_valid = owner.format == FORMAT and all(isinstance(text, str) for text in texts) and owner.id
        return owner if is_valid and type(owner.pid) is int and owner.pid > 0 else None

    def has_ended(self, folder: int) -> bool:
        """Whether the process is known to have ended; asked by one who holds the lock of its folder's mark.

        folder: a descriptor, for what a lock tells depends on the disk.
        """
        boot = boot_id()
        if _is_of_one_machine(folder):
            # The lock says all, and what an earlier start of the machine left has no owner any more.
            if self.boot != boot:
                return True
        elif not boot or (self.boot, self.host) != (boot, socket.gethostname()):
            # Another machine may hold a lock that is not seen here, and its process ids say nothing.
            return False
        if self.pid_namespace != pid_namespace():
            return True
        return not self.started or process_start(self.pid) != self.started


def _is_of_one_machine(folder: int) -> bool:
    """Whether no other running system can have the folder's disk mounted; False where that is not known."""
    try:
        place = Path(f"/proc/self/fd/{folder}").readlink()
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return False
    kinds: dict[str, str] = {}
    for line in lines:
        # Of several at one place the last one lies on top.
        kinds[line.split()[4]] = line.partition(" - ")[2].split()[0]
    # A name with a space is escaped there; it is then not found, and its disk not known.
    above = next((one for one in (place, *place.parents) if str(one) in kinds), None)
    escaped = any(sign in str(place) for sign in " \t\n\\")
    return above is not None and not escaped and kinds[str(above)] in _OF_ONE_MACHINE
