"""Staging of slides: whole copies from an object store on a local disk, with prefetch of the next slide."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fossilray.core.config import AccessConfig, SlidesConfig, StoreConfig
from fossilray.core.errors import ScratchFull, SlideError, TooLarge
from fossilray.slides.remote.download import Download
from fossilray.slides.remote.scratch import Scratch
from fossilray.slides.remote.source import SlideSource, open_source
from fossilray.store.files.base import is_remote

_LOOK_S = 15.0


class Stager:
    """Local copies of slides in a bounded folder, for one worker thread, which prefetches one slide.

    The folder is created with the first slide of an object store. fetched_bytes: number of bytes read so far.
    """

    def __init__(self, slides: SlidesConfig, store: StoreConfig) -> None:
        self._access: AccessConfig = slides.access or store
        self._slides = slides
        self._room = _Room(slides.scratch_gb)
        self._sources: dict[str, SlideSource] = {}
        self._scratch: Scratch | None = None
        self._numbers = itertools.count(1)
        self._ahead: Download | None = None
        self._counting = threading.Lock()
        self.fetched_bytes = 0

    @contextmanager
    def local(self, path: str) -> Iterator[Path]:
        """Yield the local path of a slide; the copy of a remote slide is deleted on leaving.

        Raises:
            NotASlide, MissingCompanion: the slide or a part of it is missing.
            TooLarge: it alone is larger than slides.scratch_gb.
            SourceUnreachable, ScratchFull: the store failed or the disk is full; a later attempt may succeed.
        """
        if not is_remote(path):
            yield Path(path)
            return
        fetch = self._fetched_ahead(path) or self._begin(path, self._reserve_by_force)
        try:
            yield fetch.result()
        finally:
            fetch.drop()

    def prefetch(self, path: str | None) -> None:
        """Start to fetch a slide in the background if it fits beside the staged one; raises no SlideError."""
        if not path or not is_remote(path) or (self._ahead is not None and self._ahead.path == path):
            return
        self._forget_ahead()
        # Errors are reported when the slide is requested.
        with suppress(SlideError):
            self._ahead = self._begin(path, self._room.reserve)

    def can_be_read(self, path: str) -> bool:
        """Return whether the store delivers the metadata of a slide's file, or a listing if the URL ends in a slash.

        It sends one short request without retries, which shows only that the store is reachable.
        """
        hasty = {"tries": 1, "timeout_s": min(self._access.timeout_s, _LOOK_S)}
        try:
            source = open_source(path, self._access.model_copy(update=hasty))
            if path.endswith("/"):
                next(source.walk(path), None)
            else:
                source.file(path)
        except (SlideError, FileNotFoundError):
            return False
        return True

    def close(self) -> None:
        """Stop fetching and delete all staged files."""
        self._forget_ahead()
        if self._scratch is not None:
            self._scratch.close()
            self._scratch = None

    def _fetched_ahead(self, path: str) -> Download | None:
        """Return the finished prefetch of this slide; None if there is none, or it found no room."""
        if self._ahead is None or self._ahead.path != path:
            return None
        fetch, self._ahead = self._ahead, None
        fetch.wait()
        if isinstance(fetch.error, ScratchFull):
            fetch.drop()
            return None
        return fetch

    def _begin(self, path: str, reserve: Callable[[str, int], None]) -> Download:
        if self._scratch is None:
            self._scratch = Scratch(self._slides.scratch)
        source = self._source(path)
        fetch = Download(
            path,
            source,
            self._scratch,
            self._scratch.folder / f"slide-{next(self._numbers)}",
            threads=self._slides.fetch_threads,
            reserve=reserve,
            release=self._room.release,
            count=self._count,
        )
        fetch.start()
        return fetch

    def _source(self, path: str) -> SlideSource:
        protocol = path.partition("://")[0]
        if protocol not in self._sources:
            self._sources[protocol] = open_source(path, self._access)
        return self._sources[protocol]

    def _reserve_by_force(self, path: str, size: int) -> None:
        """Reserve room for the requested slide; the prefetched one is dropped if need be."""
        try:
            self._room.reserve(path, size)
        except ScratchFull:
            self._forget_ahead()
            self._room.reserve(path, size)

    def _forget_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead.drop()
            self._ahead = None

    def _count(self, size: int) -> None:
        with self._counting:
            self.fetched_bytes += size


def check_fits(path: str, size: int, *, scratch_gb: float) -> None:
    """Check that a slide of `size` bytes fits into `scratch_gb`.

    Raises:
        TooLarge: it does not fit.
    """
    if size > scratch_gb * 1e9:
        raise TooLarge(
            f"{path} has {size / 1e9:,.2f} GB, more than a worker may stage (slides.scratch_gb is {scratch_gb:g}); "
            "raise slides.scratch_gb"
        )


class _Room:
    """Budget of bytes that one worker may keep staged; safe for threads."""

    def __init__(self, most_gb: float) -> None:
        self._most_gb = most_gb
        self._held = 0
        self._lock = threading.Lock()

    def reserve(self, path: str, size: int) -> None:
        with self._lock:
            check_fits(path, size, scratch_gb=self._most_gb)
            if self._held + size > self._most_gb * 1e9:
                raise ScratchFull(
                    f"{path} has {size / 1e9:,.2f} GB and finds no room beside the slide in progress "
                    ""
                    f"(slides.scratch_gb is {self._most_gb:g}); raise slides.scratch_gb"
                )
            self._held += size

    def release(self, size: int) -> None:
        with self._lock:
            self._held -= size
