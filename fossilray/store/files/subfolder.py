"""A folder of a run directory as a directory of its own, so that what is kept there needs no paths of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from fossilray.core.records import FileEntry
from fossilray.store.files.base import Files


class Subfolder:
    """`Files` below a folder of other `Files`, which keep its half-written files."""

    def __init__(self, files: Files, folder: str) -> None:
        self._files = files
        self._folder = folder
        self.filesystem = files.filesystem
        self.root = f"{files.root}/{folder}"
        self.url = f"{files.url}/{folder}"
        self.options = files.options
        self.single_writer = files.single_writer

    def read(self, path: str) -> bytes:
        return self._files.read(self._whole(path))

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        return self._files.read_ranges(self._whole(path), ranges)

    def read_tail(self, path: str, size: int) -> bytes:
        return self._files.read_tail(self._whole(path), size)

    def write(self, path: str, content: bytes) -> None:
        self._files.write(self._whole(path), content)

    def create(self, path: str, content: bytes) -> bool:
        return self._files.create(self._whole(path), content)

    def find(self, folder: str) -> list[str]:
        return [self._own(path) for path in self._files.find(self._whole(folder))]

    def entries(self, folder: str) -> list[FileEntry]:
        entries = self._files.entries(self._whole(folder))
        return [replace(entry, path=self._own(entry.path)) for entry in entries]

    def names(self, folder: str) -> list[str]:
        return self._files.names(self._whole(folder))

    def delete(self, path: str) -> None:
        self._files.delete(self._whole(path))

    def links(self, folder: str) -> list[str]:
        # A link on the way to this folder has no name in it.
        links = self._files.links(self._whole(folder))
        return [self._own(path) if path.startswith(f"{self._folder}/") else "" for path in links]

    def irregular(self, folder: str) -> list[str]:
        return [self._own(path) for path in self._files.irregular(self._whole(folder))]

    def clock(self) -> datetime:
        return self._files.clock()

    def now(self) -> datetime:
        return self._files.now()

    def abort_uploads(self, before: datetime) -> int:
        return self._files.abort_uploads(before)

    def _whole(self, path: str) -> str:
        return f"{self._folder}/{path}".rstrip("/")

    def _own(self, path: str) -> str:
        return path[len(self._folder) + 1 :]
