"""Summaries of exceptions for failure records: class, message, source line, and a traceback of bounded length."""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fossilray.core.text import without_secrets

MAX_MESSAGE_CHARS = 2_000
MAX_TRACEBACK_CHARS = 16_000
"""Records of attempts stay small: `status` and `failures` read one for each slide that is not committed."""

_PACKAGE = Path(__file__).parents[1]
_OWN_LINES = re.compile(r'File "[^"\n]*?(fossilray/[^"\n]+\.py)", line (\d+)')
_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|insufficient memory", re.IGNORECASE)
_UNKNOWN_LOCATION = "an unknown line"


@dataclass(frozen=True)
class ExceptionSummary:
    """An exception as text, without credentials."""

    error: str
    """Name of its class."""
    message: str
    """On one line."""
    location: str | None = None
    """File and line of fossilray that raised it, or that called the library which did."""
    traceback: str | None = None


def summarise_exception(caught: BaseException) -> ExceptionSummary:
    """Summarise an exception of this process."""
    return ExceptionSummary(
        type(caught).__name__, exception_message(caught), exception_location(caught), _traceback_of(caught)
    )


def summarise_remote_exception(cause: BaseException, text: str) -> ExceptionSummary:
    """Summarise an exception of another process, which arrives without a traceback object but with its text."""
    lines = _OWN_LINES.findall(text)
    location = f"{lines[-1][0]}:{lines[-1][1]}" if lines else _UNKNOWN_LOCATION
    return ExceptionSummary(type(cause).__name__, exception_message(cause), location, _shorten(text))


def exception_message(caught: BaseException) -> str:
    """The message on one line, at most MAX_MESSAGE_CHARS long; the name of the class if there is no message."""
    try:
        text = " ".join(str(caught)[: 4 * MAX_MESSAGE_CHARS].split())
    except Exception as error:  # noqa: BLE001  __str__ of a library's exception may fail itself
        text = f"its message cannot be read ({type(error).__name__})"
    return without_secrets(text)[:MAX_MESSAGE_CHARS] or type(caught).__name__


def exception_location(caught: BaseException) -> str:
    """File and line of the innermost frame in fossilray; of the innermost frame if there is none."""
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(caught.__traceback__)]
    own_frames = [frame for frame in frames if Path(frame[0]).is_relative_to(_PACKAGE)]
    if not frames:
        return _UNKNOWN_LOCATION
    file, line = (own_frames or frames)[-1]
    path = Path(file)
    shown = path.relative_to(_PACKAGE.parent) if own_frames else Path(path.name)
    return f"{PurePosixPath(shown)}:{line}"


def is_out_of_memory(caught: BaseException) -> bool:
    """Return whether memory ran out; torch reports it as a RuntimeError, OpenCV as a cv2.error."""
    return isinstance(caught, MemoryError) or _OUT_OF_MEMORY.search(exception_message(caught)) is not None


def _traceback_of(caught: BaseException) -> str:
    try:
        text = "".join(traceback.format_exception(caught))
    except Exception as error:  # noqa: BLE001  __str__ of a library's exception may fail itself
        text = f"the traceback cannot be formatted ({type(error).__name__}: {type(caught).__name__})"
    return _shorten(text)


def _shorten(text: str) -> str:
    """A traceback without credentials; of a long one, the beginning and the end."""
    text = without_secrets(text)
    if len(text) <= MAX_TRACEBACK_CHARS:
        return text
    kept = MAX_TRACEBACK_CHARS // 2 - 20
    return f"{text[:kept]}\n  [... cut ...]\n{text[-kept:]}"
