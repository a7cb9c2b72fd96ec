"""Where a training keeps what it writes: a folder on a disk, or an object store behind a folder of scratch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fossilray.core.config import StoreConfig
from fossilray.core.config.training import TrainConfig
from fossilray.core.whole_files import PART, write_whole
from fossilray.store.files.base import Files, is_remote, local_path
from fossilray.store.files.open import open_files
from fossilray.training.checkpoint import is_checkpoint, latest_checkpoint

CHECKPOINTS = "checkpoints"


class TrainingFolder:
    """One worker's folder of a training, fetched from and brought to the place that outlives the worker.

    On a disk the folder is the place itself, which all workers must see.
    """

    def __init__(self, folder: Path, files: Files | None) -> None:
        """files: of an object store; None where the folder itself stays."""
        self.folder = folder
        self._files = files
        self._brought: dict[str, tuple[int, int]] = {}

    @staticmethod
    @contextmanager
    def open(out: str, config: TrainConfig) -> Iterator[TrainingFolder]:
        """A place at a local path or s3://…, which `data.access` tells how to reach.

        Raises:
            StoreError: there is no such kind of store.
        """
        if not is_remote(out):
            yield TrainingFolder(Path(local_path(out)), None)
            return
        access = (
            StoreConfig() if config.data.access is None else StoreConfig(**config.data.access.model_dump())
        )
        with tempfile.TemporaryDirectory(prefix="fossilray-training-") as scratch:
            yield TrainingFolder(Path(scratch), open_files(out, access))

    def latest(self) -> str | None:
        """Name of the last whole checkpoint; None where there is none."""
        if self._files is not None:
            names = [name for name in self._files.names(CHECKPOINTS) if name.endswith(".pt")]
            return max(names, default=None)
        found = latest_checkpoint(self.folder / CHECKPOINTS)
        return None if found is None else found.name

    def fetch(self, name: str) -> Path:
        """That checkpoint as a file here."""
        path = self.folder / CHECKPOINTS / name
        if self._files is not None and not path.exists():
            self._fetch(f"{CHECKPOINTS}/{name}")
        return path

    def fetch_course(self) -> None:
        """The curves so far, which the first worker goes on with."""
        if self._files is not None:
            for path in self._files.find(""):
                if not path.startswith(f"{CHECKPOINTS}/"):
                    self._fetch(path)

    def bring(self) -> None:
        """Bring what changed since the last time to where it stays; older checkpoints there go."""
        if self._files is None:
            return
        here = {
            path.relative_to(self.folder).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns)
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and path.suffix != PART
        }
        for path, state in here.items():
            if self._brought.get(path) != state:
                self._files.write(path, (self.folder / path).read_bytes())
        for name in self._files.names(CHECKPOINTS):
            if f"{CHECKPOINTS}/{name}" not in here and is_checkpoint(name):
                self._files.delete(f"{CHECKPOINTS}/{name}")
        self._brought = here

    def _fetch(self, path: str) -> None:
        assert self._files is not None
        target = self.folder / path
        write_whole(target, self._files.read(path))
