"""Attempts at slides and heartbeats of drivers: one small JSON file each, so that they outlive every process."""

from __future__ import annotations

import json
import secrets
import socket
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import final

from fossilray.core.errors import DamagedFile
from fossilray.core.formats import build_record, parse_json
from fossilray.core.heartbeat import Heartbeat
from fossilray.core.records import Attempt, Failure, utc_now
from fossilray.core.slide_names import check_slide_id
from fossilray.store.files.base import READ_THREADS, Files, read_present
from fossilray.store.files.local import LocalFiles
from fossilray.store.run.drivers import DriverSign, read_signs
from fossilray.store.run.layout import ATTEMPTS, attempt_path, cleared_path, driver_path
from fossilray.store.run.left_out import LeftOut
from fossilray.store.run.roles import attempt_record

REJECTED_AT = "catalog"
"""Stage of files that were rejected before a worker opened them; every job checks them again."""

_FAILED = "failed_at"
"""A key that only failures have; a failure replaces the start of its attempt."""

_CLEARED = "forgiven"
"""A key that only notes of cleared failures have."""


@dataclass(frozen=True)
class _ClearedNote:
    """A file that clears failures of one slide; the field names are those on disk."""

    slide_id: str
    forgiven: tuple[str, ...]
    """Attempts whose failures no longer count."""
    forgiven_at: str


@dataclass(frozen=True)
class AttemptRecords:
    """Records of attempts at some slides, each list by slide and time."""

    failures: list[Failure]
    """All failures, cleared ones included."""
    cleared: frozenset[tuple[str, str]]
    """(slide_id, attempt) of failures that no longer count."""
    started: list[Attempt]
    """Attempts without an end on record: they are in progress, or their worker died."""
    written: Mapping[tuple[str, str], datetime] = field(default_factory=dict)
    """Time at which the store received each record, by (slide_id, attempt)."""
    damaged: list[str] = field(default_factory=list)
    """One sentence for each file that is not such a record."""


