"""Readability of a slide's files, and operating system errors as slide errors."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from fossilray.core.errors import OutOfMemory, SlideError, SlideMissing, SlideUnreadable, SourceUnreachable
from fossilray.core.os_errors import NO_RESOURCES, NOT_FOUND, REFUSED_REMEDIES, UNREACHABLE


def as_slide_error(error: OSError, path: Path | str) -> SlideError | None:
    """Return the slide error, with its remedy, for an operating system error; None if it does not concern a file."""
    code, reason = error.errno, error.strerror or type(error).__name__
    if code in NOT_FOUND:
        return SlideMissing(f"{path} is no file; check the path")
    if code in UNREACHABLE:
        return SourceUnreachable(
            f"{path} cannot be read: {reason}; its disk or share does not deliver it; check it there"
        )
    if code in NO_RESOURCES:
        return OutOfMemory(f"{path} cannot be opened: {reason}; give workers more memory or fewer open files")
    if code in REFUSED_REMEDIES:
        return SlideUnreadable(f"{path} cannot be read: {reason}; {REFUSED_REMEDIES[code]}")
    return None


def check_readable(path: Path) -> os.stat_result:
    """Return the stat result of a file that opens and delivers its first byte.

    Raises:
        SlideMissing, SlideUnreadable, SourceUnreachable: the file cannot be read.
    """
    status = _check_file(path)
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            os.pread(file, 1, 0)
        finally:
            os.close(file)
    except OSError as error:
        raise as_slide_error(error, path) or error from None
    return status


def files_of(path: Path) -> list[Path]:
    """Return the slide's file and, for a MIRAX slide, the data files of its folder that can be listed."""
    folder = path.with_suffix("")
    if path.suffix.lower() != ".mrxs":
        return [path]
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208
        return [path, *(folder / name for name in names if name.lower().endswith((".dat", ".ini")))]
    except OSError:
        return [path]


def names_an_outage(text: str) -> bool:
    """Return whether a library's message quotes one of the errors of UNREACHABLE."""
    return any(os.strerror(code) in text for code in UNREACHABLE)


def first_fault(files: Iterable[Path]) -> SlideError | None:
    """Return the error of the first file that cannot be read; None if all can."""
    for file in files:
        try:
            check_readable(file)
        except SlideError as error:
            return error
    return None


def _check_file(path: Path) -> os.stat_result:
    """Return the stat result of a regular file."""
    try:
        status = os.stat(path)  # noqa: PTH116  Path.is_file would take some errors for absence
    except OSError as error:
        raise as_slide_error(error, path) or error from None
    except ValueError:
        raise SlideUnreadable(f"{str(path)!r} is no path of a file; check it") from None
    if stat.S_ISDIR(status.st_mode):
        raise SlideUnreadable(f"{path} is a folder; name the slide's file")
    if not stat.S_ISREG(status.st_mode):
        raise SlideUnreadable(f"{path} is no regular file; name the slide's file")
    return status
