"""The slide_id that a slide's path gives."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import PurePosixPath
from urllib.parse import quote

from fossilray.core.errors import CatalogError, UsageError
from fossilray.core.records import CatalogRow

# The first endings by which files were found: the ids of slides in existing runs depend on them.
_FIRST_SUFFIXES = frozenset(
    (".mrxs", ".svs", ".tif", ".tiff", ".ndpi", ".scn", ".bif", ".svslide", ".vms", ".vmu")
)
SLIDE_SUFFIXES = _FIRST_SUFFIXES | {".dcm", ".czi", ".avs"}
"""Endings, lower case, by which a file looks like a slide."""

_LONGEST_READABLE = 100
_HASH_DIGITS = 12
_PLAIN_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9-])?")
_LIKE_HASHED = re.compile(rf".*-[0-9a-f]{{{_HASH_DIGITS}}}")


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
        or (parts != list(relative_path.parts) and PurePosixPath(joined).suffix.lower() in _FIRST_SUFFIXES)
        or _LIKE_HASHED.fullmatch(joined)
    )
    if (
        parts
        and len(joined) <= _LONGEST_READABLE
        and not named_like_another
        and all(_PLAIN_PART.fullmatch(part) for part in parts)
    ):
        return joined
    return _with_hash(joined, relative_path)


def distinct_slide_id(relative_path: PurePosixPath) -> str:
    """An id with a hash of the whole path, for a slide of a newer ending whose plain id is another slide's."""
    return _with_hash("__".join(relative_path.parts), relative_path)


def has_first_suffix(path: str) -> bool:
    """Return whether a file has one of the endings by which slides were found from the beginning."""
    return PurePosixPath(path).suffix.lower() in _FIRST_SUFFIXES


def _with_hash(joined: str, relative_path: PurePosixPath) -> str:
    digest = hashlib.sha256(os.fsencode(str(relative_path))).hexdigest()[:_HASH_DIGITS]
    return f"{_readable(joined)}-{digest}"


def _readable(text: str) -> str:
    folded = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    signs = re.sub(r"[^A-Za-z0-9._-]+", "_", folded)
    return re.sub(r"\.{2,}", ".", signs).strip("._-")[:_LONGEST_READABLE].rstrip("._-") or "slide"


LONGEST_SLIDE_ID_BYTES = 200
"""File names may have 255 bytes; the rest is left for what is appended."""


LONGEST_WELL_BYTES = 240
"""Longest name of a well's folder, percent-encoded."""


_NO_VALUE_IN_HIVE = "__HIVE_DEFAULT_PARTITION__"


# Letters and digits of any script; what glob, Hive, a shell or Windows reads as a sign is left out.
SAFE_NAME = re.compile(r"\w(?:[\w\-.+,@() ]*[\w\-+@()])?")


def check_slide_id(slide_id: str) -> str:
    """The slide_id, safe as a file name on a disk and as a part of an object store's key.

    Raises:
        CatalogError: it is not; paths made of it could leave the run directory or confuse readers of it.
    """
    if (
        not SAFE_NAME.fullmatch(slide_id)
        or ".." in slide_id
        or len(slide_id.encode()) > LONGEST_SLIDE_ID_BYTES
    ):
        raise CatalogError(
            f"slide_id {slide_id!r} is not safe as a file name; use at most {LONGEST_SLIDE_ID_BYTES} letters, "
            "digits, spaces and _ - . + , @ ( ), beginning with a letter or digit and without two dots in a row"
        )
    return slide_id


def check_well(well: str) -> str:
    """The well, fit to name a folder of `objects`.

    Raises:
        CatalogError: as a folder its name would be too long, or mean no well at all.
    """
    if len(quote(well, safe="")) > LONGEST_WELL_BYTES or well == _NO_VALUE_IN_HIVE:
        raise CatalogError(
            f"the well {well[:60]!r} cannot name a folder; use a name of at most {LONGEST_WELL_BYTES} bytes, where "
            "signs other than letters, digits and _ . - ~ count three each"
        )
    return well


def describe_missing_sites(rows: Sequence[CatalogRow]) -> str | None:
    """Return one sentence on slides without a well or a depth; None if there are none."""
    without_well = sum(row.well is None for row in rows)
    without_depth = sum(row.measured_depth_m is None for row in rows)
    if not (without_well or without_depth):
        return None
    counts = [
        f"{count:,} of {len(rows):,} slides have no {what}"
        for count, what in ((without_well, "well"), (without_depth, "measured depth"))
        if count
    ]
    remedy = "give slides.name_pattern, or fill the columns well and measured_depth_m of a catalog"
    return f"{' and '.join(counts)}: {remedy}"


def parse_object_name(text: str) -> tuple[str, int]:
    """Parse SLIDE:ID into slide_id and object_id.

    Raises:
        UsageError: the text is not of that form.
    """
    slide_id, separator, number = text.rpartition(":")
    if not separator or not slide_id or not (number.isascii() and number.isdecimal()) or len(number) > 9:
        raise UsageError(
            f"--object {text!r:.120} is not SLIDE:ID, such as a-2030:17 (slide_id and object_id)"
        )
    return slide_id, int(number)
