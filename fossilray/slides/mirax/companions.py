"""Files of a MIRAX slide: names, and checks for missing or empty ones."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from stat import S_ISDIR, S_ISREG

from fossilray.core.errors import MissingCompanion, NotASlide
from fossilray.slides.mirax.names import SLIDEDAT
from fossilray.slides.mirax.slidedat import (
    Slidedat,
    check_claims,
    check_records,
    parse_slidedat,
    zoom_levels,
)
from fossilray.slides.refusals import unsupported_mirax_layout, unsupported_mirax_tiles

# Real ones have some hundred kB; more is no Slidedat.ini.
_LARGEST_SLIDEDAT_BYTES = 16_000_000

_IMAGE_STARTS = (b"\xff\xd8", b"BM", b"\x89PNG")


def check_mirax(path: Path, *, max_gigapixels: float) -> None:
    """Check that every file of the MIRAX slide is there and not empty, and that Slidedat.ini makes possible claims.

    A data file that is too short is not reported here: the loss shows when its tiles are read.

    Raises:
        NotASlide: the .mrxs file is no image and has no folder.
        MissingCompanion: the folder, Slidedat.ini, Index.dat or a data file is missing, empty or damaged.
        TooLarge: Slidedat.ini claims more than `max_gigapixels`, or photos too large to decode.
        UnsupportedSlide: OpenSlide does not read its layout, or the format of its tiles.
    """
    folder = path.with_suffix("")
    if not _is_folder(folder):
        with path.open("rb") as file:
            raise folder_missing_message(path.name, file.read(8))
    slidedat = folder / SLIDEDAT
    _check_file(path, slidedat)
    check_slidedat_size(path.name, slidedat.stat().st_size)
    ini = read_slidedat(path.name, slidedat.read_bytes())
    for name in names_in(path.name, ini):
        _check_file(path, folder / name)
    check_claims(ini, _shown(path.name, SLIDEDAT), max_gigapixels=max_gigapixels)
    check_support(ini, path.name)
    index = ini["HIERARCHICAL"]["INDEXFILE"]
    with (folder / index).open("rb") as file:
        check_records(file, ini, _shown(path.name, index))


def folder_missing_message(slide: str, start: bytes) -> NotASlide | MissingCompanion:
    """Return the error for a .mrxs file that has no folder; start: its first bytes."""
    folder = PurePosixPath(slide).stem
    if not start.startswith(_IMAGE_STARTS):
        return NotASlide(
            f"{slide} is no MIRAX slide: it is no image and there is no folder {folder} beside it; remove it, "
            "or copy the slide again with its folder"
        )
    return MissingCompanion(f"{slide} lacks its folder {folder}; copy the folder beside it")


def file_missing_message(folder: str) -> str:
    """Return the message for the folder of a MIRAX slide that has no .mrxs file."""
    return f"the folder {folder} is part of a MIRAX slide whose {folder}.mrxs is missing beside it"


def check_part(slide: str, part: str, size: int | None) -> None:
    """Check that a file of the slide's folder exists and is not empty. size: in bytes; None if it is missing.

    Raises:
        MissingCompanion: the file is missing or empty.
    """
    if size is None:
        raise MissingCompanion(f"{slide} lacks {_shown(slide, part)}; copy the slide's folder again, whole")
    if size == 0:
        raise MissingCompanion(
            f"{_shown(slide, part)} is empty (0 bytes); copy the slide's folder again, whole"
        )


def check_slidedat_size(slide: str, size: int) -> None:
    """Check that Slidedat.ini is not too large: at most 16 MB.

    Raises:
        MissingCompanion: it is larger.
    """
    if size > _LARGEST_SLIDEDAT_BYTES:
        raise MissingCompanion(f"{_shown(slide, SLIDEDAT)} is too large to be one; copy the slide again")


def read_slidedat(slide: str, content: bytes) -> Slidedat:
    """Parse the content of a Slidedat.ini.

    Raises:
        MissingCompanion: it is damaged.
    """
    try:
        return parse_slidedat(content)
    except ValueError as error:
        raise _damaged(slide, error) from None


def check_support(ini: Slidedat, slide: str) -> None:
    """Check that OpenSlide reads the layout of a sound slide and the format of its tiles. slide: its name.

    Raises:
        UnsupportedSlide: it does not.
        KeyError, ValueError: Slidedat.ini has no levels, which `check_claims` reports.
    """
    levels = zoom_levels(ini)
    for level in levels:
        refusal = unsupported_mirax_tiles(slide, level.get("IMAGE_FORMAT", ""))
        if refusal is not None:
            raise refusal
    not_halved = [
        number
        for number, level in enumerate(levels)
        if number and level.get("IMAGE_CONCAT_FACTOR", "").strip() == "0"
    ]
    if not_halved:
        raise unsupported_mirax_layout(slide, ini["GENERAL"].get("CURRENT_SLIDE_VERSION", "1.8"), not_halved)


def names_in(slide: str, ini: Slidedat) -> list[str]:
    """Return the names of the files that a Slidedat.ini refers to, itself first; none leads out of the folder.

    Raises:
        MissingCompanion: it does not name them.
    """
    try:
        names = [ini["HIERARCHICAL"]["INDEXFILE"]]
        count = int(ini["DATAFILE"]["FILE_COUNT"])
        names += [ini["DATAFILE"][f"FILE_{number}"] for number in range(count)]
    except (KeyError, ValueError) as error:
        raise _damaged(slide, error) from None
    for name in names:
        if name in ("", ".", "..") or any(letter in name for letter in "/\\\0"):
            raise MissingCompanion(
                f"{_shown(slide, SLIDEDAT)} names {name!r}, which is no file of its folder"
            )
    return [SLIDEDAT, *names]


def _damaged(slide: str, error: Exception) -> MissingCompanion:
    return MissingCompanion(
        f"{_shown(slide, SLIDEDAT)} is damaged ({' '.join(str(error).split())}); copy the slide again"
    )


def _check_file(path: Path, file: Path) -> None:
    try:
        status = file.stat()
    except FileNotFoundError:
        check_part(path.name, file.name, None)
        return
    check_part(path.name, file.name, status.st_size if S_ISREG(status.st_mode) else None)


def _is_folder(path: Path) -> bool:
    """Return whether the path is a folder; unlike Path.is_dir, disk errors are raised."""
    try:
        return S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _shown(slide: str, part: str) -> str:
    return f"{PurePosixPath(slide).stem}/{part}"
