"""Files of one slide in an object store, with the same checks as on a disk."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from fossilray.core.errors import MissingCompanion, NotASlide
from fossilray.slides.mirax.companions import (
    check_part,
    check_slidedat_size,
    folder_missing_message,
    names_in,
    read_slidedat,
)
from fossilray.slides.mirax.names import MIRAX_SUFFIX, SLIDEDAT, match_name
from fossilray.slides.mirax.slidedat import Slidedat
from fossilray.slides.remote.dicom_files import series_files
from fossilray.slides.remote.source import RemoteFile, SlideSource

_LONGEST_NAME_BYTES = 255
_PLAIN_NAME = re.compile(r"[\w(][\w .,()+=@-]{0,99}")
_IN_SEVERAL_FILES = (".vms", ".vmu")
_START_BYTES = 8


@dataclass(frozen=True)
class SlideFiles:
    """Files of a slide.

    name: of the file that OpenSlide opens. files: remote files by local path, relative to one folder. slidedat:
    content of Slidedat.ini, for a MIRAX slide.
    """

    name: str
    files: dict[str, RemoteFile]
    slidedat: Slidedat | None = None

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files.values())

    def versions(self) -> dict[str, tuple[int, str]]:
        """Return the size in bytes and the version of each file, by URL."""
        return {file.url: (file.bytes, file.version) for file in self.files.values()}


def list_slide_files(source: SlideSource, url: str, *, shown: str | None = None) -> SlideFiles:
    """Return the files of the slide at `url`; takes two or three small requests.

    shown: name of the slide in messages; its URL if unset.

    Raises:
        NotASlide: the file is missing, empty, or not a slide.
        MissingCompanion: the folder of a MIRAX slide, Slidedat.ini, Index.dat or a data file is missing or empty.
        SourceUnreachable: the store is unreachable.
    """
    try:
        file = source.file(url)
    except FileNotFoundError:
        raise NotASlide(f"there is no file {url}; check the path") from None
    if not is_mirax(url):
        check_single(url, file.bytes)
        return SlideFiles(local_name(url), {local_name(url): file, **series_files(source, file)})
    parts = parts_of(source, folder_of(url))
    if not parts:
        above, _, name = folder_of(url).rpartition("/")
        folders = source.folders(above)
        parts = parts_of(source, f"{above}/{match_name(shown or url, name, folders) or name}")
    return mirax_bundle(source, file, parts, shown=shown)


def mirax_bundle(
    source: SlideSource, file: RemoteFile, parts: dict[str, RemoteFile], *, shown: str | None = None
) -> SlideFiles:
    """Return the files of a MIRAX slide under the names that OpenSlide needs; Slidedat.ini is read.

    parts: files of its folder, by name. shown: name of the slide in messages; its URL if unset.

    Raises: as list_slide_files.
    """
    slide = shown or file.url
    if not parts:
        raise folder_missing_message(slide, source.read(file, 0, _START_BYTES))
    slidedat = parts.get(match_name(slide, SLIDEDAT, parts) or SLIDEDAT)
    check_part(slide, SLIDEDAT, slidedat.bytes if slidedat else None)
    assert slidedat is not None
    check_slidedat_size(slide, slidedat.bytes)
    try:
        ini = read_slidedat(slide, source.read(slidedat))
    except FileNotFoundError:
        raise MissingCompanion(f"{slidedat.url} was deleted just now; copy the slide again") from None
    main_file = local_name(file.url)
    folder = PurePosixPath(main_file).stem
    files = {main_file: file}
    for name in names_in(slide, ini):
        if len(name.encode()) > _LONGEST_NAME_BYTES:
            raise MissingCompanion(f"{slidedat.url} names {name[:40]!r}…, too long for a file; copy it again")
        part = parts.get(match_name(slide, name, parts) or name)
        check_part(slide, name, part.bytes if part is not None else None)
        assert part is not None
        files[f"{folder}/{name}"] = part
    return SlideFiles(main_file, files, ini)


def parts_of(source: SlideSource, folder: str) -> dict[str, RemoteFile]:
    """Return the files directly in the folder of a MIRAX slide, by name."""
    return {
        name: file
        for file in source.walk(folder)
        for above, _, name in [file.url.rpartition("/")]
        if above == folder
    }


def check_single(slide: str, size: int) -> None:
    """Check a slide that consists of one file. size: in bytes.

    Raises:
        NotASlide: it is empty, or of a format that has several files.
    """
    if size == 0:
        raise NotASlide(f"{slide} is empty (0 bytes); copy it again from its source")
    suffix = PurePosixPath(slide).suffix.lower()
    if suffix in _IN_SEVERAL_FILES:
        raise NotASlide(
            f"{slide} is a Hamamatsu {suffix} slide of several files, which are read from disks only; copy them to "
            "a local folder, or convert the slide"
        )


def is_mirax(url: str) -> bool:
    return url.lower().endswith(MIRAX_SUFFIX)


def folder_of(url: str) -> str:
    """Return the URL of the folder of a MIRAX slide's other files."""
    return url[: -len(MIRAX_SUFFIX)]


def local_name(url: str) -> str:
    """Return a file name that is valid on any disk: the slide's own if that is plain, else `slide` with its suffix.

    The suffix of a MIRAX slide is in the case that OpenSlide needs.
    """
    name = url.rpartition("/")[2]
    if is_mirax(name):
        name = f"{folder_of(name)}{MIRAX_SUFFIX}"
    if _PLAIN_NAME.fullmatch(name) and len(name.encode()) <= _LONGEST_NAME_BYTES:
        return name
    suffix = re.search(r"[.][A-Za-z0-9]{1,10}$", name)
    return f"slide{suffix[0] if suffix else ''}"
