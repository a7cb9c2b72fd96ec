"""Clean-up of a private Ray: its processes end with the driver, and its folder is deleted.

Ray's servers end with their parent on Linux, but the processes that they have started do not: agents stay for ever,
workers for seconds. A keeper, one small process beside the driver, waits until the driver closes its end of a pipe or
dies, then ends every process that carries the cluster's mark and deletes the folder. Run as
`python -m fossilray.jobs.scheduler.private_ray FOLDER ID PID`.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fossilray.core.errors import WorkerError
from fossilray.core.machine import process_environment, process_ids, process_start
from fossilray.core.marked_folders import MarkedFolder, remove_abandoned, remove_marked

MARK = "FOSSILRAY_PRIVATE_RAY"
"""Environment variable of each process of the cluster; its value is the folder."""
PREFIX = "fossilray-"
_LONGEST_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
"""Longest path of a Unix socket."""
_SOCKET = "/r/session_2026-01-01_00-00-00_000000_{}/sockets/plasma_store"
"""Ray's longest socket path, with the driver's process id."""
_IN_ORDER = b"."
"""Sent by a driver that ends the cluster and deletes the folder itself."""
_GRACE_S = 0.5
_GIVE_UP_S = 20.0


class PrivateRay:
    """The folder of one private cluster, and the keeper that ends the cluster with this process.

    Raises:
        WorkerError: the folder cannot be made.
    """

    def __init__(self) -> None:
        above = _short_folder()
        remove_abandoned(above, prefix=PREFIX)
        try:
            self._folder = MarkedFolder(above, prefix=PREFIX)
        except OSError as error:
            raise WorkerError(
                f"Ray needs a folder for its sockets, and none can be made in {above} ({error.strerror}); set TMPDIR "
                "to a local folder with a short name that can be written"
            ) from None
        # Ray opens its folder to all users; the one above stays closed, and with it its sockets and logs.
        self.path = self._folder.path / "r"
        # In a session of its own, so that signals of the terminal reach the driver only.
        self._keeper = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "fossilray.jobs.scheduler.private_ray",
                str(self._folder.path),
                self._folder.id,
                str(os.getpid()),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            # Modules are imported from this installation, never from the driver's working directory.
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        )

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of its processes: the mark, and one that keeps it when a process sets its title."""
        return {MARK: str(self._folder.path), "SPT_NOENV": "1"}

    def close(self) -> None:
        """End the remaining processes of the cluster, and delete its folder."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._keeper.communicate(_IN_ORDER, timeout=_GIVE_UP_S)
        # Needed where the keeper itself was killed.
        end_processes(self._folder.path)
        self._folder.close()


def end_processes(folder: Path) -> int:
    """End the processes that carry the mark of this folder, except this one; return their number.

    Does nothing where the system hides the environment of processes; Ray's own reaper works there.
    """
    ended: set[int] = set()
    began = time.monotonic()
    while (marked := _marked(folder)) and time.monotonic() - began < _GIVE_UP_S:
        gentle = time.monotonic() - began < _GRACE_S
        for pid in marked:
            _send(pid, folder, signal.SIGTERM if gentle and pid not in ended else signal.SIGKILL)
        ended |= marked
        time.sleep(_GRACE_S / 5)
    return len(ended)


def keep(folder: Path, identifier: str, driver: int) -> None:
    """Wait for the driver to end, then end the processes of its cluster; if it died, delete the folder too."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    is_in_order = _await_end(driver)
    end_processes(folder)
    began = time.monotonic()
    # Processes that are ending hold the folder's lock for a moment.
    while not is_in_order and not remove_marked(folder, identifier) and time.monotonic() - began < _GIVE_UP_S:
        time.sleep(_GRACE_S / 5)


def _await_end(driver: int) -> bool:
    """Wait until the driver closes the cluster or dies; return whether it closed the cluster."""
    waited = [sys.stdin.fileno()]
    with contextlib.suppress(OSError, AttributeError):
        # A forked child of the driver may hold the pipe open; the pidfd reports the driver only. Not on macOS.
        waited.append(os.pidfd_open(driver))
    if os.getppid() != driver:
        return False
    poll = select.poll()
    for descriptor in waited:
        poll.register(descriptor, select.POLLIN | select.POLLHUP)
    ready = [number for number, _ in poll.poll()]
    return waited[0] in ready and os.read(waited[0], 1) == _IN_ORDER


def _short_folder() -> Path:
    """The temporary folder, or /tmp where paths of sockets below it would be too long."""
    longest = _LONGEST_SOCKET_BYTES - len(f"/{PREFIX}01234567{_SOCKET.format(os.getpid())}")
    folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    return Path(folder if len(os.fsencode(folder)) <= longest else "/tmp")


def _marked(folder: Path) -> set[int]:
    """Ids of this user's processes that were started for the cluster of this folder."""
    return {pid for pid in process_ids() if pid != os.getpid() and _is_marked(pid, folder)}


def _is_marked(pid: int, folder: Path) -> bool:
    return f"{MARK}={folder}".encode() in process_environment(pid) and bool(process_start(pid))


def _send(pid: int, folder: Path, number: signal.Signals) -> None:
    """Send a signal to the marked process, and not to a later one with the same id."""
    with contextlib.suppress(OSError):
        process = os.pidfd_open(pid)
        try:
            if _is_marked(pid, folder):
                signal.pidfd_send_signal(process, number)
        finally:
            os.close(process)


if __name__ == "__main__":
    keep(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
