"""Census of a folder: what it holds beside slides, by ending, the same on a disk and in an object store."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import PurePosixPath

from fossilray.core.folder_kinds import kind_of_folder
from fossilray.core.slide_names import SLIDE_SUFFIXES
from fossilray.core.text import counted
from fossilray.slides.catalog.table import CATALOG_SUFFIXES, Catalog
from fossilray.slides.dicom import DICOM_START_BYTES, read_series
from fossilray.slides.file_kinds import (
    ARCHIVE_SUFFIXES,
    FIELD_SUFFIXES,
    START_BYTES,
    TIFF_STARTS,
    foreign_slide,
    is_dicom,
)
from fossilray.slides.tiff.directories import ReadBytes, read_directories

_DICOM = "dicom"
_MOST_LOOKED_AT = 1000
"""Files of one ending whose content is looked at; if none is a slide, the others of this ending are not read."""
_MOST_ENDINGS = 10
_MOST_ENDING_LETTERS = 8
_MOST_READS = 8
_TILE_WIDTH = 322
# Hamamatsu marks its own files by tags of its own.
_HAMAMATSU = range(65_420, 65_500)
_SYSTEM_FILES = frozenset(("thumbs.db", "desktop.ini", "ehthumbs.db", "dicomdir"))
_TIFF_SUFFIXES = (".qptiff", ".btf", ".tf2", ".tf8", ".ptif", ".ptiff")
_SIDECARS = (".json",)
_DOCUMENTS = (*CATALOG_SUFFIXES, ".json", ".xml", ".pdf", ".html", ".md", ".docx", ".log", ".dat", ".ini")
"""Endings of files that are no slides, whatever their content."""


class Census:
    """Count of the files of a search that are no slides, by ending; it finds slides without a known ending.

    is_remote: a look at a file's content is a request.
    """

    def __init__(self) -> None:
        self._others: Counter[str] = Counter()
        self._documents: Counter[str] = Counter()
        self._looked_at: Counter[str] = Counter()
        self._slides_by_content: Counter[str] = Counter()

    def sort(
        self,
        names: Iterable[str],
        *,
        is_slide: Callable[[str], bool],
        read: Callable[[str], ReadBytes | None],
    ) -> list[str]:
        """Return the names of slides among the files of one folder, and count the others.

        is_slide: whether a file has the name of a slide or of a field of view. read: gives the bytes of a
        file; None if it is none or cannot be read.
        """
        names = list(names)
        slides = [name for name in names if is_slide(name)]
        stems = {PurePosixPath(name).stem for name in slides}
        virtual = {PurePosixPath(name).stem for name in slides if name.lower().endswith((".vms", ".vmu"))}
        slides = [
            name for name in slides if _ending(name) not in FIELD_SUFFIXES or not _is_part(name, virtual)
        ]
        taken = set(slides)
        for name in names:
            if name in taken or _is_hidden(name) or _is_part(name, virtual):
                continue
            ending = _ending(name)
            if self._is_by_content(name, ending, read):
                slides.append(name)
                self._slides_by_content[ending] += 1
            elif ending in CATALOG_SUFFIXES or (ending in _SIDECARS and _is_sidecar(name, stems)):
                self._documents[ending] += 1
            else:
                self._others[ending] += 1
        return slides

    def pass_over(self, names: Iterable[str]) -> None:
        """Count images that are no fields of view. names: of the files."""
        self._others.update(map(_ending, names))

    def notes(self, catalog: Catalog, *, dicom_files: int) -> tuple[str, ...]:
        """Return the sentence about what the folder holds; none where it holds slides with known endings alone.

        catalog: what was read and refused. dicom_files: number of DICOM files, of which several may be one slide.
        """
        slides, refused = len(catalog.rows), len(catalog.refused)
        dicom_slides = sum(row.vendor == _DICOM for row in catalog.rows)
        others = self._others if slides else self._others + self._documents
        read = [f"{count:,} {_shown(ending)} read" for ending, count in _sorted(self._slides_by_content)]
        if dicom_files > dicom_slides:
            read.insert(0, f"{dicom_files:,} DICOM files read as {counted(dicom_slides, 'slide')}")
        if not others and not read and (slides or refused):
            return ()
        heading = counted(slides, "slide") if slides else "no slide"
        if not slides and refused:
            heading = f"no slide that can be read ({refused:,} refused)"
        if not slides and not refused and not others:
            return ("the folder is empty",)
        return ("; ".join([heading, *read, *_passed_over(others, self._looked_at)]),)

    def _is_by_content(self, name: str, ending: str, read: Callable[[str], ReadBytes | None]) -> bool:
        if (
            ending in _DOCUMENTS
            or ending in FIELD_SUFFIXES | ARCHIVE_SUFFIXES
            or foreign_slide(name) is not None
        ):
            return False
        if self._looked_at[ending] >= _MOST_LOOKED_AT and not self._slides_by_content[ending]:
            return False
        self._looked_at[ending] += 1
        read_bytes = read(name)
        return read_bytes is not None and is_slide_by_content(read_bytes)


def is_slide_by_content(read: ReadBytes) -> bool:
    """Return whether a file of any name is a slide: a tiled TIFF, an NDPI, a CZI, or a whole-slide image of DICOM."""
    try:
        start = read(0, START_BYTES)
        if is_dicom(start):
            series = read_series(read(0, DICOM_START_BYTES))
            return series is not None and series.is_slide
        if not start.startswith(TIFF_STARTS):
            return start.startswith(b"ZISRAWFILE")
        first = next(read_directories(read, most_reads=_MOST_READS))
        return _TILE_WIDTH in first.tags or any(tag in _HAMAMATSU for tag in first.tags)
    except (OSError, ValueError, KeyError, struct.error, StopIteration):
        return False


def is_own_folder(names: Collection[str]) -> bool:
    """Return whether a folder with these names in it is one that fossilray wrote, such as a run."""
    kind = kind_of_folder(names)
    return kind is not None and kind.record in names and bool(_OWN_CONTENTS.intersection(names))


_OWN_CONTENTS = frozenset(("attempts", "objects", "arrays", "shards", "rounds", "failures.parquet"))


def _passed_over(others: Counter[str], looked_at: Counter[str]) -> list[str]:
    """Return the parts of the sentence: endings with one reason together, the most frequent first."""
    ordered = _sorted(others)
    groups: dict[str, list[str]] = {}
    totals: Counter[str] = Counter()
    for ending, count in ordered[:_MOST_ENDINGS]:
        reason = _reason(ending)
        if count > looked_at[ending] > 0:
            reason = reason or f"the content of the first {_MOST_LOOKED_AT:,} is no slide's"
        groups.setdefault(reason, []).append(f"{count:,} {_shown(ending)}")
        totals[reason] += count
    parts = [
        f"{', '.join(groups[reason])} passed over{f': {reason}' if reason else ''}"
        for reason, _ in _sorted(totals)
    ]
    rest = sum(count for _, count in ordered[_MOST_ENDINGS:])
    return [*parts, f"and {rest:,} other files passed over"] if rest else parts


def _reason(ending: str) -> str:
    """Return why files with this ending are passed over; empty where the ending itself shows it."""
    if ending in FIELD_SUFFIXES or ending in SLIDE_SUFFIXES:
        return "images beside slides, see docs/guide/fields.md"
    if ending in ARCHIVE_SUFFIXES:
        return "archives (unpack those that hold slides)"
    if ending in _TIFF_SUFFIXES:
        return "no tiled TIFF"
    if ending and foreign_slide(f"a{ending}") is not None:
        return "formats that OpenSlide does not read, see docs/guide/formats.md"
    return ""


def _sorted(counts: Counter[str]) -> Sequence[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _ending(name: str) -> str:
    """Return the ending, lower case; empty for none, and for numbers such as those that end the UID of a DICOM file."""
    ending = PurePosixPath(name).suffix.lower()
    letters = ending[1:]
    return (
        ending
        if letters.isalnum() and not letters.isdecimal() and len(letters) <= _MOST_ENDING_LETTERS
        else ""
    )


def _shown(ending: str) -> str:
    return ending or "without an ending"


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "~$")) or name.lower() in _SYSTEM_FILES


def _is_sidecar(name: str, stems: Collection[str]) -> bool:
    stem = PurePosixPath(name).stem
    return stem in stems or PurePosixPath(stem).stem in stems or name == "fields.json"


def _is_part(name: str, virtual: Iterable[str]) -> bool:
    """Return whether a file belongs to one of these Hamamatsu VMS or VMU slides, as `NAME_macro.jpg` does."""
    return any(name.startswith(stem) and not name[len(stem) : len(stem) + 1].isalnum() for stem in virtual)
