"""What a value that comes with a file may be: checks of types and bounds, and a short form for errors."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from typing import Any

Check = Callable[[Any], bool]


def whole(least: int, most: int) -> Check:
    """Whole numbers from `least` to `most`; True and False are none."""
    return lambda value: type(value) is int and least <= value <= most


def number(least: float, most: float) -> Check:
    """Finite numbers from `least` to `most`."""
    return lambda value: type(value) in (int, float) and least <= value <= most


def one_of(*values: Any) -> Check:
    """These values, and of the same type."""
    return lambda value: any(value is one or (type(value) is type(one) and value == one) for one in values)


def many(check: Check, *, most: int) -> Check:
    """Lists of one to `most` values of a kind."""
    return lambda value: (
        isinstance(value, (list, tuple)) and 0 < len(value) <= most and all(map(check, value))
    )


def either(*checks: Check) -> Check:
    """What one of the checks admits."""
    return lambda value: any(check(value) for check in checks)


def shown(value: Any) -> str:
    """The value for an error: ASCII on one line, cut short, whatever lies in it and however deep."""
    if isinstance(value, str):
        return ascii(value[:80])
    short = reprlib.Repr()
    short.maxlevel, short.maxlist, short.maxtuple, short.maxdict, short.maxlong = 3, 5, 5, 3, 24
    return ascii(short.repr(value)[:160])[1:-1]
