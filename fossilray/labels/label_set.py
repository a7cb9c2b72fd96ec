"""Label sets: rounds of labels that people gave to objects of runs, and the labels that follow from all rounds.

A label set is a folder of `labels.json` and one Parquet file per round, whose creation is its commit. A round is never
changed; a later round corrects its labels. An object is identified by slide_id, object_id and the attempt at its slide,
because a slide that is reprocessed has other objects under the same numbers.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fossilray.core.errors import StoreError, StoreUnreachable, UsageError
from fossilray.core.formats import FileRole, build_record, parse_json
from fossilray.core.formats.parquet import read_parquet_metadata, read_table, stated
from fossilray.core.records import utc_now
from fossilray.store.files.base import TEMPORARY
from fossilray.store.files.local import LocalFiles

LABELS_JSON = "labels.json"
LABEL_SET_FORMAT = "fossilray-labels/1"
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
"""One row per label: the object, the attempt that made it, the genus, the annotator, and the box in level-0 px."""

_FOOTER_KEY = b"fossilray"
_FIELD_OF_KEY = {"settles": "overrides"}
"""Fields of RoundRecord that the footer has under another key."""

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
    """The annotator."""
    box: tuple[int, ...]
    """x_min, y_min, x_max, y_max in level-0 px."""

    @property
    def key(self) -> ObjectKey:
        return (self.slide_id, self.object_id, self.attempt)


@dataclass(frozen=True)
class RoundRecord:
    """Record in the footer of a round's file."""

    number: int
    at: str
    """UTC, ISO 8601."""
    source: str
    """Name of the folder or file that the labels came from."""
    source_sha256: str
    run: str
    run_digest: str
    overrides: bool
    """Whether these labels replace those of all annotators for their objects; `settles` in the file."""
    labels: int


@dataclass(frozen=True)
class Conflict:
    """An object to which annotators gave different genera."""

    slide_id: str
    object_id: int
    names: tuple[tuple[str, str], ...]
    """(genus, annotator), oldest first."""

    @property
    def text(self) -> str:
        return f"{self.slide_id} #{self.object_id}: {self.names_text}"

    @property
    def names_text(self) -> str:
        return ", ".join(f"{genus} ({who})" for genus, who in self.names)


@dataclass(frozen=True)
class Labels:
    """Labels that follow from the rounds up to a version."""

    version: int
    consensus: Mapping[ObjectKey, Label]
    """Objects to which all annotators gave one genus, with the newest label of each."""
    conflicts: tuple[Conflict, ...]
    """Objects with different genera, sorted by key; they have no label until a round overrides them."""


