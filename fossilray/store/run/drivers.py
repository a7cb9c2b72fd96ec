"""Heartbeats of drivers, each with the time at which the store received it."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from datetime import datetime

from fossilray.core.errors import DamagedFile
from fossilray.core.formats import parse_record
from fossilray.core.machine import boot_id, pid_namespace, process_start
from fossilray.core.records import Heartbeat
from fossilray.store.files.base import Files, read_present
from fossilray.store.run.left_out import LeftOut
from fossilray.store.run.roles import heartbeat

DRIVERS = "drivers"


@dataclass(frozen=True)
class DriverSign:
    """The last heartbeat of a driver."""

    heartbeat: Heartbeat
    written_at: datetime
    """UTC, by the store's clock; `heartbeat.beat_at` is by the clock of the driver's host."""


def read_signs(files: Files, left_out: LeftOut) -> list[DriverSign]:
    """The last heartbeat of every driver, the latest first; damaged ones are noted in `left_out`."""
    written = {entry.path: entry.modified for entry in files.entries(DRIVERS)}
    found = []
    for path, content in read_present(files, sorted(written), left_out.add).items():
        # A torn file of a driver that died is no reason to hide those that live.
        try:
            beat = parse_record(Heartbeat, content, heartbeat(f"{files.url}/{path}"))
        except DamagedFile as error:
            left_out.add(error)
        else:
            found.append(DriverSign(beat, written[path]))
    return sorted(found, key=lambda sign: sign.heartbeat.beat_at, reverse=True)


def process_lives(beat: Heartbeat) -> bool | None:
    """Whether the process of a driver exists; None: it is of another machine, or the heartbeat does not tell."""
    stated = (beat.host, beat.boot, beat.pid_namespace)
    here = (socket.gethostname(), boot_id(), pid_namespace())
    if stated != here or not all(stated) or not beat.process_start:
        return None
    return process_start(beat.pid) == beat.process_start
