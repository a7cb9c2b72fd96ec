"""The run directory: what lies where, and the rules by which it changes.

There are no locks: a commit is one create-if-absent, everything before it bears its attempt's random name.
"""

from __future__ import annotations

import io
import json
import secrets
import socket
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from fossilray.config import StoreConfig
from fossilray.errors import (
    AttemptExpired,
    CatalogError,
    NoConditionalCreate,
    RunMismatch,
    RunNotFound,
)
from fossilray.records import (
    CATALOG_SCHEMA,
    SLIDES_SCHEMA,
    ArrayFiles,
    Attempt,
    CatalogRow,
    Failure,
    Heartbeat,
    SlideSummary,
)
from fossilray.store.files import READ_THREADS, Files, open_files, read_many
from fossilray.store.layout import (
    RUN_JSON,
    arrays_path,
    attempt_path,
    catalog_part_path,
    check_slide_id,
    driver_path,
    objects_path,
    part_number,
    part_path,
    picture_path,
    slide_of,
)
from fossilray.store.objects_file import Footer, encode_objects, read_footer
from fossilray.store.run_record import RunRecord

_FAILED = "failed_at"
"""Tells a failure from the start of an attempt that it replaced."""


class RunStore:
    """One run directory; cheap to open, safe to share between threads."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self._run: RunRecord | None = None

    @staticmethod
    def open(url: str, config: StoreConfig | None = None) -> RunStore:
        """The run directory at a local path or an s3:// address; nothing is read or written yet.

        Raises:
            StoreError: nobody knows how to reach such an address.
        """
        return RunStore(open_files(url, config or StoreConfig()))

    @property
    def url(self) -> str:
        """The directory with its protocol; a plain absolute path on a disk."""
        return self.files.url

    @property
    def root(self) -> str:
        """The directory as `filesystem` names it."""
        return self.files.root

    @property
    def filesystem(self) -> fsspec.AbstractFileSystem:
        return self.files.filesystem

    def objects_glob(self) -> str:
        """The glob that shows every committed slide, for DuckDB."""
        return f"{self.url}/objects/*/*.parquet"

    # The run and its catalog

    def create_or_check(self, run: RunRecord) -> None:
        """Start the run here, or make sure that the one here gives the same results.

        Raises:
            RunMismatch: the run here differs; the message lists each field.
            NoConditionalCreate: the store would let two workers commit one slide.
            StoreError: the directory cannot be written.
        """
        self._probe()
        if not self.files.create(RUN_JSON, run.to_json()):
            differences = self.read_run().differences(run)
            if differences:
                raise RunMismatch(
                    f"{self.url} was started with other settings, so its results would not match: "
                    + "; ".join(differences)
                    + "; use the same settings or another run directory"
                )

    def read_run(self) -> RunRecord:
        """What the run was started with.

        Raises:
            RunNotFound: no run was started here.
        """
        if self._run is None:
            try:
                self._run = RunRecord.from_json(self.files.read(RUN_JSON))
            except FileNotFoundError:
                raise RunNotFound(
                    f"{self.url} holds no run (no run.json); check the path, or start one with `fossilray process`"
                ) from None
        return self._run

    def freeze_catalog(self, rows: Sequence[CatalogRow]) -> list[CatalogRow]:
        """Add slides the catalog does not hold yet; all its rows, old ones as first written, by slide_id.

        A field that the new row leaves None takes the frozen value.

        Raises:
            CatalogError: a slide is there twice, is unsafely named, or differs from its frozen row.
        """
        asked = _by_slide_id(rows)
        while True:
            rows_there, next_part = self._read_catalog()
            frozen = {row.slide_id: row for row in rows_there}
            for slide_id in asked.keys() & frozen.keys():
                _check_unchanged(frozen[slide_id], asked[slide_id])
            added = [asked[slide_id] for slide_id in sorted(asked.keys() - frozen.keys())]
            if not added:
                return [frozen[slide_id] for slide_id in sorted(frozen)]
            # Another driver may add at the same time; whoever comes second reads again what is there.
            self.files.create(catalog_part_path(next_part), _to_parquet(added, CATALOG_SCHEMA))

    def read_catalog(self) -> list[CatalogRow]:
        """The frozen catalog by slide_id; empty if there is none yet."""
        return sorted(self._read_catalog()[0], key=lambda row: row.slide_id)

    # One slide

    def begin_attempt(self, slide_id: str, *, deadline_s: float) -> Attempt:
        """Record that this process now tries the slide; the attempt's id is random."""
        now = datetime.now(UTC)
        attempt = Attempt(
            slide_id=check_slide_id(slide_id),
            attempt=secrets.token_hex(8),
            host=socket.gethostname(),
            started_at=now.isoformat(timespec="seconds"),
            deadline_at=(now + timedelta(seconds=deadline_s)).isoformat(timespec="seconds"),
        )
        self.files.write(attempt_path(attempt), _to_json(asdict(attempt)))
        return attempt

    def record_failure(self, failure: Failure) -> None:
        """Record why an attempt ended without a commit, in place of its start."""
        self.files.write(attempt_path(failure), _to_json(asdict(failure)))

    def commit_slide(
        self, table: pa.Table, summary: SlideSummary, files: ArrayFiles, *, attempt: Attempt | None = None
    ) -> bool:
        """Commit the slide; False if somebody else's attempt was first, whose slide then stands.

        table: OBJECTS_SCHEMA, in row order. A defeated attempt's arrays are deleted.

        Raises:
            AttemptExpired: `attempt` is past its deadline; nothing was committed.
            RunNotFound: no run was started here.
        """
        run_digest = self.read_run().digest
        path = objects_path(summary.slide_id, summary.well)
        content = encode_objects(table, summary, files, run_digest=run_digest)
        if attempt is not None and datetime.now(UTC) > datetime.fromisoformat(attempt.deadline_at):
            raise AttemptExpired(
                f"{summary.slide_id}: attempt {summary.attempt} ended after its deadline {attempt.deadline_at}; "
                "raise workers.deadline_minutes if slides need longer"
            )
        # An answer that got lost makes our own commit look like somebody else's; its footer tells.
        if self.files.create(path, content) or self._footer(path).attempt == summary.attempt:
            return True
        self.sweep_attempt(summary.slide_id, summary.attempt)
        return False

    def sweep_attempt(self, slide_id: str, attempt: str) -> None:
        """Delete the arrays of one attempt that will not commit."""
        self.files.delete(arrays_path(slide_id, attempt))

    def write_picture(self, slide_id: str, jpeg: bytes) -> None:
        """Keep a slide's small picture."""
        self.files.write(picture_path(slide_id), jpeg)

    def picture(self, slide_id: str) -> bytes | None:
        """A slide's small picture as JPEG, if there is one."""
        try:
            return self.files.read(picture_path(slide_id))
        except FileNotFoundError:
            return None

    # All slides

    def committed(self) -> set[str]:
        """slide_ids of all committed slides, over all wells, from one listing."""
        return set(self.committed_files())

    def committed_files(self) -> dict[str, str]:
        """The objects file of each committed slide, relative to the run directory, by slide_id."""
        return {slide_of(path): path for path in self.files.find("objects") if path.endswith(".parquet")}

    def footer(self, slide_id: str) -> Footer | None:
        """Summary, array checksums and provenance of a slide; None if it is not committed."""
        path = self.committed_files().get(slide_id)
        return None if path is None else self._footer(path)

    def failures(self) -> list[Failure]:
        """Failed attempts at slides that are not committed, by slide_id and time."""
        found = [Failure(**stated) for stated in self._attempts() if _FAILED in stated]
        return sorted(found, key=lambda failure: (failure.slide_id, failure.failed_at, failure.attempt))

    def open_attempts(self) -> list[Attempt]:
        """Attempts at uncommitted slides that neither committed nor failed: in flight, or their worker died."""
        found = [Attempt(**stated) for stated in self._attempts() if _FAILED not in stated]
        return sorted(found, key=lambda attempt: (attempt.slide_id, attempt.started_at, attempt.attempt))

    def append_summaries(self, rows: Sequence[SlideSummary]) -> None:
        """Gather summaries of committed slides in a new part of slides/, so that readers need no footers."""
        if not rows:
            return
        content = _to_parquet(rows, SLIDES_SCHEMA)
        parts = self._parts()
        number = part_number(parts[-1]) + 1 if parts else 0
        while not self.files.create(part_path(number), content):
            number += 1

    def summaries(self) -> list[SlideSummary]:
        """One summary of every committed slide, by slide_id: from slides/, else from its own footer."""
        return [SlideSummary(**row) for row in self.summaries_table().to_pylist()]

    def summaries_table(self) -> pa.Table:
        """`summaries` as SLIDES_SCHEMA."""
        committed = self.committed_files()
        parts = [pq.read_table(io.BytesIO(content)) for content in read_many(self.files, self._parts())]
        table = pa.concat_tables([SLIDES_SCHEMA.empty_table(), *parts])
        gathered = set(table["slide_id"].to_pylist())
        footers = self._footers([path for slide_id, path in committed.items() if slide_id not in gathered])
        rest = _to_table([footer.summary for footer in footers], SLIDES_SCHEMA)
        table = pa.concat_tables([table, rest])
        # A slide that is in several parts counts as the last of them says.
        row_of = {slide_id: row for row, slide_id in enumerate(table["slide_id"].to_pylist())}
        return table.take(pa.array([row_of[slide_id] for slide_id in sorted(committed)], pa.int64()))

    def rebuild_summaries(self) -> int:
        """Write slides/ anew from the footers of all committed slides; how many there are."""
        old = self._parts()
        footers = self._footers(list(self.committed_files().values()))
        self.append_summaries(sorted((footer.summary for footer in footers), key=lambda row: row.slide_id))
        # The new part counts above the old ones, so readers agree with it even before these are gone.
        for part in old:
            self.files.delete(part)
        return len(footers)

    # Drivers

    def write_heartbeat(self, heartbeat: Heartbeat) -> None:
        """Say that a driver lives and what it has in hand."""
        self.files.write(driver_path(heartbeat.driver_id), _to_json(asdict(heartbeat)))

    def heartbeats(self) -> list[Heartbeat]:
        """The last sign of every driver, the latest first."""
        stated = [json.loads(text) for text in read_many(self.files, self.files.find("drivers"))]
        found = [Heartbeat(**{**one, "in_flight": tuple(one["in_flight"])}) for one in stated]
        return sorted(found, key=lambda heartbeat: heartbeat.beat_at, reverse=True)

    # Helpers

    def _probe(self) -> None:
        """Try the create-if-absent that commits rest on, where no reader looks."""
        path = f".probe/{secrets.token_hex(8)}"
        first, second = self.files.create(path, b"first"), self.files.create(path, b"second")
        kept = self.files.read(path)
        self.files.delete(path)
        if not first or second or kept != b"first":
            raise NoConditionalCreate(
                f"{self.url} overwrites a file that was to be created only if absent, so two workers could both "
                "commit a slide; use another store, or promise with --single-writer that one driver alone commits"
            )

    def _footer(self, path: str) -> Footer:
        return read_footer(lambda size: self.files.read_tail(path, size), name=f"{self.url}/{path}")

    def _footers(self, paths: Sequence[str]) -> list[Footer]:
        with ThreadPoolExecutor(READ_THREADS) as readers:
            return list(readers.map(self._footer, paths))

    def _attempts(self) -> list[dict[str, Any]]:
        """Attempts at uncommitted slides; those of committed ones, nearly all, are not even listed."""
        slides = sorted(set(self.files.names("attempts")) - self.committed())
        with ThreadPoolExecutor(READ_THREADS) as readers:
            paths = chain.from_iterable(
                readers.map(lambda slide: self.files.find(f"attempts/{slide}"), slides)
            )
        return [json.loads(text) for text in read_many(self.files, list(paths))]

    def _read_catalog(self) -> tuple[list[CatalogRow], int]:
        """All frozen rows, and the number of the part that comes next."""
        try:
            contents = [self.files.read(catalog_part_path(0))]
        except FileNotFoundError:
            return [], 0
        additions = sorted(self.files.find("catalog"), key=part_number)
        contents += read_many(self.files, additions)
        tables = [pq.read_table(io.BytesIO(content)) for content in contents]
        rows = [CatalogRow(**row) for table in tables for row in table.to_pylist()]
        return rows, part_number(additions[-1]) + 1 if additions else 1

    def _parts(self) -> list[str]:
        return sorted((path for path in self.files.find("slides") if part_number(path) >= 0), key=part_number)


