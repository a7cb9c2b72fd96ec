"""Misnamed MIRAX slides on a disk, opened through links of the right names in a scratch folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from fossilray.core.errors import MisnamedSlide, MissingCompanion, NotASlide, ScratchFull
from fossilray.slides.access import as_slide_error
from fossilray.slides.mirax.companions import check_part, check_slidedat_size, names_in, read_slidedat
from fossilray.slides.mirax.names import (
    MIRAX_SUFFIX,
    SLIDEDAT,
    is_slidedat,
    match_name,
    mirax_stem,
    name_key,
    paired_folders,
    rename_message,
)
from fossilray.slides.remote.scratch import Scratch

# More folders than that are not searched for the one of a renamed slide.
_MOST_FOLDERS = 20


class LinkedSlide:
    """Links of the right names to the files of one slide. path: of the .mrxs file among them.

    links: what they lead to, by name.

    Raises:
        ScratchFull: they cannot be made.
    """

    def __init__(self, stem: str, links: dict[str, Path]) -> None:
        self._scratch = Scratch(None)
        self.path = self._scratch.folder / f"{stem}{MIRAX_SUFFIX}"
        try:
            self.path.with_suffix("").mkdir()
            for name, target in links.items():
                os.symlink(os.path.abspath(target), self._scratch.folder / name)  # noqa: PTH100, PTH211
        except OSError as error:
            self.close()
            raise ScratchFull(f"links cannot be made in {self._scratch.folder}: {error.strerror}") from None

    def close(self) -> None:
        """Delete the links."""
        self._scratch.close()


def check_names(path: Path, check: Callable[[Path], None]) -> LinkedSlide | None:
    """Check the files of a slide; return links to them, which are checked, if it is MIRAX and misnamed.

    check: checks the files that belong to a path.

    Raises:
        MisnamedSlide: files must be renamed: two may stand for one, or links cannot be made.
        SlideError, OSError: as `check` raises.
    """
    stem = mirax_stem(path.name)
    links = None
    try:
        check(path)
        if stem is not None and path.suffix != MIRAX_SUFFIX:
            links = _link(path, stem)
    except (NotASlide, MissingCompanion) as error:
        if stem is None:
            raise
        links = _link(path, stem)
        if links is None:
            if isinstance(error, MissingCompanion) and not os.path.isdir(path.with_suffix("")):  # noqa: PTH112
                _check_renamed(path)
            raise
    if links is not None:
        try:
            check(links.path)
        except BaseException:
            links.close()
            raise
    return links


def _link(path: Path, stem: str) -> LinkedSlide | None:
    """Return links to a slide's files; None if none is misnamed, or one is missing under any name."""
    try:
        return _link_files(path, stem)
    except OSError as error:
        raise as_slide_error(error, error.filename or path) or error from None


def _link_files(path: Path, stem: str) -> LinkedSlide | None:
    folder = _folder_of(path, stem)
    if folder is None:
        return None
    present = set(os.listdir(folder))  # noqa: PTH208
    slidedat = match_name(path.name, SLIDEDAT, present)
    if slidedat is None:
        return None
    check_slidedat_size(path.name, (folder / slidedat).stat().st_size)
    names = names_in(path.name, read_slidedat(path.name, (folder / slidedat).read_bytes()))
    matches = {name: match_name(path.name, name, present) for name in names}
    files = {name: actual for name, actual in matches.items() if actual is not None}
    for name in sorted(matches.keys() - files):
        check_part(path.name, name, None)
    main = f"{stem}{MIRAX_SUFFIX}"
    wrong = {wanted: actual for wanted, actual in files.items() if wanted != actual}
    wrong |= {
        wanted: actual for wanted, actual in ((main, path.name), (stem, folder.name)) if wanted != actual
    }
    if not wrong:
        return None
    links = {main: path} | {f"{stem}/{wanted}": folder / actual for wanted, actual in files.items()}
    try:
        return LinkedSlide(stem, links)
    except ScratchFull as error:
        raise MisnamedSlide(f"{rename_message(path.name, wrong)} ({error})") from None


def _check_renamed(path: Path) -> None:
    """Check that a MIRAX slide without a folder was not renamed without it.

    Raises:
        MisnamedSlide: one folder beside it, and no other, is that of a slide whose .mrxs file is missing.
    """
    try:
        with os.scandir(path.parent) as entries:
            listed = [(entry.name, entry.is_dir()) for entry in entries]
        folders = {name for name, is_folder in listed if is_folder}
        free = folders - paired_folders((name for name, is_folder in listed if not is_folder), folders)
        if len(free) > _MOST_FOLDERS:
            return
        orphans = [name for name in free if any(map(is_slidedat, os.listdir(path.parent / name)))]  # noqa: PTH208
    except OSError:
        return
    if len(orphans) == 1:
        raise MisnamedSlide(
            f"{path.name} lacks its folder {path.stem}, and the folder {orphans[0]} beside it lacks its .mrxs file; if "
            f"they are one slide, rename {orphans[0]} to {path.stem}"
        )


def _folder_of(path: Path, stem: str) -> Path | None:
    with os.scandir(path.parent) as entries:
        folders = {
            entry.name for entry in entries if name_key(entry.name) == name_key(stem) and entry.is_dir()
        }
    name = match_name(path.name, stem, folders)
    return None if name is None else path.parent / name
