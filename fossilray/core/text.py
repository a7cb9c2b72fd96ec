"""A query's result as CSV, JSON or Parquet, and values and text as a terminal shows them."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


LIKE_A_FORMULA = r"^('*[=+\-@\t\r])"


def format_cell(value: Any) -> str:
    """A value as a person reads it: seven significant digits, no control characters."""
    if value is None:
        return "–"
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return f"{value:.0f}" if abs(value) >= 1e7 else f"{value:.7g}"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return strip_control_characters(str(value))


def strip_control_characters(text: str) -> str:
    """Text without the control characters by which a file's name could move a terminal's cursor."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 slide`, `1,200 slides`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_bytes(count: float) -> str:
    """A size as a person reads it, in powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"


def escape_formula(text: str) -> str:
    """Text that a spreadsheet takes for text: an apostrophe before what it would take for a formula.

    A slide named `=HYPERLINK(…)` would otherwise run in whoever opens the CSV. `from_spreadsheet` undoes it.
    """
    return re.sub(LIKE_A_FORMULA, r"'\1", text)


def unescape_formula(text: str) -> str:
    """The text that `spreadsheet_safe` was given."""
    return text[1:] if text.startswith("'") and re.match(LIKE_A_FORMULA, text) else text


def without_secrets(text: str) -> str:
    """The text without anything that could be a credential."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


# What a credential looks like, or what it follows; the names are those of AWS, Google and Azure.
_SECRETS = (
    # All of a header's value, which may have several parts.
    (re.compile(r"(?i)\b(authorization)\b[\"']?\s*[:=].*"), r"\1: ***"),
    (re.compile(r"(?i)\b(bearer|basic|sharedkey|AWS4-HMAC-SHA256)\s+\S.*"), r"\1 ***"),
    # user:password@ in an address, up to the last @ before its path.
    (re.compile(r"(?i)\b([a-z][a-z0-9+.\-]*://)[^\s/?#]*@"), r"\1***@"),
    # name=value, name: value and "name": "value", also percent-encoded in signed addresses.
    (
        re.compile(
            r"(?i)([\w\-.]*(?:secret|passw(?:or)?d|token|signature|credential|api[_\-]?key|account[_\-]?key|"
            r"access[_\-]?key(?:[_\-]?id)?|private[_\-]?key|\bsig)[\w\-.]*[\"']?\s*(?:=|:|%3D)\s*)"
            r"(?:\"[^\"]*\"?|'[^']*'?|[^\s\"'&,;)}\]<>]+)"
        ),
        r"\1***",
    ),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}"), "***"),
)
