"""Slides of an object store, brought whole to a local disk while they are worked on, the next one meanwhile."""

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
    """Brings slides to a bounded folder on a local disk; for one worker thread, which fetches one slide ahead.

    Nothing is on the disk before the first slide of an object store. `fetched_bytes` counts what was read.
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
        """The slide as a local path: a remote one is fetched, or waited for, and deleted on leaving.

        Raises:
            NotASlide, MissingCompanion: the slide is not there, or parts of it are not.
            TooLarge: it alone is larger than slides.scratch_gb.
            SourceUnreachable, ScratchFull: it may succeed later.
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
        """Begin to fetch a slide in the background if it fits beside what is staged; never raises."""
        if not path or not is_remote(path) or (self._ahead is not None and self._ahead.path == path):
            return
        self._forget_ahead()
        # Errors are reported when the slide is requested.
        with suppress(SlideError):
            self._ahead = self._begin(path, self._room.reserve)

    def can_be_read(self, path: str) -> bool:
        """Whether the store shows the file of a remote slide now, or of a URL that ends in a slash, its listing.

        One short request: it only shows whether the store is reachable.
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
        """Stop fetching and delete all that is staged."""
        self._forget_ahead()
        if self._scratch is not None:
            self._scratch.close()
            self._scratch = None

    def _fetched_ahead(self, path: str) -> Download | None:
        """The fetch begun before, unless it found no room then; there may be some now."""
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
        """Room for the slide in demand; the one fetched ahead gives way."""
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
    """Nothing, if a slide of that many bytes can be staged at all.

    Raises:
        TooLarge: it cannot.
    """
    if size > scratch_gb * 1e9:
        raise TooLarge(
            f"{path} has {size / 1e9:,.2f} GB, more than a worker may stage (slides.scratch_gb is {scratch_gb:g}); "
            "raise slides.scratch_gb"
        )


class _Room:
    """Bytes that one worker may keep staged."""

    def __init__(self, most_gb: float) -> None:
        self._most_gb = most_gb
        self._held = 0
        self._lock = threading.Lock()

    def reserve(self, path: str, size: int) -> None:
        with self._lock:
            check_fits(path, size, scratch_gb=self._most_gb)
            if self._held + size > self._most_gb * 1e9:
                raise ScratchFull(
                    f"{path} has {size / 1e9:,.2f} GB and finds no room beside the slide in work "
                    f"(slides.scratch_gb is {self._most_gb:g}); raise slides.scratch_gb"
                )
            self._held += size

    def release(self, size: int) -> None:
        with self._lock:
            self._held -= size
