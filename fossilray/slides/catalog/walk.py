"""Files below a folder on a disk, sorted into slides and others."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from stat import S_ISREG

from fossilray.core.slide_names import SLIDE_SUFFIXES
from fossilray.slides.catalog.census import Census, is_own_folder
from fossilray.slides.catalog.fields import looks_like_a_field
from fossilray.slides.dicom import DICOM_START_BYTES, NOT_DICOM, DicomSeries, read_series
from fossilray.slides.mirax.names import is_slidedat, paired_folders


def walk_folder(folder: Path, unlisted: list[tuple[Path, OSError]], census: Census) -> Iterator[Path]:
    """Yield files that look like slides, and MIRAX folders without their .mrxs file; links are followed once.

    unlisted: receives the folders that cannot be listed, with the error. census: counts the other files.
    """
    visited: set[tuple[int, int]] = set()
    written: set[Path] = set()

    def note(error: OSError) -> None:
        unlisted.append((Path(error.filename), error))

    for folder_name, folders, names in os.walk(folder, followlinks=True, onerror=note):
        here = Path(folder_name)
        try:
            stat = here.stat()
        except OSError as error:
            unlisted.append((here, error))
            continue
        if (stat.st_dev, stat.st_ino) in visited:
            folders.clear()
            continue
        visited.add((stat.st_dev, stat.st_ino))
        is_orphan = here != folder and any(map(is_slidedat, names))
        if here.parent in written or is_own_folder({*names, *folders}):
            written.add(here)
        if is_orphan or here in written:
            slides = [here / name for name in names if _looks_like_a_slide(here / name)]
        else:
            slides = _sort(here, names, census)
        yield from slides
        companions = paired_folders((slide.name for slide in slides), folders)
        folders[:] = sorted(name for name in folders if name not in companions)
        # Folders named like slides are refused and still searched; those with Slidedat.ini are yielded below.
        named = (here / name for name in folders if _looks_like_a_slide(here / name))
        yield from (path for path in named if not holds_slidedat(path))
        if is_orphan:
            yield here
            folders.clear()


def _sort(here: Path, names: Sequence[str], census: Census) -> list[Path]:
    """Return the slides among the files of one folder; the others are counted."""
    slides = census.sort(
        names,
        is_slide=lambda name: looks_like_a_field(name) or _looks_like_a_slide(here / name),
        read=lambda name: partial(_read_range, here / name),
    )
    return [here / name for name in slides]


def sort_matches(files: Collection[Path], census: Census) -> Iterator[Path]:
    """Yield the slides among files of any folders, and folders named like slides.

    The others are counted, apart from those in folders of MIRAX slides.
    """
    by_folder: dict[Path, list[str]] = {}
    for file in files:
        if not _is_dir(file) or _looks_like_a_slide(file):
            by_folder.setdefault(file.parent, []).append(file.name)
    for folder, names in by_folder.items():
        yield from _sort(folder, names, Census() if holds_slidedat(folder) else census)


def _read_range(file: Path, start: int, stop: int) -> bytes:
    """Return bytes of a regular file; a pipe would be waited for without end."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return os.pread(descriptor, stop - start, start)
    finally:
        os.close(descriptor)


def series_of(file: Path) -> DicomSeries | None:
    """Return the DICOM series of a file; None for other files, and for one that cannot be read."""
    if file.suffix.lower() in NOT_DICOM:
        return None
    try:
        return read_series(_read_range(file, 0, DICOM_START_BYTES))
    except OSError:
        return None


def _looks_like_a_slide(file: Path) -> bool:
    """Return whether a file has the name of a slide; a folder `a.tif` beside `a.tif.mrxs` belongs to that slide."""
    return file.suffix.lower() in SLIDE_SUFFIXES and not (_is_dir(file) and _is_file(Path(f"{file}.mrxs")))


def _is_dir(path: Path) -> bool:
    """Return whether the path is a folder; False on an OSError, which reading the slide reports later."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def holds_slidedat(folder: Path) -> bool:
    """Return whether a folder is that of a MIRAX slide; False for one that cannot be listed."""
    try:
        return any(map(is_slidedat, os.listdir(folder)))  # noqa: PTH208
    except OSError:
        return False
