"""Names of a MIRAX slide's files, matched without regard to case: copies over Windows shares change it.

OpenSlide takes names literally: the ending `.mrxs`, a folder of the slide's name, `Slidedat.ini`, and the names that
Slidedat.ini states. Letters with accents may also be stored composed or decomposed, as macOS does.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable
from pathlib import PurePosixPath

from fossilray.core.errors import MisnamedSlide

MIRAX_SUFFIX = ".mrxs"
SLIDEDAT = "Slidedat.ini"


def name_key(name: str) -> str:
    """Return the form of a name in which names that differ in case or in composed letters are equal."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def is_slidedat(name: str) -> bool:
    """Return whether a file name is that of Slidedat.ini, in any case."""
    return name_key(name) == name_key(SLIDEDAT)


def match_name(slide: str, wanted: str, present: Iterable[str]) -> str | None:
    """Return the name among those present that stands for the wanted one: itself, or another case of it.

    slide: name of the slide, for messages.

    Raises:
        MisnamedSlide: two names may stand for it.
    """
    present = present if isinstance(present, Collection) else list(present)
    if wanted in present:
        return wanted
    key = name_key(wanted)
    fitting = sorted(name for name in present if name_key(name) == key)
    if len(fitting) > 1:
        raise MisnamedSlide(
            f"{slide} needs {wanted}, and both {fitting[0]} and {fitting[1]} may stand for it; rename the right one to "
            f"{wanted} and remove the other"
        )
    return fitting[0] if fitting else None


def paired_folders(slides: Iterable[str], folders: Collection[str]) -> set[str]:
    """Return the folders that belong to the MIRAX slides beside them, by exact name, else in any other case.

    slides: names of files. folders: names of the folders beside them.
    """
    by_key: dict[str, list[str]] = {}
    for folder in folders:
        by_key.setdefault(name_key(folder), []).append(folder)
    paired: set[str] = set()
    for slide in slides:
        stem = mirax_stem(slide)
        if stem is not None:
            paired.update([stem] if stem in folders else by_key.get(name_key(stem), ()))
    return paired


def mirax_stem(slide: str) -> str | None:
    """Return the name of the folder of a MIRAX slide; None for a file with another ending."""
    path = PurePosixPath(slide)
    return path.stem if path.suffix.lower() == MIRAX_SUFFIX else None


def rename_message(slide: str, wrong: dict[str, str]) -> str:
    """Return the sentence about files to rename. wrong: the present names by those that are needed."""
    renames = [f"{present} to {wanted}" for wanted, present in wrong.items()]
    shown = ", ".join(renames[:5]) + (f" and {len(renames) - 5} others" if len(renames) > 5 else "")
    return f"{slide} has files under other names than OpenSlide needs: rename {shown}"
