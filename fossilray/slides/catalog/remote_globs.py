"""Globs of URLs, with the meaning that they have on a disk."""

from __future__ import annotations

import fnmatch
import glob


def root_of_url_glob(url: str) -> str:
    """Return the folder URL that the pattern names before its first wildcard."""
    parts = url.split("/")
    first = next(number for number, part in enumerate(parts) if number > 2 and glob.has_magic(part))
    return "/".join(parts[:first])


def matches_url_glob(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Return whether a path matches a glob as on a disk: `*` within a name, `**` over folders, neither hidden ones."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        if matches_url_glob(parts, pattern[1:]):
            return True
        return bool(parts) and not parts[0].startswith(".") and matches_url_glob(parts[1:], pattern)
    if not parts or (parts[0].startswith(".") and not pattern[0].startswith(".")):
        return False
    return fnmatch.fnmatchcase(parts[0], pattern[0]) and matches_url_glob(parts[1:], pattern[1:])
