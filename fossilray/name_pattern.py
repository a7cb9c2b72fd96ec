"""Pattern of the user's own for names of slides: a regular expression with the groups well, depth and unit."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from re import _constants, _parser  # type: ignore[attr-defined]  # the only parser of Python's own expressions
from typing import Any

_GROUPS = frozenset(("well", "depth", "unit"))
_LONGEST_PATTERN = 500
# Names are cut off here, so that a search takes a bounded number of steps.
_LONGEST_NAME = 200
_MOST_REPEATS = 12
# Each of these may try every length at every place: more than so many, and a name of 200 letters takes minutes.
_MOST_OPEN_REPEATS = 3
_FEW = 8
_TRIAL_S = 10
_TRIAL = """
import re, sys
pattern, length = re.compile(sys.argv[1]), int(sys.argv[2])
for part in ("0", "a", "A", " ", "-", "_", ".", "/", "A1", "a ", "1 ", "1-", "A-1 "):
    pattern.search(part * (length // len(part)))
    pattern.search(part * (length // len(part)) + "~")
"""
_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+|\d+(?:[.,]\d+)?")


class NamePattern:
    """A compiled pattern.

    Raises:
        ValueError: it is no regular expression, lacks the groups, or could take very long.
    """

    def __init__(self, text: str) -> None:
        if len(text) > _LONGEST_PATTERN:
            raise ValueError(f"has {len(text)} characters, more than {_LONGEST_PATTERN}")
        try:
            self._pattern = re.compile(text)
            parsed = _parser.parse(text)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"is no regular expression: {error}") from None
        groups = set(self._pattern.groupindex)
        if groups - _GROUPS or not groups & {"well", "depth"}:
            raise ValueError(
                f"has the named groups {sorted(groups)}; expected (?P<well>...) or (?P<depth>...) or both, and "
                "perhaps (?P<unit>...)"
            )
        repeats = list(_repeats(parsed, inside=False))
        open_ones = sum(is_broad for is_broad in repeats)
        if len(repeats) > _MOST_REPEATS or open_ones > _MOST_OPEN_REPEATS:
            raise ValueError(
                f"has {len(repeats)} repeats, {open_ones} of them of many kinds of characters; at most {_MOST_REPEATS} "
                f"and {_MOST_OPEN_REPEATS} are searched in good time"
            )

    @classmethod
    def timed(cls, text: str) -> NamePattern:
        """The same, after it was tried on long names in a process of its own, which is ended if it takes too long.

        Raises:
            ValueError: as for the pattern, or it did take too long.
        """
        pattern = cls(text)
        try:
            subprocess.run(
                [sys.executable, "-I", "-c", _TRIAL, text, str(_LONGEST_NAME)], timeout=_TRIAL_S, check=True
            )
        except subprocess.TimeoutExpired:
            raise ValueError("takes too long to search a long name; write it with fewer repeats") from None
        return pattern

    def find(self, name: str) -> tuple[str | None, str | None, str | None] | None:
        """Well, depth as a number and its unit in a name; None if the pattern matches nowhere."""
        match = self._pattern.search(name[:_LONGEST_NAME])
        if match is None:
            return None
        groups = match.groupdict()
        well, depth, unit = (((groups.get(key) or "").strip() or None) for key in ("well", "depth", "unit"))
        return well, depth if depth and _NUMBER.fullmatch(depth) else None, unit


def _repeats(parsed: Any, *, inside: bool) -> Iterator[bool]:
    """For every repeat of varying length: whether it takes many kinds of characters.

    Raises:
        ValueError: one stands in another, or the pattern refers back to a group.
    """
    for kind, value in parsed:
        if kind in (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT):
            least, most, body = value
            varies = most > least and most > 1
            if varies and inside:
                raise ValueError("has a repeat inside a repeat, which may take very long; write it without")
            if varies:
                yield most > _FEW and _is_broad(body)
            yield from _repeats(body, inside=inside or (most > 1))
        elif kind in (_constants.GROUPREF, _constants.GROUPREF_EXISTS):
            raise ValueError("refers back to a group, which may take very long; write it without")
        else:
            for body in _bodies(value):
                yield from _repeats(body, inside=inside)


def _is_broad(body: Any) -> bool:
    """Whether what is repeated is anything but digits, blanks or single characters."""
    narrow = (_constants.CATEGORY_DIGIT, _constants.CATEGORY_SPACE)
    for kind, value in body:
        if kind is _constants.IN:
            if any(
                what is _constants.NEGATE
                or what is _constants.RANGE
                or (what is _constants.CATEGORY and which not in narrow)
                for what, which in value
            ) and not all(what is _constants.RANGE and chr(which[0]).isdigit() for what, which in value):
                return True
        elif kind is not _constants.LITERAL:
            return True
    return False


def _bodies(value: Any) -> Iterator[Any]:
    """Expressions inside an item of a parsed pattern."""
    if isinstance(value, _parser.SubPattern):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _bodies(one)
