"""Owners of folders: the process that a folder belongs to, and whether it has ended."""

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
"""File systems that only one machine at a time can mount, by the kernel's names."""


@dataclass(frozen=True)
class Owner:
    """The process that a folder belongs to."""

    format: str
    id: str
    """Random id, which the folder's name ends in."""
    host: str
    boot: str
    """Id of the boot of the machine; empty where unknown."""
    pid_namespace: str
    """PID namespace to which `pid` belongs; empty where unknown."""
    pid: int
    started: str
    """Start time of the process in kernel ticks, which makes its id unique on a running system."""

    @staticmethod
    def new(identifier: str) -> Owner:
        """Describe this process as the owner."""
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
        """Parse a mark; None if it is not one of fossilray."""
        try:
            stated = json.loads(content)
            owner = Owner(**stated)
        except (ValueError, TypeError, RecursionError):
            return None
        texts = (owner.id, owner.host, owner.boot, owner.pid_namespace, owner.started)
        is_valid = owner.format == FORMAT and all(isinstance(text, str) for text in texts) and owner.id
        return owner if is_valid and type(owner.pid) is int and owner.pid > 0 else None

    def has_ended(self, folder: int) -> bool:
        """Return whether the process is known to have ended. The caller holds the lock of the folder's mark.

        folder: descriptor of the folder; whether the lock proves anything depends on its disk.
        """
        boot = boot_id()
        if _is_of_one_machine(folder):
            # The lock is conclusive, and folders of an earlier boot have no owner any more.
            if self.boot != boot:
                return True
        elif not boot or (self.boot, self.host) != (boot, socket.gethostname()):
            # Another machine may hold a lock that is invisible here, and its process ids mean nothing.
            return False
        if self.pid_namespace != pid_namespace():
            return True
        return not self.started or process_start(self.pid) != self.started


def _is_of_one_machine(folder: int) -> bool:
    """Return whether no other machine can have the folder's disk mounted; False where unknown."""
    try:
        path = Path(f"/proc/self/fd/{folder}").readlink()
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return False
    kinds: dict[str, str] = {}
    for line in lines:
        # The last of several file systems at one path hides the others.
        kinds[line.split()[4]] = line.partition(" - ")[2].split()[0]
    # A name with a space is escaped in mountinfo; its disk is then unknown.
    mount = next((parent for parent in (path, *path.parents) if str(parent) in kinds), None)
    is_escaped = any(character in str(path) for character in " \t\n\\")
    return mount is not None and not is_escaped and kinds[str(mount)] in _OF_ONE_MACHINE
