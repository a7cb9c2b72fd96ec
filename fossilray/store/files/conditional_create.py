"""The check at a run's start that the store creates a file only if it is absent."""

from __future__ import annotations

import secrets

from fossilray.store.files.base import PROBE_FILES, Files
from fossilray.store.files.faults import conditional_create_unsupported
from fossilray.store.files.local import LocalFiles
from fossilray.store.files.process_note import describe_maker


def check_conditional_create(files: Files) -> None:
    """Create a probe file twice, where no reader looks: every commit relies on the second attempt being refused.

    On a disk, half-written files and probes of ended processes are deleted first.

    Raises:
        ConditionalCreateUnsupported: the second create was accepted, or replaced the content of the first.
    """
    if isinstance(files, LocalFiles):
        files.tidy()
    path = f"{PROBE_FILES}/{secrets.token_hex(8)}"
    first, second = (describe_maker(nonce=secrets.token_hex(16)) for _ in range(2))
    # The result of the first is ignored: where its response is lost, a retry reports that the file exists.
    files.create(path, first)
    accepted = files.create(path, second)
    kept = files.read(path)
    files.delete(path)
    if accepted or kept != first:
        raise conditional_create_unsupported(files.url, "it overwrites one that is there")
