"""Many items in order, by threads or in lists, with memory that does not grow with the items."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")

_ITEMS_AT_ONCE = 1024
"""An executor keeps a thousand bytes for each item it was given."""


def map_in_chunks(work: Callable[[In], Out], items: Sequence[In], *, threads: int) -> Iterator[Out]:
    """Results in the order of `items`, of which only some are in hand at once."""
    with ThreadPoolExecutor(threads) as pool:
        for begin in range(0, len(items), _ITEMS_AT_ONCE):
            yield from pool.map(work, items[begin : begin + _ITEMS_AT_ONCE])


def map_ordered(
    pool: ThreadPoolExecutor, work: Callable[[In], Out], items: Iterable[In], *, ahead: int
) -> Generator[Out]:
    """Results of `work` in the order of `items`, at most `ahead` of them begun and not yet taken."""
    begun: deque[Future[Out]] = deque()
    try:
        for item in items:
            begun.append(pool.submit(work, item))
            if len(begun) >= ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()


def batched_with_index(items: Iterable[Out], size: int) -> Iterator[tuple[int, list[Out]]]:
    """Items in lists of `size` (the last may be shorter), each with the index of its first item."""
    source = iter(items)
    first = 0
    while batch := list(islice(source, size)):
        yield first, batch
        first += len(batch)
