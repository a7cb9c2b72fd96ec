"""Label sets: rounds of labels that people gave to objects of runs, and the labels that follow from all rounds.

A label set is a folder of `labels.json` and one Parquet file per round, whose creation is its commit. A round is never
changed; a later round corrects its labels. An object is identified by slide_id, object_id and the attempt at its slide,
because a slide that is reprocessed has other objects under the same numbers; `matching` finds them again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fossilray.core.boxes import box_iou
from fossilray.core.errors import StoreError, StoreUnreachable, UsageError
from fossilray.core.formats import FileRole, parse_json
from fossilray.core.records import utc_now
from fossilray.labels.agreement import Naming, agree
from fossilray.labels.label import MISSED, Label, ObjectKey
from fossilray.labels.rounds import RoundRecord, decode_round, encode_round
from fossilray.store.files.base import TEMPORARY
from fossilray.store.files.local import LocalFiles

LABELS_JSON = "labels.json"
LABEL_SET_FORMATS = ("fossilray-labels/1", "fossilray-labels/2")
"""The first had rounds of a genus per object; a set of it takes rounds of the second, too."""
ROUNDS = "rounds"
MATCH_IOU = 0.5
"""Overlap from which two boxes show one object, as in PASCAL VOC (Everingham et al. 2010, section 4.2)."""


@dataclass(frozen=True)
class Conflict:
    """An object to which annotators gave names, or situations, that contradict each other."""

    object_shown: str
    """The object, for messages."""
    names: tuple[tuple[str, str], ...]
    """(name or situation, annotator), oldest first."""

    @property
    def text(self) -> str:
        return f"{self.object_shown}: {self.names_text}"

    @property
    def names_text(self) -> str:
        return ", ".join(f"{name} ({who})" for name, who in self.names)


@dataclass(frozen=True)
class Labels:
    """Labels that follow from the rounds up to a version."""

    version: int
    by_object: Mapping[ObjectKey, tuple[Label, ...]]
    """The current label of each annotator, the newest last; sorted by key."""
    consensus: Mapping[ObjectKey, Label]
    """Objects whose names do not contradict each other, with the newest label of each."""
    conflicts: Mapping[ObjectKey, Conflict]
    """Objects with contradicting names; they have no label until a round overrides them."""
    situations: tuple[Conflict, ...]
    """Objects on whose situation annotators differ; their names are used."""


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
            f'bring it back from a copy, or write {{"format": "{LABEL_SET_FORMATS[-1]}", "created_at": ""}} into it',
        )
        fields = parse_json(content, role)
        if not isinstance(fields, dict) or fields.get("format") not in LABEL_SET_FORMATS:
            raise UsageError(
                f"{folder / LABELS_JSON} is not of the formats {' and '.join(LABEL_SET_FORMATS)}; name another folder"
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
        text = (
            json.dumps({"format": LABEL_SET_FORMATS[-1], "created_at": utc_now()}, indent=2).encode() + b"\n"
        )
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

    def labels_of_round(self, number: int) -> list[Label]:
        """Return the labels of one round as it has them, with those that it withdraws.

        Raises:
            StoreError: the round's file is damaged or missing.
        """
        return self._read(number)[1]

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
            if self._files.create(_round_path(number), encode_round(labels, record)):
                return record

    def labels(
        self,
        *,
        version: int | None = None,
        naming: Naming | None = None,
        moved: Mapping[ObjectKey, ObjectKey] | None = None,
    ) -> Labels:
        """Merge the rounds up to a version; None: all rounds.

        An annotator's later label of an object replaces his earlier one, and may withdraw it. A round that overrides
        replaces the labels of all annotators. Boxes of missed objects that overlap by MATCH_IOU are one object.

        Args:
            naming: rank and taxonomy by which names are compared; by default names as given.
            moved: objects under whose key the labels of others stand, as `match_labels` finds them.

        Raises:
            UsageError: the label set does not have the version.
            StoreError: a round's file is damaged.
        """
        numbers = self._numbers()
        newest = max(numbers, default=0)
        if version is not None and not 1 <= version <= newest:
            raise UsageError(f"{self.folder} has the versions 1 to {newest}, not {version}")
        merged = self._merge((n for n in numbers if version is None or n <= version), moved or {})
        by_object = {key: tuple(merged[key].values()) for key in sorted(merged)}
        consensus: dict[ObjectKey, Label] = {}
        conflicts: dict[ObjectKey, Conflict] = {}
        situations = []
        for key, labels in by_object.items():
            if agree([label.occurrence for label in labels], naming or Naming()).is_conflict:
                conflicts[key] = _conflict(key, labels, [label.occurrence.shown for label in labels])
            else:
                consensus[key] = labels[-1]
            stated = [label for label in labels if label.occurrence.situation is not None]
            if len({label.occurrence.situation for label in stated}) > 1:
                situations.append(
                    _conflict(key, stated, [label.occurrence.situation or "" for label in stated])
                )
        return Labels(
            newest if version is None else version, by_object, consensus, conflicts, tuple(situations)
        )

    def labels_by_annotator(self) -> dict[tuple[ObjectKey, str], Label]:
        """Return the current labels by object and annotator; an overridden label is left out."""
        merged = self._merge(self._numbers(), {})
        return {(key, who): label for key, labels in merged.items() for who, label in labels.items()}

    def _merge(
        self, numbers: Iterable[int], moved: Mapping[ObjectKey, ObjectKey]
    ) -> dict[ObjectKey, dict[str, Label]]:
        """Return the current label of each annotator by object, the newest last."""
        by_object: dict[ObjectKey, dict[str, Label]] = {}
        missed: dict[str, list[tuple[Label, ObjectKey]]] = {}
        for number in numbers:
            record, labels = self._read(number)
            for label in labels:
                key = label.key
                if label.is_missed:
                    key = _missed_key(label, missed.setdefault(label.slide_id, []))
                key = moved.get(key, key)
                by_annotator = by_object.setdefault(key, {})
                if record.overrides:
                    by_annotator.clear()
                by_annotator.pop(label.who, None)  # reinserted as the newest
                if not label.is_withdrawn:
                    by_annotator[label.who] = label
        return {key: by_annotator for key, by_annotator in by_object.items() if by_annotator}

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
        return decode_round(content, role)


def is_label_set(path: Path) -> bool:
    """Return whether a folder is a label set, not a folder of <class>/<image>."""
    return (path / LABELS_JSON).is_file()


def _round_path(number: int) -> str:
    return f"{ROUNDS}/{number:05d}.parquet"


def _missed_key(label: Label, known: list[tuple[Label, ObjectKey]]) -> ObjectKey:
    """Return the key of the missed object of this slide that the box shows; a new one is added to the known ones."""
    box = np.array(label.box)
    overlaps = [
        -1.0
        if label.scan.shows_same_pixels(other.scan) is False
        else float(box_iou(box, np.array(other.box)))
        for other, _ in known
    ]
    if overlaps and max(overlaps) >= MATCH_IOU:
        return known[overlaps.index(max(overlaps))][1]
    known.append((label, label.key))
    return label.key


def _conflict(key: ObjectKey, labels: Sequence[Label], names: Sequence[str]) -> Conflict:
    pairs = tuple((name, label.who) for name, label in zip(names, labels, strict=True))
    return Conflict(labels[-1].shown if key[1] == MISSED else f"{key[0]} #{key[1]}", pairs)
