"""Decoded tiles that were used last."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeAlias

from fossilray.records import Image

Key: TypeAlias = tuple[int, int]
"""Level and number of a tile."""


class TileCache:
    """Up to `most_bytes` of tiles, shared by threads; what one thread is decoding another waits for."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[Key, Image] = OrderedDict()
        self._bytes = 0
        self._awaited: dict[Key, Future[Image | None]] = {}

    def get(self, key: Key, decode: Callable[[], Image]) -> Image:
        """The tile, decoded now unless it is kept; never to be written to. Raises what `decode` raises."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
                return kept
            awaited = self._awaited.get(key)
            if awaited is None:
                mine = self._awaited[key] = Future()
        if awaited is None:
            return self._decode(key, decode, mine)
        # Whoever failed has said why to its own caller alone.
        tile = awaited.result()
        return decode() if tile is None else tile

    def _decode(self, key: Key, decode: Callable[[], Image], promise: Future[Image | None]) -> Image:
        tile = None
        try:
            tile = decode()
            return tile
        finally:
            with self._lock:
                del self._awaited[key]
                if tile is not None:
                    self._keep(key, tile)
            promise.set_result(tile)

    def _keep(self, key: Key, tile: Image) -> None:
        self._kept[key] = tile
        self._bytes += tile.nbytes
        while self._bytes > self._most_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.nbytes
