"""The journal of acts: a file of JSON lines beside the rounds of a label set, written through before each response.

A server appends to a journal of its own, which it locks before the journal gets its name. Every minute, and when the
server ends, the acts become a round of the label set, and the journal is renamed from .jsonl to .done. The round names
its journal as its source, so that a server that is killed between the two steps leaves no act twice. A journal whose
round fails stays locked and is tried again with the next round. Journals of servers that were killed become rounds
when the next server starts.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from fossilray.core.errors import DamagedFile, StoreError
from fossilray.core.records import utc_now
from fossilray.serve.act import RecordedAct

JOURNAL_FOLDER = "journal"
OPEN, DONE = ".jsonl", ".done"
_UNNAMED = ".new"


class ActJournal:
    """The journals of one label set, and the one that this process writes."""

    def __init__(self, labels: Path) -> None:
        self.folder = labels / JOURNAL_FOLDER
        self._guard = threading.Lock()
        self._file: BinaryIO | None = None
        self._path: Path | None = None
        self._closed: dict[Path, BinaryIO] = {}

    def append(self, acts: Sequence[RecordedAct]) -> None:
        """Write acts through to the disk; they are safe when this returns.

        Raises:
            StoreError: the disk refuses them; none of them counts.
        """
        lines = b"".join(act.model_dump_json().encode() + b"\n" for act in acts)
        with self._guard:
            try:
                file = self._opened()
                size = file.seek(0, os.SEEK_END)
                try:
                    file.write(lines)
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(size)
                    raise
            except OSError as error:
                raise StoreError(
                    f"{self.folder} takes no label ({error.strerror}); free space or mend the disk, the page sends "
                    "them again"
                ) from None

    def take(self) -> list[Path]:
        """Close the journal of this process and return all closed ones that are not yet rounds, the oldest first.

        They stay locked until `finish`.
        """
        with self._guard:
            if self._path is not None and self._file is not None:
                self._closed[self._path] = self._file
                self._path = self._file = None
            return list(self._closed)

    def finish(self, path: Path) -> None:
        """Mark a journal as turned into a round, and unlock it if it is one that `take` gave."""
        path.rename(path.with_suffix(DONE))
        with self._guard:
            file = self._closed.pop(path, None)
        if file is not None:
            file.close()
        sync_folder(self.folder)

    def abandoned(self) -> Iterator[Path]:
        """Yield the journals that no living server writes, each locked while the caller works on it."""
        for path in sorted(self.folder.glob(f"*{OPEN}")):
            with path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                if path.exists():
                    yield path

    def known_ids(self) -> Iterator[str]:
        """Yield the ids of all acts of all journals."""
        for path in sorted(self.folder.glob("*")):
            if path.suffix in (OPEN, DONE):
                yield from (act.id for act in read_journal(path))

    def _opened(self) -> BinaryIO:
        if self._file is None:
            self.folder.mkdir(exist_ok=True)
            stamp = utc_now().replace(":", "").replace("-", "").split(".")[0].split("+")[0]
            path = self.folder / f"{stamp}-{os.getpid()}-{secrets.token_hex(4)}{OPEN}"
            unnamed = path.with_suffix(_UNNAMED)
            file = unnamed.open("xb")
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                unnamed.rename(path)
                sync_folder(self.folder)
            except OSError:
                file.close()
                raise
            self._path, self._file = path, file
        return self._file


def read_journal(path: Path) -> list[RecordedAct]:
    """Return the acts of a journal. A last line without its end was never acknowledged and is left out.

    Raises:
        DamagedFile: another line is no act.
    """
    acts = []
    for number, line in enumerate(_lines(path.read_bytes()), 1):
        try:
            acts.append(RecordedAct.model_validate_json(line))
        except ValidationError:
            raise DamagedFile(
                f"{path}, line {number}, is no act; remove the line, and the others become a round at the next start"
            ) from None
    return acts


def _lines(content: bytes) -> Iterable[bytes]:
    whole = content[: content.rfind(b"\n") + 1]
    return whole.splitlines()


def sync_folder(folder: Path) -> None:
    """Write a folder's entries through to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
