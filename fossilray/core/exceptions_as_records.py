"""Exceptions as records of failures: class, message, the place in the program, and a traceback of bounded size."""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fossilray.core.text import without_secrets

MOST_MESSAGE_CHARS = 2_000
MOST_TRACEBACK_CHARS = 16_000
"""A record of an attempt stays small: status and failures read one for each slide that is not committed."""

_PACKAGE = Path(__file__).parents[1]
_OWN_LINES = re.compile(r'File "[^"\n]*?(fossilray/[^"\n]+\.py)", line (\d+)')
_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|insufficient memory", re.IGNORECASE)


@dataclass(frozen=True)
class Raised:
    """An exception in words."""

    error: str
    """Its class."""
    message: str
    """On one line."""
    place: str
    """File and line of the program where it was raised, or where what raised it was called."""
    traceback: str


def describe_exception(caught: BaseException) -> Raised:
    """What a failure's record keeps of an exception, without credentials."""
    return Raised(type(caught).__name__, message_of(caught), place_of(caught), _traceback_of(caught))


def describe_remote(cause: BaseException, text: str) -> Raised:
    """The same of an exception of another process, which arrives without its traceback but with one as text."""
    lines = _OWN_LINES.findall(text)
    place = f"{lines[-1][0]}:{lines[-1][1]}" if lines else "a place that is not known"
    return Raised(type(cause).__name__, message_of(cause), place, _cut(text))


def message_of(caught: BaseException) -> str:
    """The message on one line, cut to MOST_MESSAGE_CHARS; the class where there is none."""
    try:
        text = " ".join(str(caught)[: 4 * MOST_MESSAGE_CHARS].split())
    except Exception as error:  # noqa: BLE001  the exceptions of libraries may fail to describe themselves
        text = f"its message cannot be read ({type(error).__name__})"
    return without_secrets(text)[:MOST_MESSAGE_CHARS] or type(caught).__name__


def place_of(caught: BaseException) -> str:
    """The innermost line of fossilray on the way to the exception, else the innermost of all."""
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(caught.__traceback__)]
    own = [one for one in frames if Path(one[0]).is_relative_to(_PACKAGE)]
    if not frames:
        return "a place that is not known"
    file, line = (own or frames)[-1]
    path = Path(file)
    shown = path.relative_to(_PACKAGE.parent) if own else Path(path.name)
    return f"{PurePosixPath(shown)}:{line}"


def is_out_of_memory(caught: BaseException) -> bool:
    """Whether memory ran out; torch and OpenCV report it as a RuntimeError and an error of their own."""
    return isinstance(caught, MemoryError) or _OUT_OF_MEMORY.search(message_of(caught)) is not None


def _traceback_of(caught: BaseException) -> str:
    try:
        text = "".join(traceback.format_exception(caught))
    except Exception as error:  # noqa: BLE001  as above
        text = f"the traceback cannot be formatted ({type(error).__name__}: {type(caught).__name__})"
    return _cut(text)


def _cut(text: str) -> str:
    """A traceback without credentials, cut in the middle where it is long: both ends say most."""
    text = without_secrets(text)
    if len(text) <= MOST_TRACEBACK_CHARS:
        return text
    part = MOST_TRACEBACK_CHARS // 2 - 20
    return f"{text[:part]}\n  [... cut ...]\n{text[-part:]}"
