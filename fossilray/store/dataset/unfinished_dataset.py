"""Deletion of the unfinished dataset of an interrupted `fossilray compact`; other files in the folder are refused."""

from __future__ import annotations

import json
import re

from fossilray.core.errors import UsageError
from fossilray.store.dataset.dataset_store import EMBEDDINGS_FOLDER, FAILURES_PARQUET, UNFINISHED_JSON
from fossilray.store.files.base import PROBE_FILES, TEMPORARY, Files, is_spare
from fossilray.store.run.layout import OBJECTS, RUN_JSON, catalog_part_path
from fossilray.store.samples.rounds import SAMPLES

_FOLDERS = (OBJECTS, EMBEDDINGS_FOLDER, "slides", SAMPLES)
_FILES = (FAILURES_PARQUET, catalog_part_path(0), RUN_JSON)
_ASIDE = r"\.{}\.[0-9a-f]{{16}}\.fossilray-part"
_PART = r"part-\d{6}\.parquet"
_ROUND = r"round-\d{5}\.parquet"
_MADE = re.compile(
    rf"(?:(?:{OBJECTS}|{EMBEDDINGS_FOLDER})/well=[^/]+|slides)/(?:{_PART}|{_ASIDE.format(_PART)})"
    rf"|{SAMPLES}/(?:{_ROUND}|{_ASIDE.format(_ROUND)})"
)


def check_unfinished(files: Files) -> None:
    """Require that everything in the folder of an unfinished dataset was written by `fossilray compact`.

    Raises:
        UsageError: its mark was not written by fossilray, or its folders hold other files.
    """
    if not _is_mark(files.read(UNFINISHED_JSON)):
        raise UsageError(
            f"{files.url}/{UNFINISHED_JSON} was not written by `fossilray compact`; choose a new folder with --to"
        )
    links = [link for name in (*_FOLDERS, *_FILES) for link in files.links(name)]
    foreign = links or [path for name in _FOLDERS for path in files.find(name) if not _MADE.fullmatch(path)]
    if foreign:
        raise UsageError(
            f"{files.url}/{foreign[0]} was not made by `fossilray compact`, and the unfinished dataset there would be "
            "replaced; move it away, or choose a new folder with --to"
        )


def remove_unfinished(files: Files) -> None:
    """Delete an unfinished dataset that `check_unfinished` accepted."""
    for name in (*_FOLDERS, *_FILES):
        files.delete(name)


def remove_spares(files: Files) -> None:
    """Delete the folders of temporary files and of probe files, unless they hold other files."""
    for folder in (TEMPORARY, PROBE_FILES):
        if not files.links(folder) and all(is_spare(path) for path in files.find(folder)):
            files.delete(folder)


def _is_mark(content: bytes) -> bool:
    try:
        stated = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(stated, dict) and {"token", "source", "began_at"} <= stated.keys()
