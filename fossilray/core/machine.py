"""What is asked of the operating system beyond Python's portable calls: locks, other processes, memory, boots.

Linux tells all of it. macOS has the locks and tells the boot; what a system does not tell comes back as empty or 0, and
callers then keep what they cannot prove to be abandoned. Windows has none of it: fossilray runs there in WSL2.
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
    """Lock an open file or folder for this process until it is closed; waits for another holder.

    Raises:
        OSError: the file system has no locks.
    """
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def try_lock(descriptor: int) -> None:
    """The same without waiting.

    Raises:
        BlockingIOError: another process holds the lock.
        OSError: the file system has no locks.
    """
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_running(process: int) -> bool:
    """Whether there is a process of this number, of whichever user."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def process_start(pid: int) -> str:
    """When a process began, in the kernel's ticks; empty where the system does not tell, or there is none.

    One that has ended and only waits for its parent to take note counts as none.
    """
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return "" if state in "ZX" else numbers[18]
    except (OSError, ValueError, IndexError):
        return ""


def process_environment(pid: int) -> list[bytes]:
    """`NAME=value` of a process of this user as it was started; empty where the system does not tell."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def process_ids() -> list[int]:
    """The processes that this one sees; empty where the system does not tell."""
    with suppress(OSError):
        return [int(place.name) for place in os.scandir("/proc") if place.name.isdecimal()]
    return []


def pid_namespace() -> str:
    """The space in which process ids of this process mean something; containers have their own."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


@cache
def boot_id() -> str:
    """This start of this machine; empty where the system does not tell."""
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
        with suppress(OSError):
            return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def resident_bytes() -> int:
    """Memory of this process; 0 where the system does not tell."""
    try:
        # Linux: pages in total, pages resident, …
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def read_bytes() -> int:
    """What this process has read from files so far; 0 where the system does not tell."""
    try:
        # Linux, "rchar: <bytes>": what read calls returned, from the page cache or a disk; not from sockets.
        return int(Path("/proc/self/io").read_bytes().split()[1])
    except OSError:
        return 0
