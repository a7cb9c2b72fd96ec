"""Notes in a store that name a process, so that another process can find out whether it still runs."""

from __future__ import annotations

import json
import os

from fossilray.core.machine import boot_id, is_running, pid_namespace, process_start


def describe_maker(**details: str) -> bytes:
    """Encode a note that names this process, for a file beside what it makes; `has_ended` reads it."""
    note = {"machine": this_machine(), "process": process_identity(os.getpid()), **details}
    return json.dumps(note).encode() + b"\n"


def has_ended(note: bytes) -> bool:
    """Return whether the process that a note names is known to have ended: it ran on this machine, and is gone."""
    try:
        stated = json.loads(note)
        machine, process = str(stated["machine"]), str(stated["process"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return False
    number = process.split("@", maxsplit=1)[0]
    if not machine or machine != this_machine() or not number.isdecimal():
        return False
    running = process_identity(int(number))
    return running != process and (bool(running) or not is_running(int(number)))


def this_machine() -> str:
    """Return this boot of this machine and its namespace of process ids; empty where the system reports neither."""
    boot, namespace = boot_id(), pid_namespace()
    return f"{boot}/{namespace}" if boot and namespace else ""


def process_identity(number: int) -> str:
    """Return a process id with the start time of its process, so that a reused id differs; empty if it has ended."""
    started = process_start(number)
    if not started:
        return str(number) if not this_machine() else ""
    return f"{number}@{started}"
