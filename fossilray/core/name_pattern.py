"""Pattern of the user's own for names of slides: a regular expression with groups for well, depths and sample type."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from re import _constants, _parser  # type: ignore[attr-defined]  # the only parser of Python's own expressions
from typing import Any

_GROUPS = ("well", "depth", "top", "base", "unit", "sample_type")
_STATING = frozenset(("well", "depth", "top", "base", "sample_type"))
_LONGEST_PATTERN = 500
# Names are cut off here, so that a search takes a bounded number of steps.
_LONGEST_NAME = 200
_MOST_REPEATS = 12
# Each of these may try every length at every position: with more of them a name of 200 letters takes minutes.
_MOST_OPEN_REPEATS = 3
_FEW = 8
# Ways to choose among alternatives and optional parts: a search that fails may try each.
_MOST_CHOICES = 4096
_TRIAL_S = 10
# Every name that the process finishes is safe to search in this one.
_TRIAL = """
import json, re, sys
text, names = json.load(sys.stdin)
pattern = re.compile(text)
for name in names:
    pattern.search(name)
"""
_TRIED = ("0", "a", "A", " ", "-", "_", ".", "/", "A1", "a ", "1 ", "1-", "A-1 ")
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
        self.text = text
        groups = set(self._pattern.groupindex)
        if groups - set(_GROUPS) or not groups & _STATING:
            raise ValueError(
                f"has the named groups {sorted(groups)}; expected (?P<well>...) or (?P<depth>...) or both, and "
                "perhaps (?P<unit>...), (?P<sample_type>...), or (?P<top>...) and (?P<base>...) for a depth interval"
            )
        if ("top" in groups) != ("base" in groups):
            raise ValueError("has one of the groups top and base; an interval needs both")
        for group in groups & _STATING:
            if not _longest(parsed, self._pattern.groupindex[group]):
                raise ValueError(f"has the group {group!r} that is always empty; write what it stands for")
        choices = _choices(parsed)
        if choices > _MOST_CHOICES:
            raise ValueError(
                f"has {choices:,} combinations of alternatives and optional parts; at most {_MOST_CHOICES:,} are "
                "searched in good time"
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
        parts = [*_TRIED, *sorted(_literals(text))]
        names = [part * (_LONGEST_NAME // len(part)) + end for part in parts for end in ("", "~")]
        if not _finishes(text, names):
            raise ValueError("takes too long to search a long name; write it with fewer repeats")
        return pattern

    def try_names(self, names: Iterable[str]) -> None:
        """Search these in a process of its own first, which is ended if it takes too long.

        Raises:
            ValueError: it did take too long.
        """
        cut = sorted({name[:_LONGEST_NAME] for name in names})
        if not _finishes(self.text, cut):
            raise ValueError(
                f"takes too long to search the {len(cut):,} names of these slides and their folders; write it with "
                "fewer repeats and alternatives"
            )

    def find(self, name: str) -> dict[str, str | None] | None:
        """Text of every group in a name, None where it matches nothing; None if the pattern finds nothing.

        A depth that is no number is None.
        """
        match = self._pattern.search(name[:_LONGEST_NAME])
        if match is None:
            return None
        groups = match.groupdict()
        texts = {key: ((groups.get(key) or "").strip() or None) for key in _GROUPS}
        if not any(texts[key] for key in _STATING):
            return None
        for key in ("depth", "top", "base"):
            if texts[key] and not _NUMBER.fullmatch(texts[key] or ""):
                texts[key] = None
        return texts


def _finishes(text: str, names: list[str]) -> bool:
    """Return whether a process of its own searches these names in good time."""
    try:
        subprocess.run(
            [sys.executable, "-I", "-c", _TRIAL],
            input=json.dumps([text, names]),
            text=True,
            timeout=_TRIAL_S + len(names) / 1000,
            check=True,
        )
    except subprocess.TimeoutExpired:
        return False
    return True


def _literals(text: str) -> set[str]:
    """The characters that occur in a pattern, escaped ones as what they stand for."""
    signs = {sign for sign in text if not "\ud800" <= sign <= "\udfff"}
    waiting: list[Any] = [_parser.parse(text)]
    while waiting:
        for kind, value in waiting.pop():
            if kind in (_constants.LITERAL, _constants.NOT_LITERAL):
                signs.add(chr(value))
            elif kind is _constants.IN:
                signs.update(chr(which) for what, which in value if what is _constants.LITERAL)
                signs.update(chr(which[0]) for what, which in value if what is _constants.RANGE)
            else:
                waiting.extend(_bodies(value))
    return signs


def _longest(parsed: Any, number: int) -> int:
    """The most characters that the group of this number takes."""
    for kind, value in parsed:
        if kind is _constants.SUBPATTERN and value[0] == number:
            return int(value[-1].getwidth()[1])
        longest = max((_longest(body, number) for body in _bodies(value)), default=0)
        if longest:
            return longest
    return 0


def _choices(parsed: Any) -> int:
    """Combinations of alternatives and optional parts outside repeats."""
    choices = 1
    for kind, value in parsed:
        if kind is _constants.BRANCH:
            choices *= sum(_choices(body) for body in value[1])
        elif kind in (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT):
            choices *= _choices(value[2]) + (value[0] == 0 and value[1] == 1)
        else:
            for body in _bodies(value):
                choices *= _choices(body)
    return choices


def _repeats(parsed: Any, *, inside: bool) -> Iterator[bool]:
    """For every repeat of varying length: whether it takes many kinds of characters.

    Raises:
        ValueError: alternatives, an optional part or a repeat stand in one, or the pattern refers back to a group.
    """
    for kind, value in parsed:
        if kind in (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT):
            least, most, body = value
            varies = most > least and most > 1
            if most > least and most == 1 and inside:
                raise ValueError(
                    "has an optional part inside a repeat, which may take very long; write it without"
                )
            if varies and inside:
                raise ValueError("has a repeat inside a repeat, which may take very long; write it without")
            if varies:
                yield most > _FEW and _is_broad(body)
            yield from _repeats(body, inside=inside or (most > 1))
        elif kind in (_constants.GROUPREF, _constants.GROUPREF_EXISTS):
            raise ValueError("refers back to a group, which may take very long; write it without")
        elif kind is _constants.BRANCH and inside:
            raise ValueError("has alternatives inside a repeat, which may take very long; write it without")
        else:
            for body in _bodies(value):
                yield from _repeats(body, inside=inside)


def _is_broad(body: Any) -> bool:
    """Return whether what is repeated is anything but digits, blanks or single characters."""
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
        for item in value:
            yield from _bodies(item)
