"""Rounds of corrections to the samples of a run, kept in its directory.

A round is one Parquet file, whose creation is its commit; it is never changed. Each row gives one column of one slide
another value. The newest round that names a column of a slide counts.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq

from fossilray.core.errors import StoreError
from fossilray.core.formats import FileRole, build_record, parse_json
from fossilray.core.formats.parquet import read_parquet_metadata, read_table, stated
from fossilray.core.records import utc_now
from fossilray.core.slide_sample import NUMBER_COLUMNS, SAMPLE_COLUMNS
from fossilray.store.files.base import Files, read_many

SAMPLES = "samples"
"""Folder of a run directory."""

_FORMAT = "fossilray-samples/1"
_ROUND = re.compile(rf"{SAMPLES}/round-(\d{{5}})\.parquet")
_FOOTER_KEY = b"fossilray"
_CHANGES_SCHEMA = pa.schema(
    [
        pa.field("slide_id", pa.string(), nullable=False),
        pa.field("column", pa.string(), nullable=False),
        pa.field("was", pa.string()),
        pa.field("now", pa.string()),
    ]
)
"""Numbers are written as texts, so that a column of a later version is no other schema."""

SampleValue = str | float | None


@dataclass(frozen=True)
class SampleChange:
    """One value of one slide that a round replaces."""

    slide_id: str
    column: str
    was: SampleValue
    now: SampleValue


@dataclass(frozen=True)
class SampleRound:
    """A round of corrections."""

    number: int
    at: str
    """UTC, ISO 8601."""
    who: str
    source: str
    """Name of the file that the values came from."""
    source_sha256: str
    changes: tuple[SampleChange, ...]
    stored: int
    """Rows of the file, among them those of columns that only a later version of fossilray knows."""
    digest: str
    """The first 8 hexadecimal digits of the file's sha256, by which an export names the round that it is based on."""


@dataclass(frozen=True)
class _RoundFooter:
    format: str
    at: str
    who: str
    source: str
    source_sha256: str
    changes: int


class SampleRounds:
    """The rounds of a run, or of a compacted dataset and of the run that it was made of."""

    def __init__(
        self,
        files: Files,
        *,
        newer: Files | None = None,
        unread: Callable[[StoreError], None] = lambda error: None,
    ) -> None:
        """newer: files of the run that a dataset was made of, whose later rounds count too.

        unread: takes the error if these cannot be listed; the rounds of the dataset count then.
        """
        self._files = files
        self._newer = newer
        self._unread = unread
        self._read: tuple[SampleRound, ...] = ()

    def all(self) -> tuple[SampleRound, ...]:
        """Every round, the oldest first; rounds that this object read before are not read again.

        Raises:
            DamagedFile: a round's file is damaged or one is missing.
            StoreError: the store cannot be read.
        """
        paths = list_rounds(self._files)
        later: list[str] = []
        if self._newer is not None:
            try:
                later = list_rounds(self._newer)[len(paths) :]
            except StoreError as error:
                self._unread(error)
        # Threads that read at once find the same rounds.
        read = self._read
        known = len(read)
        if len(paths) + len(later) > known:
            contents = list(zip(paths[known:], read_many(self._files, paths[known:]), strict=True))
            if self._newer is not None:
                later = later[max(known - len(paths), 0) :]
                contents += zip(later, read_many(self._newer, later), strict=True)
            home = self._files if self._newer is None else self._newer
            read += tuple(parse_round(content, f"{home.url}/{path}") for path, content in contents)
            self._read = read
        return read

    def add(
        self,
        changes: Sequence[SampleChange],
        *,
        after: int,
        who: str,
        source: str,
        source_sha256: str,
    ) -> SampleRound | None:
        """Commit a round as the one that follows the round `after`; None if another process committed that first."""
        path = round_path(after + 1)
        content = _encode(changes, _RoundFooter(_FORMAT, utc_now(), who, source, source_sha256, len(changes)))
        # After a lost response a retry reports that the file exists; its content distinguishes the two.
        if not self._files.create(path, content) and self._files.read(path) != content:
            return None
        return parse_round(content, f"{self._files.url}/{path}")


def round_path(number: int) -> str:
    """The file of a round, relative to the run directory."""
    return f"{SAMPLES}/round-{number:05d}.parquet"


def is_round(path: str) -> bool:
    """Return whether a path is that of a round."""
    return _ROUND.fullmatch(path) is not None


def parse_round(content: bytes, name: str) -> SampleRound:
    """Parse the file of a round. name: its path or URL.

    Raises:
        DamagedFile: it is not one.
    """
    role = FileRole(
        name,
        "a round of corrections to samples",
        "bring it back from a copy, or delete it and all later rounds and import their tables again",
    )
    footer = build_record(
        _RoundFooter, parse_json(stated(read_parquet_metadata(content, role), _FOOTER_KEY, role), role), role
    )
    if footer.format != _FORMAT:
        raise role.damaged(f"it is of the format {footer.format:.40}, this fossilray reads {_FORMAT}")
    table = read_table(content, role, schema=_CHANGES_SCHEMA)
    if table.num_rows != footer.changes:
        raise role.damaged(
            f"it has {table.num_rows:,} rows, and its footer counts {footer.changes:,} changes"
        )
    columns = (table[name].to_pylist() for name in _CHANGES_SCHEMA.names)
    changes = tuple(
        SampleChange(slide_id, column, _parse(column, was, role), _parse(column, now, role))
        for slide_id, column, was, now in zip(*columns, strict=True)
        # A column of a later version is none of this one's business.
        if column in SAMPLE_COLUMNS
    )
    match = _ROUND.search(name)
    return SampleRound(
        number=int(match[1]) if match else 0,
        at=footer.at,
        who=footer.who,
        source=footer.source,
        source_sha256=footer.source_sha256,
        changes=changes,
        stored=table.num_rows,
        digest=hashlib.sha256(content).hexdigest()[:8],
    )


def shown_changes(rounds: Sequence[SampleRound]) -> Iterator[SampleRound]:
    """Yield the rounds without changes that leave a value as it was: a new top of a sample states its base again."""
    for round_ in rounds:
        yield replace(round_, changes=tuple(change for change in round_.changes if change.was != change.now))


def list_rounds(files: Files) -> list[str]:
    """The files of the rounds in order.

    Raises:
        StoreError: a round before the last one is missing.
    """
    paths = sorted(path for path in files.find(SAMPLES) if is_round(path))
    for number, path in enumerate(paths, start=1):
        if path != round_path(number):
            raise StoreError(
                f"{files.url}/{round_path(number)} is gone, although a later round of samples is there; bring it back "
                "from a copy"
            )
    return paths


def _parse(column: str, text: str | None, role: FileRole) -> SampleValue:
    if text is None or column not in NUMBER_COLUMNS:
        return text
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise role.damaged(f"{column} is {text!r:.40}, not a number")
    return value


def _encode(changes: Sequence[SampleChange], footer: _RoundFooter) -> bytes:
    def text(value: SampleValue) -> str | None:
        return repr(value) if isinstance(value, float) else value

    table = pa.table(
        {
            "slide_id": [change.slide_id for change in changes],
            "column": [change.column for change in changes],
            "was": pa.array([text(change.was) for change in changes], pa.string()),
            "now": pa.array([text(change.now) for change in changes], pa.string()),
        },
        schema=_CHANGES_SCHEMA.with_metadata(
            {_FOOTER_KEY: json.dumps(asdict(footer), sort_keys=True).encode()}
        ),
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()
