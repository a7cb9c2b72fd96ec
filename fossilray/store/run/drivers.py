"""Heartbeats of drivers, each with the time at which the store received it."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from datetime import datetime

from fossilray.core.errors import DamagedFile
from fossilray.core.formats import parse_record
from fossilray.core.heartbeat import Heartbeat
from fossilray.core.machine import boot_id, pid_namespace, process_start
from fossilray.store.files.base import Files, read_present
from fossilray.store.run import roles
from fossilray.store.run.left_out import LeftOut

DRIVERS = "drivers"


@dataclass(frozen=True)
class DriverSign:
    """The last heartbeat of a driver."""

    heartbeat: Heartbeat
    written_at: datetime
    """UTC, by the store's clock; `heartbeat.beat_at` is by the clock of the driver's host."""


def read_signs(files: Files, left_out: LeftOut) -> list[DriverSign]:
    """Read the last heartbeat of every driver, the latest first; damaged files are noted in `left_out`."""
    written = {entry.path: entry.modified for entry in files.entries(DRIVERS)}
    signs = []
    for path, content in read_present(files, sorted(written), left_out.add).items():
        # A damaged file of one driver must not hide the other drivers.
        try:
            parsed = parse_record(Heartbeat, content, roles.heartbeat(f"{files.url}/{path}"))
        except DamagedFile as error:
            left_out.add(error)
        else:
            signs.append(DriverSign(parsed, written[path]))
    return sorted(signs, key=lambda sign: sign.heartbeat.beat_at, reverse=True)


def process_lives(heartbeat: Heartbeat) -> bool | None:
    """Return whether the process of a driver exists; None where it is of another machine or not identified."""
    stated = (heartbeat.host, heartbeat.boot, heartbeat.pid_namespace)
    here = (socket.gethostname(), boot_id(), pid_namespace())
    if stated != here or not all(stated) or not heartbeat.process_start:
        return None
    return process_start(heartbeat.pid) == heartbeat.process_start
