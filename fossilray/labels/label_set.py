"""Labels that people gave to objects of runs: rounds that are only ever added, and what all of them say together.

A label set is a folder: `labels.json`, and one Parquet file a round, whose creation is its commit. No round is ever
changed; a label is corrected by a later one. An object is (slide_id, object_id) of one attempt at its slide, for a
slide that is made anew has other objects under the same numbers.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fossilray.core.errors import StoreError, StoreUnreachable, UsageError
from fossilray.core.formats import FileRole, parse_json, parse_record
from fossilray.core.formats.parquet import read_metadata, read_table, stated
from fossilray.core.records import utc_now
from fossilray.store.files.base import TEMPORARY
from fossilray.store.files.local import LocalFiles

LABELS_JSON = "labels.json"
FORMAT = "fossilray-labels/1"
ROUNDS = "rounds"

ROUND_SCHEMA = pa.schema(
    [
        pa.field(name, kind, nullable=False)
        for name, kind in (
            ("slide_id", pa.string()),
            ("object_id", pa.int32()),
            ("attempt", pa.string()),
            ("genus", pa.string()),
            ("who", pa.string()),
            *((side, pa.int32()) for side in ("x_min", "y_min", "x_max", "y_max")),
        )
    ]
)
"""One row a label: the object, the attempt that made it, its box in level-0 px, and who called it what."""

_FOOTER_KEY = b"fossilray"

ObjectKey = tuple[str, int, str]
"""slide_id, object_id, attempt."""


@dataclass(frozen=True)
class Label:
    """One label of one object."""

    slide_id: str
    object_id: int
    attempt: str
    genus: str
    who: str
    box: tuple[int, ...]
    """x_min, y_min, x_max, y_max."""

    @property
    def key(self) -> ObjectKey:
        return (self.slide_id, self.object_id, self.attempt)


@dataclass(frozen=True)
class RoundRecord:
    """What a round says of itself, in its file's footer."""

    number: int
    at: str
    """UTC, ISO 8601."""
    source: str
    """Name of the folder or file the labels came from."""
    source_sha256: str
    run: str
    run_digest: str
    settles: bool
    """Whether these labels overrule what anybody said of their objects before."""
    labels: int


@dataclass(frozen=True)
class Conflict:
    """One object under two names: who says which, oldest first."""

    slide_id: str
    object_id: int
    said: tuple[tuple[str, str], ...]
    """(genus, who)."""

    @property
    def text(self) -> str:
        named = ", ".join(f"{genus} ({who})" for genus, who in self.said)
        return f"{self.slide_id} #{self.object_id}: {named}"


@dataclass(frozen=True)
class Labels:
    """What the rounds up to a version say together."""

    version: int
    agreed: Mapping[ObjectKey, Label]
    """Objects that bear one name, with the newest label of each."""
    conflicts: tuple[Conflict, ...]
    """Objects that people call differently, in the order of their names; nobody is right until one settles it."""


