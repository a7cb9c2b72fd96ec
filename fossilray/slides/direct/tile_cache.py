"""Least-recently-used cache of decoded tiles."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeAlias

from fossilray.core.types import Image

Key: TypeAlias = tuple[int, int]
"""Level and number of a tile."""


class TileCache:
    """LRU cache of up to `most_bytes` of tiles, shared by threads; a tile is decoded by one thread at a time."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[Key, Image] = OrderedDict()
        self._bytes = 0
        self._busy: dict[Key, threading.Lock] = {}

    def look_up(self, key: Key) -> Image | None:
        """Return the tile if it is cached, else None; it must not be written to."""
        with self._lock:
            return self._find(key)

    def get(self, key: Key, decode: Callable[[], Image]) -> Image:
        """Return the tile, decoded now unless it is cached; it must not be written to. Raises what `decode` raises."""
        while True:
            with self._lock:
                kept = self._find(key)
                if kept is not None:
                    return kept
                busy = self._busy.get(key)
                if busy is None:
                    mine = self._busy[key] = threading.Lock()
                    mine.acquire()
                    break
            with busy:
                # The other thread has finished; if it failed, this one tries itself.
                continue
        return self._decode(key, decode, mine)

    def _find(self, key: Key) -> Image | None:
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
        return kept

    def _decode(self, key: Key, decode: Callable[[], Image], mine: threading.Lock) -> Image:
        try:
            tile = decode()
            with self._lock:
                self._kept[key] = tile
                self._bytes += tile.nbytes
                while self._bytes > self._most_bytes:
                    _, oldest = self._kept.popitem(last=False)
                    self._bytes -= oldest.nbytes
            return tile
        finally:
            with self._lock:
                del self._busy[key]
            mine.release()
