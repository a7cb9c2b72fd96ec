"""The slide_id that a slide's path gives."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from pathlib import PurePosixPath

SLIDE_SUFFIXES = frozenset(
    (".mrxs", ".svs", ".tif", ".tiff", ".ndpi", ".scn", ".bif", ".svslide", ".vms", ".vmu")
)
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


def _readable(text: str) -> str:
    folded = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    signs = re.sub(r"[^A-Za-z0-9._-]+", "_", folded)
    return re.sub(r"\.{2,}", ".", signs).strip("._-")[:_LONGEST_READABLE].rstrip("._-") or "slide"
