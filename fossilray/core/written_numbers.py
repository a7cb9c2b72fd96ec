"""Numbers as people write them: decimal points and commas, separators of thousands, and which of the two is meant.

`2,030` and `2.030` are 2030 or 2.03. Such a cell is read only if its column decides between them: another cell of the
column must show the decimal sign (`2,030.5`, `2030,5`, `1,234,567`), no cell may show the other one, and the value must
lie within a factor of ten of the values that the unambiguous cells span.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_PLAIN = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_SPACES = " \u00a0\u2009\u202f'’"
"""Separators of thousands that are no decimal sign: blanks of several widths, and apostrophes."""
_SPACED = re.compile(rf"([+-]?[1-9]\d{{0,2}}(?:[{_SPACES}]\d{{3}})+)(?:[.,]\d*)?", re.ASCII)
_EITHER = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}", re.ASCII)
_OTHER = {".": ",", ",": "."}
_FAR = 10.0
"""An uncertain value may lie outside the range of the unambiguous ones by this factor."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A value that a text may stand for."""

    value: float
    decimal_sign: str
    """The decimal sign that this reading takes for granted: `.` or `,`, or empty if any will do."""


@dataclass(frozen=True, slots=True)
class NumberStyle:
    """How the unambiguous numbers of a column are written."""

    decimal_signs: frozenset[str] = frozenset()
    smallest: float = math.inf
    """Smallest absolute value of the unambiguous numbers, without zeros; infinity if there are none."""
    largest: float = 0.0
    uncertain: int = 0
    """Number of cells with two readings."""

    def choose(self, readings: tuple[Reading, ...]) -> Reading | None:
        """Return the reading that the column decides on, None if it decides on neither."""
        if len(self.decimal_signs) != 1:
            return None
        fitting = [reading for reading in readings if reading.decimal_sign in self.decimal_signs]
        if len(fitting) != 1:
            return None
        is_near = self.smallest / _FAR <= abs(fitting[0].value) <= self.largest * _FAR
        return fitting[0] if is_near else None


def readings_of(text: str) -> tuple[Reading, ...]:
    """Return the values that a text may stand for, by decimal point first; empty if it is no finite number."""
    number = text.strip().replace("\N{MINUS SIGN}", "-")
    spaced = _SPACED.fullmatch(number)
    if spaced:
        whole = re.sub(f"[{_SPACES}]", "", spaced[1])
        number = whole + number[spaced.end(1) :]
        readings = _decimal(number) if not number.isdigit() else _plain(number)
    elif "," in number and "." in number:
        readings = _grouped(number, decimal_sign=max(",.", key=number.rfind))
    elif number.count(",") > 1 or number.count(".") > 1:
        readings = _grouped(number, decimal_sign="." if "," in number else ",")
    elif _EITHER.fullmatch(number):
        sign = "." if "." in number else ","
        whole = number.replace(sign, "")
        readings = [*_decimal(number), Reading(float(whole), _OTHER[sign])]
        readings.sort(key=lambda reading: reading.decimal_sign, reverse=True)
    else:
        readings = _decimal(number) if "," in number or "." in number else _plain(number)
    return tuple(reading for reading in readings if math.isfinite(reading.value))


def style_of(texts: Iterable[str], is_possible: Callable[[float], bool]) -> NumberStyle:
    """Return how the numbers among the texts of a column are written; others are left out.

    is_possible: whether the column may hold a value, by which a text of two readings may become unambiguous.
    """
    signs: set[str] = set()
    smallest, largest, uncertain = math.inf, 0.0, 0
    for text in texts:
        readings = [reading for reading in readings_of(text) if is_possible(reading.value)]
        if len(readings) > 1:
            uncertain += 1
        elif readings:
            size = abs(readings[0].value)
            smallest, largest = min(smallest, size or math.inf), max(largest, size)
            signs.update(readings[0].decimal_sign)
    return NumberStyle(frozenset(signs), smallest, largest, uncertain)


def write_number(value: float) -> str:
    """Write a number with a decimal point so that it has one reading: 950.125 becomes 950.1250."""
    text = str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    return f"{text}0" if _EITHER.fullmatch(text) else text


def _plain(number: str) -> list[Reading]:
    return [Reading(float(number), "")] if _PLAIN.fullmatch(number) else []


def _decimal(number: str) -> list[Reading]:
    pointed = number.replace(",", ".")
    return (
        [Reading(float(pointed), "," if "," in number else ".")]
        if _PLAIN.fullmatch(pointed) and not number.endswith(",")
        else []
    )


def _grouped(number: str, *, decimal_sign: str) -> list[Reading]:
    """The number with groups of three digits between separators that are not the decimal sign."""
    group = re.escape(_OTHER[decimal_sign])
    sign = re.escape(decimal_sign)
    if not re.fullmatch(rf"[+-]?[1-9]\d{{0,2}}(?:{group}\d{{3}})+(?:{sign}\d*)?", number, re.ASCII):
        return []
    pointed = number.replace(_OTHER[decimal_sign], "").replace(decimal_sign, ".")
    return [Reading(float(pointed), decimal_sign)]