class LabelSet:
    """The rounds of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = LocalFiles(folder, single_writer=False)

    @staticmethod
    def open(folder: Path) -> LabelSet:
        """The label set of a folder.

        Raises:
            UsageError: the folder holds none.
        """
        try:
            content = LocalFiles(folder, single_writer=False).read(LABELS_JSON)
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(
                f"{folder} holds no label set; `fossilray labels import … --to {folder}` begins one"
            ) from None
        role = FileRole(
            str(folder / LABELS_JSON),
            "the mark of a label set",
            f'bring it back from a copy, or write {{"format": "{FORMAT}", "created_at": ""}} into it',
        )
        found = parse_json(content, role)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise UsageError(f"{folder / LABELS_JSON} is not of the format {FORMAT}; name another folder")
        return LabelSet(folder)

    @staticmethod
    def open_or_create(folder: Path) -> LabelSet:
        """The label set of a folder, begun where the folder is empty or absent.

        Raises:
            UsageError: the folder holds something else.
        """
        if is_label_set(folder):
            return LabelSet.open(folder)
        begun = LabelSet(folder)
        if folder.exists():
            if not folder.is_dir():
                raise UsageError(f"{folder} is a file; name a new or an empty folder")
            # Half-written files of an import that was killed are nothing; LABELS_JSON is of one that begins just now.
            if set(begun._files.names("")) - {TEMPORARY, LABELS_JSON}:
                raise UsageError(f"{folder} holds something else than labels; name a new or an empty folder")
        text = json.dumps({"format": FORMAT, "created_at": utc_now()}, indent=2).encode() + b"\n"
        begun._files.create(LABELS_JSON, text)
        return LabelSet.open(folder)

    def tidy(self) -> None:
        """Delete half-written files of imports that were killed."""
        self._files.tidy()

    def rounds(self) -> list[RoundRecord]:
        """What every round says of itself, in their order.

        Raises:
            StoreError: a round's file is damaged.
        """
        return [self._read(number)[0] for number in self._numbers()]

    def damage(self) -> list[tuple[str, str]]:
        """Each file that cannot be used, and what is said of it; all others are read too.

        Raises:
            StoreUnreachable: the disk does not answer.
        """
        found = []
        try:
            LabelSet.open(self.folder)
        except StoreUnreachable:
            raise
        except (UsageError, StoreError) as error:
            found.append(
                (LABELS_JSON, str(error) if LABELS_JSON in str(error) else f"{LABELS_JSON}: {error}")
            )
        for number in self._numbers():
            try:
                self._read(number)
            except StoreUnreachable:
                raise
            except StoreError as error:
                found.append((_round_path(number), str(error)))
        return found

    def add(
        self,
        labels: Sequence[Label],
        *,
        source: str,
        source_sha256: str,
        run: str,
        run_digest: str,
        settles: bool = False,
    ) -> RoundRecord:
        """Commit a round of labels; what it says of itself. Of two who add at once, both get a round of their own."""
        number = max(self._numbers(), default=0)
        while True:
            number += 1
            record = RoundRecord(
                number, utc_now(), source, source_sha256, run, run_digest, settles, len(labels)
            )
            if self._files.create(_round_path(number), _encode(labels, record)):
                return record

    def labels(self, *, version: int | None = None) -> Labels:
        """What the rounds up to one say together; None: all of them.

        A person's later label of an object takes the place of the earlier one. A round that settles takes the place
        of everybody's.

        Raises:
            UsageError: there is no such version.
            StoreError: a round's file is damaged.
        """
        numbers = self._numbers()
        newest = max(numbers, default=0)
        if version is not None and not 1 <= version <= newest:
            raise UsageError(f"{self.folder} has the versions 1 to {newest}, and {version} was asked for")
        said: dict[ObjectKey, dict[str, Label]] = {}
        for number in numbers:
            if version is not None and number > version:
                break
            record, labels = self._read(number)
            for one in labels:
                by = said.setdefault(one.key, {})
                if record.settles:
                    by.clear()
                by.pop(one.who, None)  # so that the newest stands last
                by[one.who] = one
        agreed: dict[ObjectKey, Label] = {}
        conflicts = []
        for key in sorted(said):
            given = list(said[key].values())
            if len({one.genus for one in given}) == 1:
                agreed[key] = given[-1]
            else:
                conflicts.append(Conflict(key[0], key[1], tuple((one.genus, one.who) for one in given)))
        return Labels(newest if version is None else version, agreed, tuple(conflicts))

    def said_by(self) -> dict[tuple[ObjectKey, str], str]:
        """The genus that stands for each object and person, settled ones for whoever settled them."""
        said: dict[ObjectKey, dict[str, str]] = {}
        for number in self._numbers():
            record, labels = self._read(number)
            for one in labels:
                by = said.setdefault(one.key, {})
                if record.settles:
                    by.clear()
                by[one.who] = one.genus
        return {(key, who): genus for key, by in said.items() for who, genus in by.items()}

    def _numbers(self) -> list[int]:
        stems = [name.removesuffix(".parquet") for name in self._files.names(ROUNDS)]
        return sorted(int(stem) for stem in stems if stem.isdigit())

    def _read(self, number: int) -> tuple[RoundRecord, list[Label]]:
        path = _round_path(number)
        role = FileRole(
            str(self.folder / path),
            "a round of labels",
            "bring it back from a copy, or remove it and import its labels again",
        )
        try:
            content = self._files.read(path)
        except FileNotFoundError:
            raise role.damaged("it is gone") from None
        footer = stated(read_metadata(content, role), _FOOTER_KEY, role)
        record = parse_record(RoundRecord, footer, role)
        table = read_table(content, role, schema=ROUND_SCHEMA)
        if table.num_rows != record.labels:
            raise role.damaged(
                f"it has {table.num_rows:,} rows, and its footer counts {record.labels:,} labels"
            )
        rows = zip(*(table[name].to_pylist() for name in ROUND_SCHEMA.names), strict=True)
        return record, [Label(row[0], row[1], row[2], row[3], row[4], tuple(row[5:])) for row in rows]


def is_label_set(path: Path) -> bool:
    """Whether a folder is a label set rather than a folder of <class>/<image>."""
    return (path / LABELS_JSON).is_file()


def _round_path(number: int) -> str:
    return f"{ROUNDS}/{number:05d}.parquet"


def _encode(labels: Sequence[Label], record: RoundRecord) -> bytes:
    rows = [(one.slide_id, one.object_id, one.attempt, one.genus, one.who, *one.box) for one in labels]
    columns = list(zip(*rows, strict=True)) or [()] * len(ROUND_SCHEMA)
    table = pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, ROUND_SCHEMA, strict=True)],
        schema=ROUND_SCHEMA.with_metadata({_FOOTER_KEY: json.dumps(asdict(record), sort_keys=True).encode()}),
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()
