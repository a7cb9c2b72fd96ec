"""Heartbeats of drivers, each with the time at which the store received it."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from fossilray.records import Heartbeat
from fossilray.store.files import Files, read_present

DRIVERS = "drivers"


@dataclass(frozen=True)
class DriverSign:
    """The last heartbeat of a driver."""

    heartbeat: Heartbeat
    written_at: datetime
    """UTC, by the store's clock; `heartbeat.beat_at` is by the clock of the driver's host."""


def read_signs(files: Files) -> list[DriverSign]:
    """The last heartbeat of every driver, the latest first."""
    written = {entry.path: entry.modified for entry in files.entries(DRIVERS)}
    found = []
    for path, content in read_present(files, sorted(written)).items():
        # A torn file of a driver that died is no reason to hide those that live.
        with suppress(ValueError, TypeError, KeyError):
            stated = json.loads(content)
            lists = {name: tuple(stated.get(name, ())) for name in ("in_flight", "out")}
            beat = Heartbeat(**{**stated, **lists})
            datetime.fromisoformat(beat.beat_at), datetime.fromisoformat(beat.started_at)
            found.append(DriverSign(beat, written[path]))
    return sorted(found, key=lambda sign: sign.heartbeat.beat_at, reverse=True)
