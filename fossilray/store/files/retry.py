"""Repetition of interrupted requests, which the libraries of object stores do not repeat themselves."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from fossilray.store.files.options import is_interrupted

FIRST_WAIT_S = 1.0
"""Longest wait before the first retry; doubles up to 20 s, as botocore's waits do."""

_Result = TypeVar("_Result")


def repeat_interrupted(
    request: Callable[[], _Result], *, protocol: str, tries: int, faults: tuple[type[Exception], ...]
) -> _Result:
    """Return the result of a request, which is sent up to `tries` times while its response is interrupted.

    faults: the exceptions of the protocol's library. The last one, and any that is no interruption, is raised.
    """
    for attempt in range(tries - 1):
        try:
            return request()
        except faults as error:
            if not is_interrupted(error, protocol):
                raise
        wait_before_retry(attempt)
    return request()


def wait_before_retry(attempt: int) -> None:
    """Sleep for a random time that grows with the number of attempts before, of which the first is 0."""
    time.sleep(random.random() * min(FIRST_WAIT_S * 2**attempt, 20))