class LabelSet:
    """The rounds of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = LocalFiles(folder, single_writer=False)

    @staticmethod
    def open(folder: Path) -> LabelSet:
        """Open the label set of a folder.

        Raises:
            UsageError: the folder does not hold a label set.
        """
        try:
            content = LocalFiles(folder, single_writer=False).read(LABELS_JSON)
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(
                f"{folder} holds no label set; `fossilray labels import … --to {folder}` creates one"
            ) from None
        role = FileRole(
            str(folder / LABELS_JSON),
            "the description of a label set",
            f'bring it back from a copy, or write {{"format": "{LABEL_SET_FORMAT}", "created_at": ""}} into it',
        )
        fields = parse_json(content, role)
        if not isinstance(fields, dict) or fields.get("format") != LABEL_SET_FORMAT:
            raise UsageError(
                f"{folder / LABELS_JSON} is not of the format {LABEL_SET_FORMAT}; name another folder"
            )
        return LabelSet(folder)

    @staticmethod
    def open_or_create(folder: Path) -> LabelSet:
        """Open the label set of a folder, or create one if the folder is empty or missing.

        Raises:
            UsageError: the folder holds something else.
        """
        if is_label_set(folder):
            return LabelSet.open(folder)
        created = LabelSet(folder)
        if folder.exists():
            if not folder.is_dir():
                raise UsageError(f"{folder} is a file; name a new or an empty folder")
            # Half-written files are left by an import that was killed; LABELS_JSON by one that has just started.
            if set(created._files.names("")) - {TEMPORARY, LABELS_JSON}:
                raise UsageError(f"{folder} holds other files than labels; name a new or an empty folder")
        text = json.dumps({"format": LABEL_SET_FORMAT, "created_at": utc_now()}, indent=2).encode() + b"\n"
        created._files.create(LABELS_JSON, text)
        return LabelSet.open(folder)

    def tidy(self) -> None:
        """Delete half-written files of imports that were killed."""
        self._files.tidy()

    def rounds(self) -> list[RoundRecord]:
        """Return the records of all rounds, in order.

        Raises:
            StoreError: a round's file is damaged.
        """
        return [self._read(number)[0] for number in self._numbers()]

    def damage(self) -> list[tuple[str, str]]:
        """Return every file that cannot be used, with the reason; all files are read.

        Raises:
            StoreUnreachable: the disk does not respond.
        """
        damaged = []
        try:
            LabelSet.open(self.folder)
        except StoreUnreachable:
            raise
        except (UsageError, StoreError) as error:
            damaged.append(
                (LABELS_JSON, str(error) if LABELS_JSON in str(error) else f"{LABELS_JSON}: {error}")
            )
        for number in self._numbers():
            try:
                self._read(number)
            except StoreUnreachable:
                raise
            except StoreError as error:
                damaged.append((_round_path(number), str(error)))
        return damaged

    def add(
        self,
        labels: Sequence[Label],
        *,
        source: str,
        source_sha256: str,
        run: str,
        run_digest: str,
        overrides: bool = False,
    ) -> RoundRecord:
        """Commit a round of labels and return its record; two processes that add at once get a round each."""
        number = max(self._numbers(), default=0)
        while True:
            number += 1
            record = RoundRecord(
                number, utc_now(), source, source_sha256, run, run_digest, overrides, len(labels)
            )
            if self._files.create(_round_path(number), _encode(labels, record)):
                return record

    def labels(self, *, version: int | None = None) -> Labels:
        """Merge the rounds up to a version; None: all rounds.

        An annotator's later label of an object replaces his earlier one. A round that overrides replaces the labels
        of all annotators.

        Raises:
            UsageError: the label set does not have the version.
            StoreError: a round's file is damaged.
        """
        numbers = self._numbers()
        newest = max(numbers, default=0)
        if version is not None and not 1 <= version <= newest:
            raise UsageError(f"{self.folder} has the versions 1 to {newest}, not {version}")
        by_object = self._merge(number for number in numbers if version is None or number <= version)
        consensus: dict[ObjectKey, Label] = {}
        conflicts = []
        for key in sorted(by_object):
            labels = list(by_object[key].values())
            if len({label.genus for label in labels}) == 1:
                consensus[key] = labels[-1]
            else:
                conflicts.append(
                    Conflict(key[0], key[1], tuple((label.genus, label.who) for label in labels))
                )
        return Labels(newest if version is None else version, consensus, tuple(conflicts))

    def labels_by_annotator(self) -> dict[tuple[ObjectKey, str], str]:
        """Return the current genus by object and annotator; an overridden label is left out."""
        by_object = self._merge(self._numbers())
        return {(key, who): label.genus for key, labels in by_object.items() for who, label in labels.items()}

    def _merge(self, numbers: Iterable[int]) -> dict[ObjectKey, dict[str, Label]]:
        """Return the current label of each annotator by object, the newest last."""
        by_object: dict[ObjectKey, dict[str, Label]] = {}
        for number in numbers:
            record, labels = self._read(number)
            for label in labels:
                by_annotator = by_object.setdefault(label.key, {})
                if record.overrides:
                    by_annotator.clear()
                by_annotator.pop(label.who, None)  # reinserted as the newest
                by_annotator[label.who] = label
        return by_object

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
            raise role.damaged("it is missing") from None
        fields = parse_json(stated(read_parquet_metadata(content, role), _FOOTER_KEY, role), role)
        if isinstance(fields, dict):
            fields = {_FIELD_OF_KEY.get(key, key): value for key, value in fields.items()}
        record = build_record(RoundRecord, fields, role)
        table = read_table(content, role, schema=ROUND_SCHEMA)
        if table.num_rows != record.labels:
            raise role.damaged(
                f"it has {table.num_rows:,} rows, and its footer counts {record.labels:,} labels"
            )
        rows = zip(*(table[name].to_pylist() for name in ROUND_SCHEMA.names), strict=True)
        return record, [Label(row[0], row[1], row[2], row[3], row[4], tuple(row[5:])) for row in rows]


def is_label_set(path: Path) -> bool:
    """Return whether a folder is a label set, not a folder of <class>/<image>."""
    return (path / LABELS_JSON).is_file()


def _round_path(number: int) -> str:
    return f"{ROUNDS}/{number:05d}.parquet"


def _encode(labels: Sequence[Label], record: RoundRecord) -> bytes:
    rows = [
        (label.slide_id, label.object_id, label.attempt, label.genus, label.who, *label.box)
        for label in labels
    ]
    columns = list(zip(*rows, strict=True)) or [()] * len(ROUND_SCHEMA)
    key_of_field = {field: key for key, field in _FIELD_OF_KEY.items()}
    fields = {key_of_field.get(name, name): value for name, value in asdict(record).items()}
    table = pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, ROUND_SCHEMA, strict=True)],
        schema=ROUND_SCHEMA.with_metadata({_FOOTER_KEY: json.dumps(fields, sort_keys=True).encode()}),
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()
