"""The trial at a run's start: does the store create a file only if it is absent?"""

from __future__ import annotations

import secrets

from fossilray.store.files.base import PROBE_FILES, Files
from fossilray.store.files.faults import conditional_create_unsupported


def check_conditional_create(files: Files) -> None:
    """Try the create-if-absent that commits rest on, where no reader looks.

    An answer that got lost on the way makes the first try look refused; what the store then holds tells.

    Raises:
        ConditionalCreateUnsupported: the second of two tries was accepted, or replaced what the first had written.
    """
    path = f"{PROBE_FILES}/{secrets.token_hex(8)}"
    first, second = secrets.token_bytes(16), secrets.token_bytes(16)
    files.create(path, first)
    accepted = files.create(path, second)
    kept = files.read(path)
    files.delete(path)
    if accepted or kept != first:
        raise conditional_create_unsupported(files.url, "it overwrites one that is there")
