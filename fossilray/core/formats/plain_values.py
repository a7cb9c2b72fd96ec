"""Checks of types and bounds of values from files, and a short form of values for errors."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from typing import Any

ValueCheck = Callable[[Any], bool]


def whole(least: int, most: int) -> ValueCheck:
    """Accept integers from `least` to `most`, but not booleans."""
    return lambda value: type(value) is int and least <= value <= most


def number(least: float, most: float) -> ValueCheck:
    """Accept finite numbers from `least` to `most`."""
    return lambda value: type(value) in (int, float) and least <= value <= most


def one_of(*values: Any) -> ValueCheck:
    """Accept these values, of the same type."""
    return lambda value: any(
        value is allowed or (type(value) is type(allowed) and value == allowed) for allowed in values
    )


def many(check: ValueCheck, *, most: int) -> ValueCheck:
    """Accept lists of one to `most` values that pass a check."""
    return lambda value: (
        isinstance(value, (list, tuple)) and 0 < len(value) <= most and all(map(check, value))
    )


def either(*checks: ValueCheck) -> ValueCheck:
    """Accept values that pass one of the checks."""
    return lambda value: any(check(value) for check in checks)


def shown(value: Any) -> str:
    """Describe a value for an error message: ASCII, on one line, of bounded length and depth."""
    if isinstance(value, str):
        return ascii(value[:80])
    short = reprlib.Repr()
    short.maxlevel, short.maxlist, short.maxtuple, short.maxdict, short.maxlong = 3, 5, 5, 3, 24
    return ascii(short.repr(value)[:160])[1:-1]
