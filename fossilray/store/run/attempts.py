"""Tries at slides: begun, failed, forgiven; one small JSON file each, so that they outlive every process."""

from __future__ import annotations

import json
import secrets
import socket
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import chain

from fossilray.core.errors import DamagedFile
from fossilray.core.formats import build_record, parse_json
from fossilray.core.records import Attempt, Failure, utc_now
from fossilray.core.slide_names import check_slide_id
from fossilray.store.files.base import READ_THREADS, Files, read_present
from fossilray.store.run.layout import ATTEMPTS, attempt_path, cleared_path
from fossilray.store.run.roles import attempt_record

REJECTED_AT = "catalog"
"""Stage of files that were rejected before a worker saw them; every start looks at them again."""

_FAILED = "failed_at"
"""Tells a failure from the start of an attempt that it replaced."""

_FORGIVEN = "forgiven"
"""Tells a note of forgiven attempts from both."""


@dataclass(frozen=True)
class _Note:
    """Attempts whose failures count no longer."""

    slide_id: str
    forgiven: tuple[str, ...]
    forgiven_at: str


@dataclass(frozen=True)
class AttemptRecords:
    """What is known of the tries at some slides, each list by slide and time."""

    failures: list[Failure]
    """All of them, the forgiven ones included."""
    forgiven: frozenset[tuple[str, str]]
    """(slide_id, attempt) of failures that no longer count."""
    begun: list[Attempt]
    """Neither failed nor, where their slides are not committed, successful: in work, or their worker died."""
    written: Mapping[tuple[str, str], datetime] = field(default_factory=dict)
    """When each record was written, by the store's clock, by (slide_id, attempt)."""
    damaged: list[str] = field(default_factory=list)
    """What is wrong with files that are no such record, a sentence each; a store that tears writes may leave them."""


def begin_attempt(files: Files, slide_id: str, *, deadline_s: float) -> Attempt:
    """Record that this process now tries the slide; the attempt's id is random."""
    now = datetime.now(UTC)
    attempt = Attempt(
        slide_id=check_slide_id(slide_id),
        attempt=secrets.token_hex(8),
        host=socket.gethostname(),
        started_at=now.isoformat(timespec="seconds"),
        deadline_at=(now + timedelta(seconds=deadline_s)).isoformat(timespec="seconds"),
    )
    files.write(attempt_path(attempt), to_json(asdict(attempt)))
    return attempt


def record_failure(files: Files, failure: Failure) -> None:
    """Record why an attempt ended without a commit, in place of its start."""
    files.write(attempt_path(failure), to_json(asdict(failure)))


def clear_failures(files: Files, failures: Iterable[Failure]) -> None:
    """Note, one file per slide, that these failures count no longer; the failures themselves stay."""
    attempts: dict[str, set[str]] = defaultdict(set)
    for failure in failures:
        attempts[check_slide_id(failure.slide_id)].add(failure.attempt)

    def note(slide_id: str) -> None:
        stated = {"slide_id": slide_id, _FORGIVEN: sorted(attempts[slide_id]), "forgiven_at": utc_now()}
        files.write(cleared_path(slide_id, secrets.token_hex(8)), to_json(stated))

    with ThreadPoolExecutor(READ_THREADS) as writers:
        list(writers.map(note, sorted(attempts)))


def read_attempts(files: Files, slide_ids: Sequence[str]) -> AttemptRecords:
    """All records of these slides: one listing and its few files per slide."""
    with ThreadPoolExecutor(READ_THREADS) as readers:
        entries = chain.from_iterable(
            readers.map(lambda slide: files.entries(f"{ATTEMPTS}/{slide}"), slide_ids)
        )
        modified = {entry.path: entry.modified for entry in entries}
    found = AttemptRecords([], frozenset(), [])
    written: dict[tuple[str, str], datetime] = {}
    forgiven: set[tuple[str, str]] = set()
    for path, content in read_present(
        files, list(modified), lambda error: found.damaged.append(str(error))
    ).items():
        role = attempt_record(f"{files.url}/{path}")
        try:
            stated = parse_json(content, role)
            if isinstance(stated, dict) and _FORGIVEN in stated:
                note = build_record(_Note, stated, role)
                forgiven.update((note.slide_id, attempt) for attempt in note.forgiven)
            elif isinstance(stated, dict) and _FAILED in stated:
                found.failures.append(build_record(Failure, stated, role))
                written[stated["slide_id"], stated["attempt"]] = modified[path]
            else:
                found.begun.append(build_record(Attempt, stated, role))
                written[stated["slide_id"], stated["attempt"]] = modified[path]
        except DamagedFile as error:
            found.damaged.append(str(error))
    return AttemptRecords(
        failures=sorted(found.failures, key=lambda one: (one.slide_id, one.failed_at, one.attempt)),
        forgiven=frozenset(forgiven),
        begun=sorted(found.begun, key=lambda one: (one.slide_id, one.started_at, one.attempt)),
        written=written,
        damaged=sorted(found.damaged),
    )


def to_json(stated: Mapping[str, object]) -> bytes:
    """A record as a small JSON file that people can read."""
    return json.dumps(stated, indent=2).encode() + b"\n"
