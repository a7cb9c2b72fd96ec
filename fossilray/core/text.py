"""Text for people: numbers with units, lists cut short, cells safe for terminals and spreadsheets, no credentials."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

LIKE_A_FORMULA = r"^('*[=+\-@\t\r])"


def format_cell(value: Any) -> str:
    """Return a value as text for a table cell, without control characters.

    Floats of up to 12 significant digits are printed in full, others are rounded to seven; integer parts are never
    shortened.
    """
    if value is None:
        return "–"
    if isinstance(value, float):
        return _format_float(value)
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return strip_control_characters(str(value))


def _format_float(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    in_full = f"{value:.12g}"
    if abs(value) < 1e12 and float(in_full) == value:
        return in_full
    return f"{value:.0f}" if abs(value) >= 1e7 else f"{value:.7g}"


def strip_control_characters(text: str) -> str:
    """Replace control characters, by which a file's name could move a terminal's cursor."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 slide`, `1,200 slides`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def list_some(names: Iterable[object], *, most: int = 5, separator: str = ", ") -> str:
    """The first names of a list and the number of the others: `a, b, c and 4 more`.

    separator: `"; "` where the names themselves contain commas; the last one then stands before `and` too.
    """
    listed = [str(name) for name in names]
    shown = separator.join(listed[:most])
    if len(listed) <= most:
        return shown
    return f"{shown}{separator.strip() if separator.strip() != ',' else ''} and {len(listed) - most:,} more"


def format_percent(fraction: float | None, *, decimals: int | None = None) -> str:
    """A fraction (0 to 1) as per cent: `0 %`, `0.42 %`, `7.5 %`, `38 %`; `–` for None and NaN.

    decimals: fixed number of decimals; by default two significant digits below 10 % and whole per cent from there.
    Only 0 is shown as 0 and only 1 as 100, whatever the rounding.
    """
    if fraction is None or math.isnan(fraction):
        return "–"
    percent = 100 * fraction
    if decimals is None:
        text = f"{percent:.0f}" if abs(percent) >= 10 or percent == 0 else f"{percent:.2g}"
    else:
        text = f"{percent:.{decimals}f}"
    if decimals is None and 0 < percent < 0.01:
        return "< 0.01 %"
    if 0 < fraction < 1 and float(text) in (0, 100):
        smallest = 10.0 ** -(decimals or 0)
        text = f"< {smallest:g}" if float(text) == 0 else f"> {100 - smallest:g}"
    return f"{text} %"


def format_duration(seconds: float) -> str:
    """A duration in two units at most: `0.25 s`, `42 s`, `3 min 20 s`, `5 h 07 min`, `12.5 days`."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 59.5:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{seconds / 86_400:,.1f} days"


def format_bytes(count: float) -> str:
    """Format a number of bytes, in powers of 1,000: `1.5 MB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"


def escape_formula(text: str) -> str:
    """Put an apostrophe before text that a spreadsheet would run as a formula.

    A slide named `=HYPERLINK(…)` would otherwise run when the CSV is opened. `unescape_formula` reverses it.
    """
    return re.sub(LIKE_A_FORMULA, r"'\1", text)


def unescape_formula(text: str) -> str:
    """Reverse `escape_formula`."""
    return text[1:] if text.startswith("'") and re.match(LIKE_A_FORMULA, text) else text


def without_secrets(text: str) -> str:
    """Replace everything in a text that could be a credential."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


# Patterns of credentials and of the names before them, as AWS, Google and Azure use them. Repetitions of word
# characters are bounded, or a long word would take seconds.
_SECRETS = (
    # All of a header's value, which may have several parts.
    (re.compile(r"(?i)\b(authorization)\b[\"']?\s*[:=].*"), r"\1: ***"),
    (re.compile(r"(?i)\b(bearer|basic|sharedkey|AWS4-HMAC-SHA256)\s+\S.*"), r"\1 ***"),
    # user:password@ in an address, up to the last @ before its path.
    (re.compile(r"(?i)\b([a-z][a-z0-9+.\-]{0,40}://)[^\s/?#]*@"), r"\1***@"),
    # name=value, name: value and "name": "value", also percent-encoded in signed addresses.
    (
        re.compile(
            r"(?i)((?:secret|passw(?:or)?d|token|signature|credential|api[_\-]?key|account[_\-]?key|"
            r"access[_\-]?key(?:[_\-]?id)?|private[_\-]?key|\bsig)[\w\-.]{0,200}[\"']?\s*(?:=|:|%3D)\s*)"
            r"(?:\"[^\"]*\"?|'[^']*'?|[^\s\"'&,;)}\]<>]+)"
        ),
        r"\1***",
    ),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}"), "***"),
)
