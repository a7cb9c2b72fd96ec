"""Classification of read failures: a failure of one slide, or of the whole folder or bucket that holds it.

A share that is not mounted shows an empty folder or none, in which every slide is missing. A slide itself
is missing only if another one in the same folder or bucket can be read at that moment.
"""

from __future__ import annotations

import os
import posixpath
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fossilray.core.errors import (
    MissingCompanion,
    SlideError,
    SlideMissing,
    SlideUnreadable,
    SourceOut,
    SourceUnreachable,
)
from fossilray.slides.access import check_readable, files_of, first_fault
from fossilray.store.files.base import is_remote

MAX_NEIGHBOURS = 8
"""Number of neighbours that are tried until one can be read."""
MAX_SECONDS = 60.0
"""No further neighbour is tried after this time: an unreachable share responds slowly."""

_DOUBTFUL = (SlideMissing, SlideUnreadable, SourceUnreachable, MissingCompanion)
"""Errors that may be the failure of a whole folder or bucket."""


def classify_failure(
    error: SlideError,
    path: str,
    *,
    others: Callable[[], Sequence[str]],
    is_readable: Callable[[str], bool],
) -> SlideError:
    """Return the error if it concerns the slide alone, SourceOut if its neighbours cannot be read either.

    A slide that can be read again, or whose folder is gone, yields SourceUnreachable, which is retried.
    others: returns the paths of all slides of the catalog. is_readable: returns whether a neighbour can be read now,
    or a bucket (its URL ends in a slash).
    """
    # A store that lists a slide without one of its files is reachable.
    if not isinstance(error, _DOUBTFUL) or (is_remote(path) and isinstance(error, MissingCompanion)):
        return error
    error = _copy_again(error, path) if is_remote(path) else _look_again(error, path)
    if type(error) is _Passing:
        return SourceUnreachable(str(error))
    root, near = nearest(path, others())
    what = "nothing else there can be read either"
    if near:
        out = not _any_readable(near, is_readable)
    elif is_remote(path):
        out = not is_readable(f"{root}/")
    else:
        what = "its folder is not there, or empty"
        out = not _has_entries(root)
    if out:
        return SourceOut(f"{root}: {error}; {what}: check that it is mounted and reachable", root=root)
    if isinstance(error, SlideMissing) and not _has_entries(_folder_of(path)):
        # Deleted with its folder, or alone on a share of its own: a later start tries it again.
        return SourceUnreachable(f"{error}; its folder is not there, or empty: check that it is mounted")
    return error


class _Passing(SourceUnreachable):
    """Transient failure: the slide may be readable at the next attempt, so no neighbour is tried."""


def _copy_again(error: SlideError, path: str) -> SlideError:
    """Return the error of a slide in an object store; a fault of its staged copy is transient."""
    if isinstance(error, SourceUnreachable):
        return error
    return _Passing(f"{path}: its staged copy cannot be read ({error}); it will be tried again")


def _look_again(error: SlideError, path: str) -> SlideError:
    """Return the error that the slide's files raise now; a transient one if they can be read again."""
    now = first_fault(files_of(Path(path)))
    if now is not None:
        return now
    if isinstance(error, MissingCompanion):
        return error
    return _Passing(f"{error} (it can be read again now, and will be tried again)")


def nearest(path: str, others: Sequence[str]) -> tuple[str, list[str]]:
    """Return the smallest folder (for a URL, the bucket) that holds other slides of the catalog, and those slides."""
    if is_remote(path):
        root = root_of(path)
        return root, [other for other in others if other != path and other.startswith(f"{root}/")]
    folder = _folder_of(path)
    # Slides that share only the root of the file system may be on different shares.
    while folder not in ("/", ""):
        near = [other for other in others if other != path and is_below(other, folder)]
        if near:
            return folder, near
        folder = _folder_of(folder)
    return _folder_of(path), []


def root_of(path: str) -> str:
    """Return the bucket of a URL or the folder of a file: the unit that fails as a whole."""
    protocol, separator, rest = path.partition("://")
    return f"{protocol}://{rest.partition('/')[0]}" if separator else _folder_of(path)


def is_below(path: str, root: str) -> bool:
    """Return whether a slide is in this folder or bucket, at any depth."""
    return path.startswith(root.rstrip("/") + "/")


def can_be_read(path: str) -> bool:
    """Return whether the file of a slide on a disk or a share opens and delivers a byte."""
    try:
        check_readable(Path(path))
    except (SlideError, OSError):
        return False
    return True


def _any_readable(near: Sequence[str], is_readable: Callable[[str], bool]) -> bool:
    begun_s = time.monotonic()
    # Anywhere below the root: neighbours by name may have been removed together with the slide.
    for other in random.sample(near, min(MAX_NEIGHBOURS, len(near))):
        if is_readable(other):
            return True
        if time.monotonic() - begun_s > MAX_SECONDS:
            break
    return False


def _has_entries(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(True for _ in entries)
    except OSError:
        return False


def _folder_of(path: str) -> str:
    return posixpath.dirname(path)
