"""Functions of the operating system beyond Python's portable ones: locks, other processes, memory, boots.

Linux provides all of them, macOS locks and the boot id. Functions return an empty string, an empty list or 0 where the
system lacks the information; callers then keep what they cannot prove to be abandoned. On Windows, fossilray runs in
WSL2.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path


def lock(descriptor: int) -> None:
    """Lock an open file or folder for this process until it is closed; wait while another process holds the lock.

    Raises:
        OSError: the file system has no locks.
    """
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def try_lock(descriptor: int) -> None:
    """Lock an open file or folder as `lock` does, without waiting.

    Raises:
        BlockingIOError: another process holds the lock.
        OSError: the file system has no locks.
    """
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_running(process: int) -> bool:
    """Return whether a process with this id exists, of any user."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def process_start(pid: int) -> str:
    """Start time of a process in kernel ticks; empty if the process does not exist or the system lacks the information.

    A zombie process counts as one that does not exist.
    """
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return "" if state in "ZX" else numbers[18]
    except (OSError, ValueError, IndexError):
        return ""


def process_environment(pid: int) -> list[bytes]:
    """Environment of a process of this user at its start, as `NAME=value`."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def process_ids() -> list[int]:
    """Ids of the processes that are visible to this one."""
    with suppress(OSError):
        return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdecimal()]
    return []


def pid_namespace() -> str:
    """Id of the PID namespace of this process; each container has its own."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


@cache
def boot_id() -> str:
    """Id of the current boot of this machine."""
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
        with suppress(OSError):
            return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def resident_bytes() -> int:
    """Resident memory of this process in bytes."""
    try:
        # Linux: pages in total, pages resident, …
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def read_bytes() -> int:
    """Bytes that this process has read from files so far."""
    try:
        # Linux, "rchar: <bytes>": what read calls returned, from the page cache or a disk; not from sockets.
        return int(Path("/proc/self/io").read_bytes().split()[1])
    except OSError:
        return 0
