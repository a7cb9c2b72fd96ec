"""Failures to read a slide, judged beside its neighbours: is it the slide's own, or is its whole folder out?

A share that is not mounted shows an empty folder or none, in which every slide is missing. A slide is missing by
itself only if another one below the same folder, or in the same bucket, can be read at that moment.
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

ASKED = 8
"""Neighbours that are tried until one can be read."""
ASKING_S = 60.0
"""No further one is tried after this: a share that is out answers slowly."""

_DOUBTFUL = (SlideMissing, SlideUnreadable, SourceUnreachable, MissingCompanion)
"""What may as well be the failure of a whole folder or bucket."""


def judge_failure(
    error: SlideError,
    path: str,
    *,
    others: Callable[[], Sequence[str]],
    is_readable: Callable[[str], bool],
) -> SlideError:
    """The error if it is the slide's own, SourceOut if its neighbours cannot be read either.

    What could not be read and can be now is transient. others: the paths of all slides of the catalog, asked for
    where they are needed. is_readable: whether a neighbour can be read now, or a bucket, named with a slash at its end.
    """
    # A store that lists a slide without a part of it has answered.
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
        # Deleted with its folder, or alone on a share of its own: not to be given up for good.
        return SourceUnreachable(f"{error}; its folder is not there, or empty: check that it is mounted")
    return error


class _Passing(SourceUnreachable):
    """The slide may be read by the next try; no neighbour need be asked."""


def _copy_again(error: SlideError, path: str) -> SlideError:
    """An error of a slide from an object store: its file on the local disk is a copy."""
    if isinstance(error, SourceUnreachable):
        return error
    return _Passing(f"{path}: its staged copy cannot be read ({error}); it will be tried again")


def _look_again(error: SlideError, path: str) -> SlideError:
    """What keeps the files of a slide on a disk from being read now."""
    now = first_fault(files_of(Path(path)))
    if now is not None:
        return now
    if isinstance(error, MissingCompanion):
        return error
    return _Passing(f"{error} (it can be read again now, and will be tried again)")


def nearest(path: str, others: Sequence[str]) -> tuple[str, list[str]]:
    """The smallest folder above the slide that holds other slides of the catalog, and those; of a URL, its bucket."""
    if is_remote(path):
        root = root_of(path)
        return root, [other for other in others if other != path and other.startswith(f"{root}/")]
    folder = _folder_of(path)
    # What only the root of the file system joins may lie on two shares.
    while folder not in ("/", ""):
        near = [other for other in others if other != path and is_below(other, folder)]
        if near:
            return folder, near
        folder = _folder_of(folder)
    return _folder_of(path), []


def root_of(path: str) -> str:
    """What fails as a whole where nothing else is known: the bucket of a URL, the folder of a file."""
    protocol, separator, rest = path.partition("://")
    return f"{protocol}://{rest.partition('/')[0]}" if separator else _folder_of(path)


def is_below(path: str, root: str) -> bool:
    """Whether a slide lies in this folder or bucket."""
    return path.startswith(root.rstrip("/") + "/")


def can_be_read(path: str) -> bool:
    """Whether a slide on a disk or a share opens and gives a byte."""
    try:
        check_readable(Path(path))
    except (SlideError, OSError):
        return False
    return True


def _any_readable(near: Sequence[str], is_readable: Callable[[str], bool]) -> bool:
    begun_s = time.monotonic()
    # Anywhere below the root: neighbours by name may have been removed together with the slide.
    for other in random.sample(near, min(ASKED, len(near))):
        if is_readable(other):
            return True
        if time.monotonic() - begun_s > ASKING_S:
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
