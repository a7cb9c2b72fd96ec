"""What a slide's name gives: its slide_id, its well and its depth."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath

SLIDE_SUFFIXES = frozenset(
    (".mrxs", ".svs", ".tif", ".tiff", ".ndpi", ".scn", ".bif", ".svslide", ".vms", ".vmu")
)
"""Endings, lower case, by which a file looks like a slide."""

_LONGEST_READABLE = 100
_HASH_DIGITS = 12
_PLAIN_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9-])?")
_LIKE_HASHED = re.compile(rf".*-[0-9a-f]{{{_HASH_DIGITS}}}")
_METRES_PER_FOOT = 0.3048
_DEEPEST_M = 15_000

# Quadrant, block, platform, number, sidetrack. Quadrants of the Norwegian Sea and the Barents Sea have four
# digits (latitude, longitude); elsewhere at most three.
_WELL = re.compile(
    r"(?<![A-Za-z0-9.,])(?:NO[ _-]?)?"
    r"(?P<quadrant>[67]\d{3}|[1-9]\d{0,2})(?P<slash>[/_-])(?P<block>[1-9]\d?)"
    r"-(?:(?P<platform>[A-Z])-)?(?P<number>[1-9]\d{0,2})"
    r"(?:[ _-]?(?P<sidetrack>[A-DRST]{1,2}\d?))?(?![A-Za-z0-9.,])"
)
# A unit that goes on in small letters is another unit (mm, mpp) or a word.
_DEPTH = re.compile(
    r"(?<![A-Za-z0-9.,])(?P<from>\d+(?:[.,]\d+)?\s*-\s*)?(?P<number>\d{1,5}(?:[.,]\d+)?)[ _]?"
    r"(?P<unit>m|ft|Ft|FT|feet)(?![a-z0-9])(?P<vertical>[ _]?TVD)?"
)


def slide_id_for(relative_path: PurePosixPath) -> str:
    """An id of letters, digits, `.`, `_` and `-` for a slide, from its path below the catalog's root.

    Plain names stand for themselves: folders are joined by `__`, the ending .mrxs is left out. Any other path
    becomes what is readable of it and a hash of the whole, so that two paths never share an id.
    """
    parts = list(relative_path.parts)
    if parts and parts[-1].endswith(".mrxs"):
        parts[-1] = parts[-1].removesuffix(".mrxs")
    joined = "__".join(parts)
    named_like_another = (
        any("__" in part or ".." in part for part in parts)
        or (parts != list(relative_path.parts) and PurePosixPath(joined).suffix.lower() in SLIDE_SUFFIXES)
        or _LIKE_HASHED.fullmatch(joined)
    )
    if (
        parts
        and len(joined) <= _LONGEST_READABLE
        and not named_like_another
        and all(_PLAIN_PART.fullmatch(part) for part in parts)
    ):
        return joined
    digest = hashlib.sha256(os.fsencode(str(relative_path))).hexdigest()[:_HASH_DIGITS]
    return f"{_readable(joined)}-{digest}"


def parse_name(stem: str) -> tuple[str | None, float | None]:
    """Well and measured depth (m) in a name such as `6407_6-5 2030 mDC`; None for what it does not say.

    Cautious: a date is no well, a range of depths or a vertical depth is no measured depth. Feet become metres.
    """
    wells = [match for match in _WELL.finditer(stem) if _is_well(match)]
    well = wells[0] if len({_well_name(match) for match in wells}) == 1 else None
    rest = stem if well is None else f"{stem[: well.start()]} {stem[well.end() :]}"
    depths = {_depth_m(match) for match in _DEPTH.finditer(rest)}
    depth = depths.pop() if len(depths) == 1 else None
    return (_well_name(well) if well else None), depth


def well_of_folders(names: Iterable[str]) -> str | None:
    """The well that the first of these folders is named after that is named after any."""
    return next((well for well, _ in map(parse_name, names) if well), None)


def _readable(text: str) -> str:
    folded = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    signs = re.sub(r"[^A-Za-z0-9._-]+", "_", folded)
    return re.sub(r"\.{2,}", ".", signs).strip("._-")[:_LONGEST_READABLE].rstrip("._-") or "slide"


def _is_well(match: re.Match[str]) -> bool:
    quadrant = match["quadrant"]
    far_north = len(quadrant) == 4
    if int(match["block"]) > (12 if far_north else 30):
        return False
    # 12-6-19 may be a date.
    return match["slash"] != "-" or far_north or match["platform"] is not None


def _well_name(match: re.Match[str]) -> str:
    platform = f"{match['platform']}-" if match["platform"] else ""
    sidetrack = f" {match['sidetrack']}" if match["sidetrack"] else ""
    return f"{match['quadrant']}/{match['block']}-{platform}{match['number']}{sidetrack}"


def _depth_m(match: re.Match[str]) -> float | None:
    if match["from"] or match["vertical"]:
        return None
    number = float(match["number"].replace(",", "."))
    depth = number if match["unit"] == "m" else round(number * _METRES_PER_FOOT, 3)
    return depth if 0 < depth <= _DEEPEST_M else None
