"""Files of one DICOM series as one slide, and catalogs of what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TypeVar

from fossilray.core.records import CatalogRow, RejectedFile
from fossilray.core.slide_names import distinct_slide_id, has_first_suffix
from fossilray.slides.catalog.table import Catalog
from fossilray.slides.dicom import DicomSeries

File = TypeVar("File")
Entry = TypeVar("Entry", CatalogRow, RejectedFile)


def first_of_series(
    files: Sequence[File], series: Sequence[DicomSeries | None], *, folder: Callable[[File], str]
) -> tuple[list[File], int]:
    """Return the files, with the first one alone of each DICOM series in a folder, and the number of DICOM files.

    OpenSlide opens all files of a series by any of them. series: that of each file; None for files in other formats.
    folder: that of a file.
    """
    kept, known = [], set[tuple[str, str]]()
    for file, of_file in zip(files, series, strict=True):
        if of_file is not None:
            key = folder(file), of_file.uid
            if key in known:
                continue
            known.add(key)
        kept.append(file)
    return kept, sum(of_file is not None for of_file in series)


def catalog_of(
    entries: Iterable[CatalogRow | RejectedFile],
    relative: Callable[[str], PurePosixPath],
    notes: tuple[str, ...] = (),
) -> Catalog:
    """Return the catalog of what was found, sorted by slide_id. relative: path of an entry below the root."""
    listed = list(entries)
    rows = [entry for entry in listed if isinstance(entry, CatalogRow)]
    refused = [entry for entry in listed if isinstance(entry, RejectedFile)]
    taken = {entry.slide_id for entry in listed if has_first_suffix(entry.path)}
    rows, refused = (
        [_distinct(row, taken, relative) for row in rows],
        [_distinct(file, taken, relative) for file in refused],
    )
    return Catalog(
        sorted(rows, key=lambda row: row.slide_id),
        sorted(refused, key=lambda file: file.slide_id),
        from_names=True,
        notes=notes,
    )


def _distinct(entry: Entry, taken: set[str], relative: Callable[[str], PurePosixPath]) -> Entry:
    if entry.slide_id not in taken or has_first_suffix(entry.path):
        return entry
    return replace(entry, slide_id=distinct_slide_id(relative(entry.path)))