@final
class AttemptLog:
    """Started, failed and cleared attempts, and drivers' heartbeats, of a run, of derived results or of an index.

    Cheap to open, safe to share between threads. A record is written whole or not at all, and a reader passes over
    damaged ones and notes them in `left_out`.
    """

    def __init__(
        self,
        files: Files,
        committed: Callable[[], Set[str]],
        *,
        left_out: LeftOut | None = None,
        read: Callable[[], AttemptRecords] | None = None,
    ) -> None:
        """files: the folder that holds `attempts/` and `drivers/`. committed: lists the slides (of an index: the
        shards) that are committed; records of these are not read. read: reads the records of all other slides where
        they are not in `attempts/`, as those of a compacted dataset."""
        self.files = files
        self.committed = committed
        self._read = read
        self.left_out = left_out or LeftOut()
        """Damaged files that were passed over."""

    @property
    def url(self) -> str:
        """The folder with its protocol; a plain absolute path on a disk."""
        return self.files.url

    def start(self, slide_id: str, *, deadline_s: float) -> Attempt:
        """Record that this process starts an attempt at the slide; the attempt's id is random."""
        now = datetime.now(UTC)
        attempt = Attempt(
            slide_id=check_slide_id(slide_id),
            attempt=secrets.token_hex(8),
            host=socket.gethostname(),
            started_at=now.isoformat(timespec="seconds"),
            deadline_at=(now + timedelta(seconds=deadline_s)).isoformat(timespec="seconds"),
        )
        self.files.write(attempt_path(attempt), to_json(asdict(attempt)))
        return attempt

    def record_failure(self, failure: Failure) -> None:
        """Record why an attempt ended without a commit; replaces the record of its start."""
        self.files.write(attempt_path(failure), to_json(asdict(failure)))

    def records(self) -> AttemptRecords:
        """Read all records of slides that are not committed.

        Attempts at committed slides, nearly all in the end, are not even listed.
        """
        if self._read is not None:
            return self._read()
        slide_ids = sorted(set(self.files.names(ATTEMPTS)) - self.committed())
        records = read_attempts(self.files, slide_ids)
        for message in records.damaged:
            self.left_out.add(DamagedFile(message))
        return records

    def failures(self, *, include_cleared: bool = False) -> list[Failure]:
        """Failed attempts at slides that are not committed, by slide_id and time."""
        records = self.records()
        return [
            failure
            for failure in records.failures
            if include_cleared or (failure.slide_id, failure.attempt) not in records.cleared
        ]

    def running(self) -> list[Attempt]:
        """Attempts at uncommitted slides without an end on record: in progress, or their worker died."""
        return self.records().started

    def clear_failures(self, failures: Sequence[Failure]) -> None:
        """Note, one file per slide, that these failures no longer count; the failures themselves stay on record."""
        if isinstance(self.files, LocalFiles):
            self.files.tidy()
        attempts: dict[str, set[str]] = defaultdict(set)
        for failure in failures:
            attempts[check_slide_id(failure.slide_id)].add(failure.attempt)

        def note(slide_id: str) -> None:
            cleared = _ClearedNote(slide_id, tuple(sorted(attempts[slide_id])), utc_now())
            self.files.write(cleared_path(slide_id, secrets.token_hex(8)), to_json(asdict(cleared)))

        with ThreadPoolExecutor(READ_THREADS) as writers:
            list(writers.map(note, sorted(attempts)))

    def write_heartbeat(self, heartbeat: Heartbeat) -> None:
        """Write a driver's heartbeat in place of its last one."""
        self.files.write(driver_path(heartbeat.driver_id), to_json(asdict(heartbeat)))

    def heartbeats(self) -> list[Heartbeat]:
        """The last heartbeat of every driver, the latest first."""
        return [sign.heartbeat for sign in self.driver_signs()]

    def driver_signs(self) -> list[DriverSign]:
        """`heartbeats`, each with the time at which the store received it."""
        return read_signs(self.files, self.left_out)


def read_attempts(files: Files, slide_ids: Sequence[str]) -> AttemptRecords:
    """Read all records of these slides: one listing per slide, and its few files."""
    with ThreadPoolExecutor(READ_THREADS) as readers:
        entries = chain.from_iterable(
            readers.map(lambda slide: files.entries(f"{ATTEMPTS}/{slide}"), slide_ids)
        )
        modified = {entry.path: entry.modified for entry in entries}
    failures: list[Failure] = []
    started: list[Attempt] = []
    damaged: list[str] = []
    written: dict[tuple[str, str], datetime] = {}
    cleared: set[tuple[str, str]] = set()
    contents = read_present(files, list(modified), lambda error: damaged.append(str(error)))
    for path, content in contents.items():
        role = attempt_record(f"{files.url}/{path}")
        try:
            fields = parse_json(content, role)
            keys = fields.keys() if isinstance(fields, dict) else ()
            if _CLEARED in keys:
                note = build_record(_ClearedNote, fields, role)
                cleared.update((note.slide_id, attempt) for attempt in note.forgiven)
            elif _FAILED in keys:
                failures.append(build_record(Failure, fields, role))
                written[fields["slide_id"], fields["attempt"]] = modified[path]
            else:
                started.append(build_record(Attempt, fields, role))
                written[fields["slide_id"], fields["attempt"]] = modified[path]
        except DamagedFile as error:
            damaged.append(str(error))
    return AttemptRecords(
        failures=sorted(failures, key=lambda failure: (failure.slide_id, failure.failed_at, failure.attempt)),
        cleared=frozenset(cleared),
        started=sorted(started, key=lambda attempt: (attempt.slide_id, attempt.started_at, attempt.attempt)),
        written=written,
        damaged=sorted(damaged),
    )


def to_json(fields: Mapping[str, object]) -> bytes:
    """Encode a record as a small JSON file that people can read."""
    return json.dumps(fields, indent=2).encode() + b"\n"
