"""Claims that let one process at a time work on a folder of a store.

Every process writes a claim under a random name of its own, then lists the claims. It holds the folder when there is no
other claim. Of several processes that request the folder at once, the one with the smallest name stays and the others
are refused; while a process holds the folder, all others are refused. No conditional create is needed, so claims also
serve with `store.single_writer`. A claim ends when its process ends (on the same machine), or when it was not renewed
for EXPIRES_S by the store's clock.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import Literal

from fossilray.core.errors import StoreError, UsageError
from fossilray.core.records import utc_now
from fossilray.store.files.base import CLAIMS, Files, read_present
from fossilray.store.files.local import LocalFiles
from fossilray.store.files.process_note import process_identity, this_machine

RENEWED_EVERY_S = 20.0
EXPIRES_S = 120.0
_RETRY_EVERY_S = 0.1
_CLAIM = re.compile(rf"{re.escape(CLAIMS)}/[0-9a-f]{{16}}\.json")


@dataclass(frozen=True)
class _Claimant:
    """The process that made a claim. Names of fields and values of `state` are those of the file."""

    state: Literal["asking", "holding"]
    host: str
    machine: str
    """Boot of the machine and namespace of process ids; empty where the system does not report them."""
    process: str
    """Id and start time of the process."""
    since: str

    @property
    def description(self) -> str:
        return f"{self.host}, process {self.process.split('@')[0]}, since {self.since}"


class Claim:
    """A folder that this process holds."""

    def __init__(self, files: Files, what: str) -> None:
        self._files, self._what = files, what
        self._path = f"{CLAIMS}/{secrets.token_hex(8)}.json"
        self._mine = _Claimant(
            "asking", socket.gethostname(), this_machine(), process_identity(os.getpid()), utc_now()
        )
        self._confirmed_s = time.time()
        self._is_lost = False
        self._over = threading.Event()

    def check(self) -> None:
        """Require that the folder is still held: a machine that was suspended may have lost it.

        Raises:
            UsageError: another process holds it now.
        """
        if time.time() - self._confirmed_s > EXPIRES_S / 2:
            self._renew()
        if self._is_lost:
            raise UsageError(
                f"this process did not renew its claim for {EXPIRES_S:.0f} s, and another {self._what} took over "
                f"{self._files.url}; let that one finish"
            )

    def _request(self) -> None:
        self._write()
        try:
            while others := self._others():
                holders = [claimant for _, claimant in others if claimant.state == "holding"]
                smaller = [claimant for path, claimant in others if path < self._path]
                if holders or smaller:
                    other = (holders or smaller)[0].description
                    raise UsageError(
                        f"another {self._what} is at work on {self._files.url} ({other}); "
                        "wait until it has ended"
                    )
                time.sleep(_RETRY_EVERY_S)
            self._mine = replace(self._mine, state="holding")
            self._write()
        except BaseException:
            self._withdraw()
            raise

    def _keep(self) -> None:
        while not self._over.wait(RENEWED_EVERY_S):
            # An unreachable store may be reachable next time; until then no other process can read it either.
            with suppress(StoreError):
                self._renew()

    def _renew(self) -> None:
        if self._path not in self._files.find(CLAIMS):
            self._is_lost = True
            return
        self._write()
        self._confirmed_s = time.time()

    def _write(self) -> None:
        self._files.write(self._path, json.dumps(asdict(self._mine)).encode() + b"\n")

    def _withdraw(self) -> None:
        with suppress(StoreError):
            self._files.delete(self._path)

    def _others(self) -> list[tuple[str, _Claimant]]:
        """Claims of running processes; those of ended ones are deleted."""
        paths = [path for path in self._files.find(CLAIMS) if _CLAIM.fullmatch(path) and path != self._path]
        claims = []
        for path, content in read_present(self._files, paths).items():
            claimant = _parse(content)
            if self._is_alive(path, claimant):
                claims.append((path, claimant))
            else:
                self._files.delete(path)
        return claims

    def _is_alive(self, path: str, claimant: _Claimant) -> bool:
        if claimant.machine and claimant.machine == self._mine.machine:
            number = claimant.process.split("@")[0]
            return number.isdigit() and process_identity(int(number)) == claimant.process
        written = {entry.path: entry.modified for entry in self._files.entries(CLAIMS)}
        if path not in written:
            return False
        return (self._files.clock() - written[path]).total_seconds() < EXPIRES_S


@contextmanager
def hold_folder(files: Files, what: str) -> Iterator[Claim]:
    """Hold a folder of a store while the block runs.

    what: the holder in messages, such as `fossilray index build`.

    Raises:
        UsageError: another running process holds it.
        StoreError: the store cannot be written.
    """
    if isinstance(files, LocalFiles):
        files.tidy()
    claim = Claim(files, what)
    claim._request()
    keeper = threading.Thread(target=claim._keep, name="claim", daemon=True)
    keeper.start()
    try:
        yield claim
    finally:
        claim._over.set()
        keeper.join()
        claim._withdraw()
        if isinstance(files, LocalFiles):
            files.tidy()


def _parse(content: bytes) -> _Claimant:
    """The claimant; a file that is not a claim counts as a holder until it is old."""
    try:
        return _Claimant(**{name: str(value) for name, value in json.loads(content).items()})  # type: ignore[arg-type]
    except (ValueError, TypeError, AttributeError, RecursionError):
        return _Claimant("holding", "unknown", "", "unknown", "an unknown time")
