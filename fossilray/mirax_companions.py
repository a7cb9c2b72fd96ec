"""The files a MIRAX slide consists of, and what is missing among them."""

from __future__ import annotations

import configparser
from pathlib import Path

from fossilray.errors import MissingCompanion, NotASlide

# Real ones have some hundred kB; more is no Slidedat.ini.
_LARGEST_SLIDEDAT_BYTES = 16_000_000
_IMAGE_STARTS = (b"\xff\xd8", b"BM", b"\x89PNG")


def check_mirax(path: Path) -> None:
    """Nothing, if every file of the MIRAX slide is there and not empty.

    A data file that is too short does not count as missing: what it lost shows when it is read.

    Raises:
        NotASlide: the .mrxs file is no image and stands alone.
        MissingCompanion: the folder, Slidedat.ini, Index.dat or a data file is missing or empty.
    """
    folder = path.with_suffix("")
    if not folder.is_dir():
        with path.open("rb") as file:
            start = file.read(8)
        if not start.startswith(_IMAGE_STARTS):
            raise NotASlide(
                f"{path.name} is no MIRAX slide: it is no image and there is no folder {folder.name} beside "
                "it; remove it, or copy the slide again with its folder"
            )
        raise MissingCompanion(
            f"{path.name} lacks its folder {folder.name}; copy the folder to the place beside it"
        )
    for name in companion_names(path):
        _check_file(path, folder / name)


def companion_names(path: Path) -> list[str]:
    """Names, below the slide's folder, of the files that Slidedat.ini asks for, itself first.

    Raises:
        MissingCompanion: Slidedat.ini is missing, or does not name them.
    """
    slidedat = path.with_suffix("") / "Slidedat.ini"
    _check_file(path, slidedat)
    if slidedat.stat().st_size > _LARGEST_SLIDEDAT_BYTES:
        raise MissingCompanion(f"{_shown(path, slidedat)} is too large to be one; copy the slide again")
    ini = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",), allow_no_value=True)
    try:
        ini.read_string(slidedat.read_bytes().decode("utf-8-sig", errors="replace"))
        names = [ini["HIERARCHICAL"]["INDEXFILE"] or ""]
        count = int(ini["DATAFILE"]["FILE_COUNT"] or "")
        names += [ini["DATAFILE"][f"FILE_{number}"] or "" for number in range(count)]
    except (configparser.Error, KeyError, ValueError) as error:
        raise MissingCompanion(
            f"{_shown(path, slidedat)} is damaged ({' '.join(str(error).split())}); copy the slide again"
        ) from None
    for name in names:
        if name in ("", ".", "..") or any(letter in name for letter in "/\\\0"):
            raise MissingCompanion(f"{_shown(path, slidedat)} names {name!r}, which is no file of its folder")
    return [slidedat.name, *names]


def _check_file(path: Path, file: Path) -> None:
    if not file.is_file():
        raise MissingCompanion(
            f"{path.name} lacks {_shown(path, file)}; copy the slide's folder again, whole"
        )
    if file.stat().st_size == 0:
        raise MissingCompanion(
            f"{_shown(path, file)} is empty (0 bytes); copy the slide's folder again, whole"
        )


def _shown(path: Path, file: Path) -> str:
    return f"{path.with_suffix('').name}/{file.name}"
