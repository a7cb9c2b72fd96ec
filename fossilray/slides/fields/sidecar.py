"""Resolution of fields of view in a small JSON file beside them, which camera software does not write into images.

`IMAGE.jpg.json` or `IMAGE.json` states it for `IMAGE.jpg`, `fields.json` for the images of its folder: `{"mpp": 0.12}`.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from fossilray.core.errors import DamagedFile, MissingResolution
from fossilray.core.formats import FileRole
from fossilray.core.formats.json_text import parse_json
from fossilray.core.formats.regular_file import read_regular
from fossilray.core.os_errors import NOT_FOUND
from fossilray.core.plausible_values import why_no_mpp

FOLDER_SIDECAR = "fields.json"
"""Sidecar of all images directly in its folder."""

MOST_SIDECAR_BYTES = 1 << 20
"""A larger file belongs to another program."""
_KEY = "mpp"


def sidecar_mpp(path: Path) -> float | None:
    """Return the um per px that a sidecar states for an image on a disk; None if there is no sidecar.

    Raises:
        MissingResolution: a sidecar cannot be used.
        OSError: one cannot be read.
    """
    return find_mpp(path.name, lambda name: _content(path.with_name(name)), where=str(path.parent))


def find_mpp(image: str, read: Callable[[str], bytes | None], *, where: str) -> float | None:
    """Return the um per px that a sidecar states for an image; that of the image itself comes first.

    image: its name. read: returns the content of a file beside it, by name; None if there is none. where: the folder,
    for messages.

    Raises:
        MissingResolution: a sidecar cannot be used.
    """
    for name in sidecar_names(image):
        content = read(name)
        if content is None:
            continue
        mpp = _stated(content, f"{where}/{name}", is_optional=name != FOLDER_SIDECAR)
        if mpp is not None:
            return mpp
    return None


def sidecar_names(image: str) -> tuple[str, ...]:
    """Return the names of the files that may state the resolution of an image, in the order in which they count."""
    return f"{image}.json", f"{PurePosixPath(image).stem}.json", FOLDER_SIDECAR


def source_of_mpp(source: str, listed: str | None) -> str:
    """Return what states the um per px of a slide: found in it and its row, or a sidecar that its row was made by.

    source: as `choose_mpp` returns it. listed: as the row has it; a sidecar is not copied with a slide that is staged.
    """
    return "sidecar" if source == "catalog" and listed == "sidecar" else source


def _stated(content: bytes, name: str, *, is_optional: bool) -> float | None:
    """Return the um per px of a sidecar. is_optional: a file without them belongs to another program."""
    role = FileRole(
        name,
        "the um per px of images",
        'write {"mpp": 0.12} with the um per px of a stage micrometer, or remove it',
        MissingResolution,
    )
    if len(content) > MOST_SIDECAR_BYTES:
        if is_optional:
            return None
        raise role.damaged(f"it has more than {MOST_SIDECAR_BYTES:,} bytes")
    try:
        # Editors of Windows write a byte order mark.
        stated = parse_json(
            content.removeprefix(codecs.BOM_UTF8), FileRole(name, role.use, role.remedy, DamagedFile)
        )
    except DamagedFile:
        if is_optional:
            return None
        raise role.damaged("it is no JSON") from None
    if not isinstance(stated, Mapping) or _KEY not in stated:
        if is_optional:
            return None
        raise role.damaged("it has no key mpp")
    value = stated[_KEY]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise role.damaged(f"mpp is {value!r:.40}, no number with a decimal point")
    why = why_no_mpp(float(value))
    if why is not None:
        raise role.damaged(f"mpp is {value!r:.40}, {why}")
    return float(value)


def _content(path: Path) -> bytes | None:
    try:
        return read_regular(path, most_bytes=MOST_SIDECAR_BYTES)
    except OSError as error:
        if error.errno in NOT_FOUND:
            return None
        raise
