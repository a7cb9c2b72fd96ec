"""Paths in a run directory.

RUN/
  run.json                                 RunRecord, written once
  catalog.parquet                          the slides at the first start, frozen
  catalog/part-<k>.parquet                 slides added later
  objects/well=<well>/<slide_id>.parquet   its creation is the commit of that slide
  arrays/<slide_id>/<attempt>.zarr         crops and embeddings
  slides/part-<k>.parquet                  summaries of committed slides, gathered; can be rebuilt from footers
  samples/round-<k>.parquet                corrections to wells, depths and samples; its creation is the commit
  pending/<slide_id>/<attempt>.parquet     with a single writer: what a worker hands the driver to commit
  withdrawn/<slide_id>-<id>.parquet        objects files that were found damaged and taken out
  attempts/<slide_id>/<attempt>.json       start, then failure
  attempts/<slide_id>/retry-<id>.json      which failures were cleared, so that the slide is tried again
  drivers/<id>.json                        heartbeat
  pictures/<slide_id>.jpg                  the slide small, boxes drawn
  traces/<slide_id>/<attempt>.json         on request: what the threads did and when
  embeddings/<name>/  predictions/<name>/  results that later jobs derived from the crops, in each:
    answers.json                           what gives them, written once
    well=<well>/<slide_id>.parquet         its creation is the commit of that slide's results
    attempts/<slide_id>/<attempt>.json     failures
    drivers/<id>.json                      heartbeat
  .tmp/  .probe/                           half-written files of a disk, and trials of the store; no reader looks
  .claims/<id>.json                        with a single writer: the driver that holds the run
"""

from __future__ import annotations

import re
import secrets
from pathlib import PurePosixPath
from typing import Literal, get_args
from urllib.parse import quote, unquote

from fossilray.core.errors import StoreError, UsageError
from fossilray.core.records import UNASSIGNED_WELL, Attempt, Failure
from fossilray.core.slide_names import SAFE_NAME, check_slide_id

RUN_JSON = "run.json"
OBJECTS = "objects"
ARRAYS = "arrays"
ATTEMPTS = "attempts"
PENDING = "pending"

DerivedKind = Literal["embeddings", "predictions"]
DERIVED_KINDS: tuple[DerivedKind, ...] = get_args(DerivedKind)
DERIVED_JSON = "answers.json"


_SAFE_ID = re.compile(r"[0-9a-zA-Z][0-9a-zA-Z_-]{3,63}")
_SAFE_NAME = re.compile(r"[0-9a-zA-Z](?:[0-9a-zA-Z_.-]{0,62}[0-9a-zA-Z_-])?")
_PART = re.compile(r"part-(\d+)\.parquet$")


def objects_path(slide_id: str, well: str | None) -> str:
    """The objects file of a slide; the well is percent-encoded as Hive does, which DuckDB and pyarrow undo."""
    return f"{OBJECTS}/{slide_file(slide_id, well)}"


def slide_file(slide_id: str, well: str | None) -> str:
    """A slide's file in any folder that is partitioned as `objects` is."""
    return f"well={quote(well or UNASSIGNED_WELL, safe='')}/{check_slide_id(slide_id)}.parquet"


def derived_folder(kind: DerivedKind, name: str) -> str:
    """The folder of the derived results of one name in a run directory.

    Raises:
        UsageError: the name is not safe as that of a folder.
    """
    if not _SAFE_NAME.fullmatch(name) or ".." in name:
        raise UsageError(
            f"{name!r:.80} cannot name {kind}; use at most 64 letters, digits and _ . - , beginning with a letter or "
            "digit, such as vits-2026"
        )
    return f"{kind}/{name}"


def well_of(path: str) -> str:
    """The well that the path of an objects file names."""
    return unquote(PurePosixPath(path).parent.name.removeprefix("well="))


def arrays_path(slide_id: str, attempt: str) -> str:
    """The Zarr group of one attempt at a slide."""
    return f"{ARRAYS}/{check_slide_id(slide_id)}/{_check_id(attempt)}.zarr"


def is_arrays_path(path: str) -> bool:
    """Return whether a path is that of the Zarr group of one attempt at a slide."""
    folder, slide_id, attempt = (*path.split("/"), "", "", "")[:3]
    return (
        path.count("/") == 2
        and folder == ARRAYS
        and bool(SAFE_NAME.fullmatch(slide_id))
        and ".." not in slide_id
        and attempt.endswith(".zarr")
        and bool(_SAFE_ID.fullmatch(attempt.removesuffix(".zarr")))
    )


def split_arrays_path(path: str) -> tuple[str, str]:
    """Return slide_id and attempt of the Zarr group at a path; the reverse of `arrays_path`.

    Raises:
        StoreError: the path leads elsewhere.
    """
    if not is_arrays_path(path):
        raise StoreError(
            f"{path!r:.200} is not the path of a slide's arrays; the objects file that names it is damaged or forged"
        )
    _, slide_id, group = path.split("/")
    return slide_id, group.removesuffix(".zarr")


def attempt_path(attempt: Attempt | Failure) -> str:
    """The start, then the failure, of one attempt."""
    return f"{ATTEMPTS}/{check_slide_id(attempt.slide_id)}/{_check_id(attempt.attempt)}.json"


def cleared_path(slide_id: str, identifier: str) -> str:
    """A note that clears failures of a slide."""
    return f"{ATTEMPTS}/{check_slide_id(slide_id)}/retry-{_check_id(identifier)}.json"


def pending_path(slide_id: str, attempt: str) -> str:
    """The objects file that one attempt submits to the single writer."""
    return f"{PENDING}/{check_slide_id(slide_id)}/{_check_id(attempt)}.parquet"


def slide_of(path: str) -> str:
    """The slide_id that the path of an objects file names."""
    return path.rpartition("/")[2].removesuffix(".parquet")


def withdrawn_path(slide_id: str) -> str:
    """A new path for the objects file of a slide that is to be processed again; the name is random."""
    return f"withdrawn/{slide_id}-{secrets.token_hex(4)}.parquet"


def picture_path(slide_id: str) -> str:
    """The small picture of a slide."""
    return f"pictures/{check_slide_id(slide_id)}.jpg"


def trace_path(slide_id: str, attempt: str) -> str:
    """The trace of one attempt at a slide."""
    return f"traces/{check_slide_id(slide_id)}/{_check_id(attempt)}.json"


def driver_path(driver_id: str) -> str:
    """The heartbeat of a driver."""
    return f"drivers/{_check_id(driver_id)}.json"


def catalog_part_path(number: int) -> str:
    """The catalog as first frozen (0), and each later addition."""
    return f"catalog/part-{number:06d}.parquet" if number else "catalog.parquet"


def part_path(number: int) -> str:
    """A part of slides/."""
    return f"slides/part-{number:06d}.parquet"


def part_number(path: str) -> int:
    """The number of a part of slides/ or catalog/; -1 for another file."""
    match = _PART.search(path)
    return int(match[1]) if match else -1


def _check_id(identifier: str) -> str:
    if not _SAFE_ID.fullmatch(identifier):
        raise ValueError(f"{identifier!r} is not the id of an attempt or a driver")
    return identifier