def _by_slide_id(rows: Iterable[CatalogRow]) -> dict[str, CatalogRow]:
    found: dict[str, CatalogRow] = {}
    for row in rows:
        if found.setdefault(check_slide_id(row.slide_id), row) is not row:
            raise CatalogError(
                f"slide_id {row.slide_id} stands for {found[row.slide_id].path} and {row.path}; give each slide "
                "an id of its own"
            )
    return found


def _check_unchanged(frozen: CatalogRow, asked: CatalogRow) -> None:
    for field in fields(CatalogRow):
        old, new = getattr(frozen, field.name), getattr(asked, field.name)
        if new is not None and new != old:
            raise CatalogError(
                f"slide {frozen.slide_id}: {field.name} is {old!r} in this run and {new!r} in the catalog now; "
                "a run's slides may be added to but not changed: use the old value or another run directory"
            )


def _to_parquet(rows: Sequence[CatalogRow] | Sequence[SlideSummary], schema: pa.Schema) -> bytes:
    sink = io.BytesIO()
    pq.write_table(_to_table(rows, schema), sink, compression="zstd")
    return sink.getvalue()


def _to_table(rows: Sequence[CatalogRow] | Sequence[SlideSummary], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=schema)


def _to_json(stated: dict[str, object]) -> bytes:
    return json.dumps(stated, indent=2).encode() + b"\n"
