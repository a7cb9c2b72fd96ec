"""Slides of an object store, brought whole to a local disk while they are worked on, the next one meanwhile.

A slide is fetched in parts side by side, by threads that the interpreter need not wait for when it ends.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fossilray.bundles import Bundle, look_up_bundle
from fossilray.config import AccessConfig, SlidesConfig, StoreConfig
from fossilray.errors import MissingCompanion, NotASlide, ScratchFull, SlideError, SourceUnreachable, TooLarge
from fossilray.scratch import Scratch, no_room
from fossilray.slide_sources import RemoteFile, SlideSource, is_remote, open_source

PART_BYTES = 8 * 2**20
"""One ranged request; as many of these as threads are in memory at once."""

_CLOSE_WAIT_S = 5.0


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
        self._ahead: _Fetch | None = None
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
        # Whatever is wrong will be said when the slide is asked for.
        with suppress(SlideError):
            self._ahead = self._begin(path, self._room.reserve)

    def close(self) -> None:
        """Stop fetching and delete all that is staged."""
        self._forget_ahead()
        if self._scratch is not None:
            self._scratch.close()
            self._scratch = None

    def _fetched_ahead(self, path: str) -> _Fetch | None:
        """The fetch begun before, unless it found no room then; there may be some now."""
        if self._ahead is None or self._ahead.path != path:
            return None
        fetch, self._ahead = self._ahead, None
        fetch.wait()
        if isinstance(fetch.error, ScratchFull):
            fetch.drop()
            return None
        return fetch

    def _begin(self, path: str, reserve: Callable[[str, int], None]) -> _Fetch:
        if self._scratch is None:
            self._scratch = Scratch(self._slides.scratch)
        protocol = path.partition("://")[0]
        source = self._sources.get(protocol) or open_source(path, self._access)
        self._sources[protocol] = source
        fetch = _Fetch(
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


@dataclass(frozen=True)
class _Part:
    """A range of a remote file and the local file it belongs to."""

    file: RemoteFile
    target: Path
    start: int
    stop: int


class _Fetch:
    """One slide on its way to the disk, and there until it is dropped."""

    def __init__(
        self,
        path: str,
        source: SlideSource,
        scratch: Scratch,
        folder: Path,
        *,
        threads: int,
        reserve: Callable[[str, int], None],
        release: Callable[[int], None],
        count: Callable[[int], None],
    ) -> None:
        self.path = path
        self.error: BaseException | None = None
        self._source = source
        self._scratch = scratch
        self._folder = folder
        self._threads = threads
        self._reserve = reserve
        self._release = release
        self._count = count
        self._held = 0
        self._name = ""
        self._dropped = threading.Event()
        self._cleaning = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="stage", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wait(self) -> None:
        self._thread.join()

    def result(self) -> Path:
        """The slide's local path, as soon as all of it is there."""
        self.wait()
        if self.error is not None:
            raise self.error
        return self._folder / self._name

    def drop(self) -> None:
        """Delete what is there; a fetch under way stops at its next part."""
        self._dropped.set()
        # A request that nobody answers may hold its thread for minutes; the thread then cleans up after itself.
        self._thread.join(_CLOSE_WAIT_S)
        self._clean()

    def _run(self) -> None:
        try:
            bundle = look_up_bundle(self._source, self.path)
            self._reserve(self.path, bundle.bytes)
            self._held = bundle.bytes
            parts = self._prepare(bundle)
            _side_by_side(self._threads, self._copy, parts, stop=self._dropped)
            self._check_unchanged(bundle)
            self._name = bundle.name
        except BaseException as error:  # noqa: BLE001  raised again in the thread that asks for the slide
            self.error = error
        if self.error is not None or self._dropped.is_set():
            self._clean()

    def _clean(self) -> None:
        with self._cleaning:
            shutil.rmtree(self._folder, ignore_errors=True)
            held, self._held = self._held, 0
            self._release(held)

    def _prepare(self, bundle: Bundle) -> list[_Part]:
        """Files of their full size, so that a full disk is met before anything is fetched."""
        try:
            if bundle.bytes > self._scratch.free_bytes():
                raise ScratchFull(
                    f"{self.path} has {bundle.bytes / 1e9:,.2f} GB, more than is free in "
                    f"{self._scratch.folder.parent}; free some space there, or set slides.scratch to a larger disk"
                )
            self._folder.mkdir()
            parts = []
            for name, file in bundle.files.items():
                target = self._folder / name
                target.parent.mkdir(exist_ok=True)
                _allocate(target, file.bytes)
                parts += [
                    _Part(file, target, start, min(start + PART_BYTES, file.bytes))
                    for start in range(0, file.bytes, PART_BYTES)
                ]
        except OSError as error:
            raise no_room(self._scratch.folder.parent, error) from None
        return parts

    def _copy(self, part: _Part) -> None:
        try:
            content = self._source.read(part.file, part.start, part.stop)
        except FileNotFoundError:
            raise self._changed(part.file.url) from None
        if len(content) != part.stop - part.start:
            raise self._changed(part.file.url)
        try:
            _write_at(part.target, part.start, content)
        except OSError as error:
            raise no_room(self._scratch.folder.parent, error) from None
        self._count(len(content))

    def _check_unchanged(self, bundle: Bundle) -> None:
        """Parts of two versions of a file would make a slide that nobody ever had."""
        try:
            now = look_up_bundle(self._source, self.path).versions()
        except (NotASlide, MissingCompanion):
            now = {}
        if now != bundle.versions():
            raise self._changed(self.path)

    def _changed(self, url: str) -> SourceUnreachable:
        return SourceUnreachable(f"{url} changed while it was fetched; it will be tried again")


def _side_by_side(
    threads: int, act: Callable[[_Part], None], parts: Sequence[_Part], *, stop: threading.Event
) -> None:
    """Do something with every part, several at once, until all are done, one fails, or `stop` is set.

    Raises: what the first that failed raised; SourceUnreachable if stopped.
    """
    waiting = iter(parts)
    taking = threading.Lock()
    errors: list[BaseException] = []

    def work() -> None:
        while not errors and not stop.is_set():
            with taking:
                part = next(waiting, None)
            if part is None:
                return
            try:
                act(part)
            except BaseException as error:  # noqa: BLE001  raised again below
                errors.append(error)

    crew = [threading.Thread(target=work, name="fetch", daemon=True) for _ in range(min(threads, len(parts)))]
    for one in crew:
        one.start()
    for one in crew:
        one.join()
    if errors:
        raise errors[0]
    if stop.is_set():
        raise SourceUnreachable("nobody wants the slide any more; ask for it again")


def _allocate(path: Path, size: int) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        if size:
            os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        # A disk that cannot promise room says so when it is written to.
        os.ftruncate(file, size)
    finally:
        os.close(file)


def _write_at(path: Path, start: int, content: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    try:
        rest = memoryview(content)
        while rest:
            written = os.pwrite(file, rest, start)
            start, rest = start + written, rest[written:]
    finally:
        os.close(file)
