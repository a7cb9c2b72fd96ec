"""Large files of a store written piece by piece, so that memory holds a block of one and never all of it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fossilray.core.atomic_files import atomic_file
from fossilray.core.config import StoreConfig
from fossilray.core.errors import UsageError
from fossilray.store.files.base import Files, is_remote
from fossilray.store.files.faults import translate_errors
from fossilray.store.files.local import LocalFiles
from fossilray.store.files.open import open_files


class StreamedFile(io.RawIOBase):
    """A file written from start to end, with its size and checksum so far."""

    def __init__(self, sink: IO[bytes]) -> None:
        self._sink = sink
        self._sha256 = hashlib.sha256()
        self.bytes = 0

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def writable(self) -> bool:
        return True

    def write(self, piece: memoryview | bytes) -> int:  # type: ignore[override]
        self._sha256.update(piece)
        self.bytes += len(piece)
        self._sink.write(piece)
        return len(piece)

    def tell(self) -> int:
        return self.bytes


@contextmanager
def stream_to(files: Files, path: str) -> Iterator[StreamedFile]:
    """A file of the store to write into, seen under its name once the block ends; it replaces what is there.

    Raises:
        UsageError: the file cannot be created.
        StoreError: the store refuses it.
    """
    with translate_errors(files.url, "write to", protocol=_protocol(files)):
        if isinstance(files, LocalFiles):
            with atomic_file(Path(files.root) / path) as sink:
                yield StreamedFile(sink)
        else:
            with _uploaded(files, path) as sink:
                yield StreamedFile(sink)


@contextmanager
def open_ranged(files: Files, path: str) -> Iterator[IO[bytes]]:
    """A file of the store to read and seek in; every read is a request for just these bytes.

    Raises:
        StoreError: the store refuses it.
    """
    with (
        translate_errors(files.url, "read", protocol=_protocol(files)),
        files.filesystem.open(f"{files.root}/{path}", "rb", cache_type="none") as file,
    ):
        yield file


@contextmanager
def _uploaded(files: Files, path: str) -> Iterator[IO[bytes]]:
    file = files.filesystem.open(f"{files.root}/{path}", "wb")
    try:
        yield file
    except BaseException:
        # Closing would complete the upload of what is only a part.
        file.discard()
        file.closed = True
        raise
    file.close()


def _protocol(files: Files) -> str:
    return files.url.partition("://")[0] if is_remote(files.url) else "file"


def split_table_path(out: str, access: StoreConfig) -> tuple[Files, str]:
    """The folder that a table is written to, and its name there.

    Raises:
        UsageError: it does not end in .parquet.
    """
    folder, _, name = out.rpartition("/")
    if not name.endswith(".parquet") or name == ".parquet":
        raise UsageError(f"--out {out!r} does not name a Parquet file; give a name that ends in .parquet")
    files = open_files(folder or ("/" if out.startswith("/") else "."), access)
    return files, name
