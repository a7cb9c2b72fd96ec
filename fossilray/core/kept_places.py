"""Folders that only fossilray's own jobs write into: what a user asks to have written elsewhere must not land there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from fossilray.core.errors import FossilrayError, UsageError
from fossilray.core.formats.file_role import FileRole
from fossilray.core.formats.json_text import parse_json

MARKS = {
    "run.json": "a run directory",
    "dataset.json": "a compacted dataset",
    "compacting.json": "a compacted dataset",
    "index.json": "an index",
    "labels.json": "a label set",
}
"""The file by which each kind of folder is known."""


def refuse_kept_place(place: str | Path) -> None:
    """Nothing, if an output may be written at this local place; of a store, see `refuse_inside`.

    Raises:
        UsageError: the place is, or lies in, a folder that fossilray keeps.
    """
    text = os.fspath(place)
    if "://" in text and not text.startswith("file://"):
        return
    # As the writers do: a link stands for what it leads to.
    target = Path(os.path.realpath(text.removeprefix("file://")))
    for folder in (target, *target.parents):
        for mark, kind in MARKS.items():
            if _is_mark(folder / mark):
                raise _inside(place, folder, kind)


def refuse_inside(place: str, runs: Iterable[str]) -> None:
    """Nothing, if a place, also one in an object store, is outside these runs.

    Raises:
        UsageError: it lies in one of them.
    """
    for run in runs:
        if f"{place}/".startswith(f"{run.rstrip('/')}/"):
            raise _inside(place, run, "a run directory")


def _inside(place: str | Path, folder: str | Path, kind: str) -> UsageError:
    return UsageError(
        f"{place} is inside {folder}, which is {kind}, and could replace or hide its files; name a place outside it"
    )


def _is_mark(file: Path) -> bool:
    """Whether fossilray wrote this file, as far as can be seen: other programs too have an index.json."""
    try:
        if not file.is_file():
            return False
    except OSError:
        return False  # nothing can be written into a folder that cannot be looked into; the writer says why
    try:
        content = file.read_bytes()
    except OSError:
        return True
    if b"fossilray" in content or b"schema_version" in content:
        return True
    try:
        parse_json(content, FileRole(str(file), "the mark of a folder", "restore it"))
    except FossilrayError:
        return True  # damaged, and perhaps still to be restored
    return False
