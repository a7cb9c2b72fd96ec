"""Download of one slide from an object store to a local folder.

Parts are fetched in parallel by daemon threads, which do not delay the exit of the interpreter.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fossilray.core.errors import MissingCompanion, NotASlide, ScratchFull, SourceUnreachable
from fossilray.slides.remote.scratch import Scratch, scratch_full
from fossilray.slides.remote.slide_files import SlideFiles, list_slide_files
from fossilray.slides.remote.source import RemoteFile, SlideSource

PART_BYTES = 8 * 2**20
"""One ranged request; as many of these as threads are in memory at once."""

_CLOSE_WAIT_S = 5.0


class Download:
    """Download of one slide in a background thread; its files stay on the disk until `drop`.

    reserve(path, bytes): reserves room, or raises. release(bytes): frees it. count(bytes): receives the size of each
    part that was fetched. error: the exception that ended the download, if any.
    """

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
        """Wait for the download and return the slide's local path. Raises the error that ended it."""
        self.wait()
        if self.error is not None:
            raise self.error
        return self._folder / self._name

    def drop(self) -> None:
        """Delete the files; a download in progress stops at its next part."""
        self._dropped.set()
        # A request without a response may hold its thread for minutes; the thread then cleans up after itself.
        self._thread.join(_CLOSE_WAIT_S)
        self._clean()

    def _run(self) -> None:
        try:
            bundle = list_slide_files(self._source, self.path)
            self._reserve(self.path, bundle.bytes)
            self._held = bundle.bytes
            parts = self._prepare(bundle)
            _side_by_side(self._threads, self._copy, parts, stop=self._dropped)
            self._check_unchanged(bundle)
            self._name = bundle.name
        except BaseException as error:  # noqa: BLE001  raised again in the thread that waits for the slide
            self.error = error
        if self.error is not None or self._dropped.is_set():
            self._clean()

    def _clean(self) -> None:
        with self._cleaning:
            self._scratch.remove(self._folder.name)
            held, self._held = self._held, 0
            self._release(held)

    def _prepare(self, bundle: SlideFiles) -> list[_Part]:
        """Allocate all files at full size, so that a full disk shows before the download, and return the parts."""
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
            raise scratch_full(self._scratch.folder.parent, error) from None
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
            raise scratch_full(self._scratch.folder.parent, error) from None
        self._count(len(content))

    def _check_unchanged(self, bundle: SlideFiles) -> None:
        """Check that no file changed during the download: parts of two versions would be combined.

        Raises:
            SourceUnreachable: a file changed.
        """
        try:
            now = list_slide_files(self._source, self.path).versions()
        except (NotASlide, MissingCompanion):
            now = {}
        if now != bundle.versions():
            raise self._changed(self.path)

    def _changed(self, url: str) -> SourceUnreachable:
        return SourceUnreachable(f"{url} changed while it was fetched; it will be tried again")


@dataclass(frozen=True)
class _Part:
    """Range [start, stop) of a remote file, in bytes, and the local file it is written to."""

    file: RemoteFile
    target: Path
    start: int
    stop: int


def _side_by_side(
    threads: int, act: Callable[[_Part], None], parts: Sequence[_Part], *, stop: threading.Event
) -> None:
    """Call `act` on every part in up to `threads` threads, until all are done, one fails, or `stop` is set.

    Raises the first error of `act`; SourceUnreachable if stopped.
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

    workers = [
        threading.Thread(target=work, name="fetch", daemon=True) for _ in range(min(threads, len(parts)))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    if stop.is_set():
        raise SourceUnreachable("the slide is no longer needed; request it again")


def _allocate(path: Path, size: int) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        if size:
            os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        # A disk that cannot reserve space fails when it is written to.
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
