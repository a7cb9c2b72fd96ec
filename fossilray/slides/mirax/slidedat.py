"""Slidedat.ini of a MIRAX slide: groups and keys as OpenSlide reads them, and checks of its claims.

OpenSlide 4.0 does not check the file: claims of 10^9 photos, of a photo of 65,500 px a side, or of an overlap of nan
end the process or run forever. They are refused here, before OpenSlide opens the slide.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from typing import BinaryIO, TypeAlias

from fossilray.core.errors import MissingCompanion, TooLarge
from fossilray.slides.limits import LARGEST_ACCEPTED_TILE_PX

Slidedat: TypeAlias = Mapping[str, Mapping[str, str]]


# A slide of 200 gigapixels in tiles of 256 px has 3 million; OpenSlide keeps 8 bytes for each.
_MOST_PHOTOS = 20_000_000
# A level is at most half the one before it, and the format cannot express 2^32 px a side.
_MOST_LEVELS = 32
_ZOOM = "Slide zoom level"
_RECORD_COUNT = re.compile(r"NONHIER_[0-9]+_COUNT")
_MOST_RECORDS = 10_000
_WHOLE = re.compile(r"[+-]?[0-9]{1,10}")
# White space of GLib's key files; Python's own set would find keys where GLib finds none.
_BLANKS = " \t\r\n\v\f"


def parse_slidedat(content: bytes) -> Slidedat:
    """Return values by group and key, parsed as GLib parses a key file: the last value counts, names keep their case.

    A parser with other rules (such as configparser's continuation lines) could find other values than OpenSlide does.
    Lines that are neither groups nor keys are skipped: OpenSlide refuses the file for them.

    Raises:
        ValueError: the file contains zero bytes, which end strings in GLib but not in Python.
    """
    if b"\0" in content:
        raise ValueError("it holds zero bytes")
    groups: dict[str, dict[str, str]] = {}
    keys: dict[str, str] = {}
    for raw in content.decode("utf-8-sig", errors="replace").split("\n"):
        line = raw.strip(_BLANKS)
        if line.startswith("[") and line.endswith("]"):
            keys = groups.setdefault(line[1:-1], {})
        elif not line.startswith("#") and "=" in line:
            key, _, value = line.partition("=")
            keys[key.rstrip(_BLANKS)] = value.lstrip(_BLANKS)
    return groups


def check_claims(ini: Slidedat, shown: str, *, max_gigapixels: float) -> None:
    """Check that OpenSlide can open a slide with this Slidedat.ini safely. shown: its name in messages.

    Raises:
        TooLarge: it claims more photos, larger photos or more pixels than the limits.
        MissingCompanion: it lacks a key, or states impossible photos or levels.
    """
    try:
        _check_photos(ini, shown, max_gigapixels=max_gigapixels)
    except KeyError as error:
        raise MissingCompanion(f"{shown} lacks {error.args[0]!r}; copy the slide again") from None
    except ValueError as error:
        raise MissingCompanion(f"{shown} is damaged ({error}); copy the slide again") from None


def check_records(index: BinaryIO, ini: Slidedat, shown: str) -> None:
    """Check that no record of Index.dat claims fewer than 0 bytes, which OpenSlide would allocate as 2^64.

    index: the open file. shown: its name in messages. Lists with pointers beyond the file are left to OpenSlide,
    which refuses them.

    Raises:
        MissingCompanion: a record does.
    """
    tree, start = ini["HIERARCHICAL"], len("01.02") + len(ini["GENERAL"].get("SLIDE_ID", "").encode())
    records = [number for name, number in tree.items() if _RECORD_COUNT.fullmatch(name)]
    count = sum(int(number) for number in records if _WHOLE.fullmatch(number.strip(_BLANKS)))
    heads = _numbers(index, start + 4, 1)
    for head in _numbers(index, heads[0], min(max(count, 0), _MOST_RECORDS)) if heads else ():
        # A list begins with an empty page and the position of its first page; that page holds its length, the
        # position of the next page, two zeros, and then the offset, bytes and file of its first entry.
        first = _numbers(index, head + 4, 1)
        entry = _numbers(index, first[0], 7) if first else ()
        if len(entry) == 7 and entry[5] < 0:
            raise MissingCompanion(f"{shown} is damaged (a record of {entry[5]} bytes); copy the slide again")


def _numbers(index: BinaryIO, offset: int, count: int) -> tuple[int, ...]:
    """Read up to `count` little-endian 32-bit numbers of Index.dat; fewer at its end, none at a negative offset."""
    if offset < 0:
        return ()
    index.seek(offset)
    content = index.read(4 * count)
    return struct.unpack(f"<{len(content) // 4}i", content[: len(content) // 4 * 4])


def _check_photos(ini: Slidedat, shown: str, *, max_gigapixels: float) -> None:
    general = ini["GENERAL"]
    across, down = (_whole(general, f"IMAGENUMBER_{axis}", least=1) for axis in "XY")
    divisions = 1
    if "CameraImageDivisionsPerSide" in general:
        divisions = _whole(general, "CameraImageDivisionsPerSide", least=1)
    if divisions > min(across, down):
        raise ValueError(f"{across} x {down} photos in {divisions} divisions a side")
    if across * down > _MOST_PHOTOS:
        raise TooLarge(
            f"{shown} claims {across} x {down} photos, more than the {_MOST_PHOTOS:,} that any scanner takes; "
            "copy the slide again"
        )
    for number, level in enumerate(zoom_levels(ini)):
        width, height = (_whole(level, f"DIGITIZER_{side}", least=1) for side in ("WIDTH", "HEIGHT"))
        if width * height > LARGEST_ACCEPTED_TILE_PX:
            raise TooLarge(
                f"{shown} claims photos of {width} x {height} px, more than the {LARGEST_ACCEPTED_TILE_PX / 1e6:.0f} "
                "megapixels that are decoded at once; copy the slide again"
            )
        gigapixels = across * down * width * height / 1e9
        if not number and gigapixels > max_gigapixels:
            raise TooLarge(
                f"{shown} claims {gigapixels:,.1f} gigapixels, more than slides.max_gigapixels "
                f"({max_gigapixels:g}); raise that if the slide is sound"
            )
        for axis, side in (("X", width), ("Y", height)):
            overlap = float(level[f"OVERLAP_{axis}"])
            # Photos overlap; a photo is as many stored tiles as it has divisions.
            if not (math.isfinite(overlap) and abs(overlap) < side * divisions):
                raise ValueError(f"OVERLAP_{axis} of level {number} is {level[f'OVERLAP_{axis}']!r:.40}")


def zoom_levels(ini: Slidedat) -> list[Mapping[str, str]]:
    """Return the group of each level; empty if there is no hierarchy of levels, which OpenSlide refuses itself."""
    tree = ini["HIERARCHICAL"]
    for hierarchy in range(_whole(tree, "HIER_COUNT", least=0)):
        # A count that is too high ends in the KeyError of the first missing hierarchy.
        if tree[f"HIER_{hierarchy}_NAME"] == _ZOOM:
            count = _whole(tree, f"HIER_{hierarchy}_COUNT", least=1)
            if count > _MOST_LEVELS:
                raise ValueError(f"{count} levels")
            return [ini[tree[f"HIER_{hierarchy}_VAL_{level}_SECTION"]] for level in range(count)]
    return []


def _whole(keys: Mapping[str, str], key: str, *, least: int) -> int:
    text = keys[key]
    if not _WHOLE.fullmatch(text.strip(_BLANKS)) or int(text) < least:
        raise ValueError(f"{key} is {text!r:.40}")
    return int(text)
