"""Reads of a slide's pixels from any number of threads through one handle, which is replaced when a read fails.

OpenSlide's handle dies with its first error. A read that fails is therefore tried once more on a handle
of its own, which distinguishes a region that cannot be decoded from one whose handle another thread broke.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fossilray.core.errors import MissingCompanion, NotASlide, SourceUnreachable, UnreadableRegion
from fossilray.slides.access import files_of, first_fault
from fossilray.slides.pixel_handle import OpenHandle, PixelHandle, UndecodableRegion

# Lost regions that are read once more at the end.
_LOSSES_CHECKED = 16
_CHECKED_EVERY_S = 1.0


class HandleReader:
    """Reader of one slide's pixels for any number of threads.

    path: of the slide, for messages and to tell a fault of its disk from damage. handle: the first one. open_handle:
    opens another when a read has failed.
    """

    def __init__(self, path: str, handle: PixelHandle, open_handle: OpenHandle) -> None:
        self._path = path
        self._open_handle = open_handle
        self._swap = threading.Lock()
        self._shared: _SharedHandle | None = _SharedHandle(handle)
        self._closed = False
        self._files = files_of(Path(path))
        self._lost: list[tuple[int, int, int, int, int]] = []
        self._losses = 0
        self._checked_s = 0.0

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint32]:
        """Return premultiplied pixels (height, width), 32 bits each.

        x, y: level-0 px of the top left corner; width, height: px of the level.

        Raises:
            UnreadableRegion: the region cannot be decoded, on a fresh handle either.
            SlideMissing, SlideUnreadable, SourceUnreachable: a file of the slide cannot be read.
        """
        argb = np.empty((height, width), np.uint32)
        with self._borrow() as shared:
            try:
                shared.handle.read(argb, level, x, y)
                return argb
            except UndecodableRegion:
                shared.broken = True
        region = (level, x, y, width, height)
        fresh = self._reopen(region)
        try:
            fresh.read(argb, level, x, y)
        except UndecodableRegion as error:
            fresh.close()
            raise self.lose(region, str(error)) from None
        self._offer(fresh)
        return argb

    def close(self) -> None:
        """Refuse further reads; those in progress finish, and the last one closes the handle."""
        with self._swap:
            self._closed = True
            self._retire()

    def check_losses(self) -> None:
        """Check that regions which could not be decoded are damage of the slide, not a fault of its disk or share.

        OpenSlide does not distinguish disk errors from damage, so some of the lost regions are read once more.

        Raises:
            SlideMissing, SlideUnreadable, SourceUnreachable: a file cannot be read, or a lost region can be read now.
        """
        with self._swap:
            regions, self._lost = self._lost, []
        if not regions:
            return
        self._check_files()
        for level, x, y, width, height in regions:
            try:
                self.read(level, x, y, width, height)
            except UnreadableRegion:
                continue
            raise SourceUnreachable(
                f"{self._path}: {self._losses:,} regions could not be read, and level {level} can be read again "
                f"at ({x}, {y}); the disk or the share was out for a while, and the slide will be tried again"
            )

    def lose(self, region: tuple[int, int, int, int, int], why: str) -> UnreadableRegion:
        """Record a lost region and return its error; raise instead if the slide's files cannot be read.

        region: level, x, y, width and height.
        """
        with self._swap:
            self._losses += 1
            # The first losses are kept, then each whose number is a power of two: an outage may begin at any time.
            is_kept = self._losses <= _LOSSES_CHECKED or self._losses.bit_count() == 1
            if is_kept:
                self._lost.append(region)
        if is_kept or time.monotonic() - self._checked_s > _CHECKED_EVERY_S:
            self._check_files()
        level, x, y, *_ = region
        return UnreadableRegion(
            f"{Path(self._path).name}: level {level} cannot be decoded at ({x}, {y}): {why}; "
            "the file is damaged or cut short there, copy it again if its source is sound"
        )

    def _check_files(self) -> None:
        self._checked_s = time.monotonic()
        fault = first_fault(self._files)
        if fault is not None:
            raise fault

    @contextmanager
    def _borrow(self) -> Iterator[_SharedHandle]:
        """Yield the current handle, which stays open while it is borrowed; a broken one is replaced."""
        with self._swap:
            if self._closed:
                raise ValueError(f"{self._path} is closed")
            if self._shared is not None and self._shared.broken:
                self._retire()
            if self._shared is None:
                try:
                    self._shared = _SharedHandle(self._open_handle())
                except (NotASlide, MissingCompanion) as error:
                    self._check_files()
                    raise UnreadableRegion(str(error)) from None
            shared = self._shared
            shared.readers += 1
        try:
            yield shared
        finally:
            with self._swap:
                shared.readers -= 1
                if shared.retired and shared.readers == 0:
                    shared.handle.close()

    def _reopen(self, region: tuple[int, int, int, int, int]) -> PixelHandle:
        try:
            return self._open_handle()
        except (NotASlide, MissingCompanion) as error:
            raise self.lose(region, str(error)) from None

    def _offer(self, fresh: PixelHandle) -> None:
        """Make `fresh` the current handle, or close it if a sound one exists or the slide is closed."""
        with self._swap:
            if self._closed or (self._shared is not None and not self._shared.broken):
                fresh.close()
                return
            self._retire()
            self._shared = _SharedHandle(fresh)

    def _retire(self) -> None:
        """Drop the current handle; its last reader closes it. The caller holds the lock."""
        shared, self._shared = self._shared, None
        if shared is None:
            return
        shared.retired = True
        if shared.readers == 0:
            shared.handle.close()


@dataclass
class _SharedHandle:
    """A handle with the number of reads in progress on it."""

    handle: PixelHandle
    readers: int = 0
    broken: bool = False
    retired: bool = False
