"""One function over a great many items by threads, in order, with memory that does not grow with the items."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")

_ITEMS_AT_ONCE = 1024
"""An executor keeps a thousand bytes for each item it was given."""


def map_in_parts(work: Callable[[In], Out], items: Sequence[In], *, threads: int) -> Iterator[Out]:
    """Results in the order of `items`, of which only some are in hand at once."""
    with ThreadPoolExecutor(threads) as pool:
        for begin in range(0, len(items), _ITEMS_AT_ONCE):
            yield from pool.map(work, items[begin : begin + _ITEMS_AT_ONCE])
