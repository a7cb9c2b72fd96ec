"""Kinds of folders that fossilray writes, and the refusal of outputs inside them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from fossilray.core.errors import FossilrayError, UsageError
from fossilray.core.formats.file_role import FileRole
from fossilray.core.formats.json_text import parse_json


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder, and the names in it by which it is recognised."""

    name: str
    description: str
    """The name with its article, for messages."""
    record: str
    """The file that describes the folder, written when it is complete."""
    pending: str | None = None
    """The file that marks a folder that is still being written."""
    contents: tuple[frozenset[str], ...] = ()
    """Sets of names, each of which identifies the kind where the record is missing."""


RUN_FOLDER = FolderKind("run", "a run directory", "run.json")
FOLDER_KINDS = (
    FolderKind(
        "dataset",
        "a compacted dataset",
        "dataset.json",
        pending="compacting.json",
        contents=(frozenset({"failures.parquet"}),),
    ),
    FolderKind("index", "an index", "index.json", contents=(frozenset({"shards", "data"}),)),
    FolderKind("label set", "a label set", "labels.json", contents=(frozenset({"rounds"}),)),
    RUN_FOLDER,  # the last, because a dataset keeps a copy of its run's record
)


def kind_of_folder(names: Collection[str]) -> FolderKind | None:
    """Return the kind of a folder with these names in it, also where its record is missing.

    None: a folder that is still being written, or none of fossilray's. A run without its record is None too: its
    folders alone do not identify it.
    """
    present = set(names)
    for kind in FOLDER_KINDS:
        is_remnant = any(contents <= present for contents in kind.contents) and kind.pending not in present
        if kind.record in present or is_remnant:
            return kind
    return None


def refuse_output_inside(path: str | Path) -> None:
    """Check that an output at this local path lies outside every folder of fossilray; for a store see `refuse_inside`.

    Raises:
        UsageError: the path is such a folder, or lies in one.
    """
    text = os.fspath(path)
    if "://" in text and not text.startswith("file://"):
        return
    # Writers follow links, so the check does.
    target = Path(os.path.realpath(text.removeprefix("file://")))
    for folder in (target, *target.parents):
        for kind in FOLDER_KINDS:
            if any(_is_record(folder / name) for name in (kind.record, kind.pending) if name is not None):
                raise _inside(path, folder, kind)


def refuse_inside(path: str, runs: Iterable[str]) -> None:
    """Check that a path, which may be in an object store, lies outside these runs.

    Raises:
        UsageError: it lies in one of them.
    """
    for run in runs:
        if f"{path}/".startswith(f"{run.rstrip('/')}/"):
            raise _inside(path, run, RUN_FOLDER)


def _inside(path: str | Path, folder: str | Path, kind: FolderKind) -> UsageError:
    return UsageError(
        f"{path} is inside {folder}, which is {kind.description}, and could replace or hide its files; name a path "
        "outside it"
    )


def _is_record(file: Path) -> bool:
    """Return whether fossilray wrote this file, as far as its content shows: other programs too have an index.json."""
    try:
        if not file.is_file():
            return False
    except OSError:
        return False  # a folder that cannot be read cannot be written either; the writer gives the reason
    try:
        content = file.read_bytes()
    except OSError:
        return True
    if b"fossilray" in content or b"schema_version" in content:
        return True
    try:
        parse_json(content, FileRole(str(file), "the record of a folder", "restore it"))
    except FossilrayError:
        return True  # damaged, and perhaps to be restored
    return False
