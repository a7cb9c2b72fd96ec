"""What must end with a driver: the processes of its private Ray, and the folder that they share.

Ray's own servers end with their parent on Linux, but not all that those have started: agents stay for ever, workers for
seconds. A keeper, one small process beside the driver, waits until the driver closes its end of a pipe or dies, however
it dies, then ends every process that bears the cluster's mark, and deletes the folder by its own. Run as
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
"""Variable in the environment of each of its processes, with the folder as its value."""
PREFIX = "fossilray-"
_LONGEST_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
"""Of a Unix socket's path."""
_SOCKET = "/r/session_2026-01-01_00-00-00_000000_{}/sockets/plasma_store"
"""As Ray names its longest, with the driver's process id."""
_IN_ORDER = b"."
"""What the driver says when it ends the cluster itself, and deletes the folder."""
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
        # In a session of its own: what a terminal sends to the driver is not for the keeper.
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
            # Modules come from where this one lies, never from the folder that the driver happens to work in.
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        )

    @property
    def environment(self) -> dict[str, str]:
        """Variables that its processes must have: the mark, and that they leave it readable when they change titles."""
        return {MARK: str(self._folder.path), "SPT_NOENV": "1"}

    def close(self) -> None:
        """End what is left of the cluster, and delete its folder."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._keeper.communicate(_IN_ORDER, timeout=_GIVE_UP_S)
        # Also where the keeper itself was killed.
        end_processes(self._folder.path)
        self._folder.close()


def end_processes(folder: Path) -> int:
    """End the processes that bear the mark of this folder, this one apart; how many those were.

    Nothing happens where the system does not show the environment of processes; Ray's own reaper works there.
    """
    ended: set[int] = set()
    began = time.monotonic()
    while (found := _marked(folder)) and time.monotonic() - began < _GIVE_UP_S:
        gentle = time.monotonic() - began < _GRACE_S
        for pid in found:
            _send(pid, folder, signal.SIGTERM if gentle and pid not in ended else signal.SIGKILL)
        ended |= found
        time.sleep(_GRACE_S / 5)
    return len(ended)


def keep(folder: Path, identifier: str, driver: int) -> None:
    """Wait for the driver's end, then end what it has started; behind one that died delete the folder too."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    is_in_order = _await_end(driver)
    end_processes(folder)
    began = time.monotonic()
    # What is dying still holds the folder's lock for a moment.
    while not is_in_order and not remove_marked(folder, identifier) and time.monotonic() - began < _GIVE_UP_S:
        time.sleep(_GRACE_S / 5)


def _await_end(driver: int) -> bool:
    """Wait until the driver says so or dies; whether it said so."""
    waited = [sys.stdin.fileno()]
    with contextlib.suppress(OSError, AttributeError):
        # A child that the driver forked may hold the pipe open; this tells of the driver alone. Not on macOS.
        waited.append(os.pidfd_open(driver))
    if os.getppid() != driver:
        return False
    poll = select.poll()
    for one in waited:
        poll.register(one, select.POLLIN | select.POLLHUP)
    ready = [number for number, _ in poll.poll()]
    return waited[0] in ready and os.read(waited[0], 1) == _IN_ORDER


def _short_folder() -> Path:
    """The temporary folder, or /tmp where names of sockets below it would be too long."""
    longest = _LONGEST_SOCKET_BYTES - len(f"/{PREFIX}01234567{_SOCKET.format(os.getpid())}")
    place = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    return Path(place if len(os.fsencode(place)) <= longest else "/tmp")


def _marked(folder: Path) -> set[int]:
    """The processes of this user that were started for the cluster of this folder."""
    return {pid for pid in process_ids() if pid != os.getpid() and _bears(pid, folder)}


def _bears(pid: int, folder: Path) -> bool:
    return f"{MARK}={folder}".encode() in process_environment(pid) and bool(process_start(pid))


def _send(pid: int, folder: Path, number: signal.Signals) -> None:
    """Send a signal to that very process, not to another one that has its id by then."""
    with contextlib.suppress(OSError):
        process = os.pidfd_open(pid)
        try:
            if _bears(pid, folder):
                signal.pidfd_send_signal(process, number)
        finally:
            os.close(process)


if __name__ == "__main__":
    keep(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
