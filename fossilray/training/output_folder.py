"""The output folder of a training: a local folder, or an object store with a local scratch folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fossilray.core.atomic_files import PART, write_atomically
from fossilray.core.config import StoreConfig
from fossilray.core.config.training import TrainConfig
from fossilray.store.files.base import Files, is_remote, local_path
from fossilray.store.files.open import open_files
from fossilray.training.checkpoint import is_checkpoint, latest_checkpoint

CHECKPOINTS = "checkpoints"


class TrainingFolder:
    """One worker's folder of a training, synchronised with an object store.

    A local output folder is used directly; all workers must see it.
    """

    def __init__(self, folder: Path, files: Files | None) -> None:
        """files: the object store; None if `folder` is the output folder itself."""
        self.folder = folder
        self._files = files
        self._uploaded: dict[str, tuple[int, int]] = {}

    @staticmethod
    @contextmanager
    def open(out: str, config: TrainConfig) -> Iterator[TrainingFolder]:
        """Open an output folder at a local path or s3://…, with the credentials of `data.access`.

        Raises:
            StoreError: The kind of store is unknown.
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
        """Return the name of the latest checkpoint, or None."""
        if self._files is not None:
            names = [name for name in self._files.names(CHECKPOINTS) if name.endswith(".pt")]
            return max(names, default=None)
        path = latest_checkpoint(self.folder / CHECKPOINTS)
        return None if path is None else path.name

    def download_checkpoint(self, name: str) -> Path:
        """Return the local path of a checkpoint, downloaded if necessary."""
        path = self.folder / CHECKPOINTS / name
        if self._files is not None and not path.exists():
            self._download(f"{CHECKPOINTS}/{name}")
        return path

    def download_logs(self) -> None:
        """Download everything but checkpoints: the logs, to which the first worker appends."""
        if self._files is not None:
            for path in self._files.find(""):
                if not path.startswith(f"{CHECKPOINTS}/"):
                    self._download(path)

    def upload(self) -> None:
        """Upload files that changed since the last upload, and delete remote checkpoints that no longer exist here."""
        if self._files is None:
            return
        local = {
            path.relative_to(self.folder).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns)
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and path.suffix != PART
        }
        for path, state in local.items():
            if self._uploaded.get(path) != state:
                self._files.write(path, (self.folder / path).read_bytes())
        for name in self._files.names(CHECKPOINTS):
            if f"{CHECKPOINTS}/{name}" not in local and is_checkpoint(name):
                self._files.delete(f"{CHECKPOINTS}/{name}")
        self._uploaded = local

    def _download(self, path: str) -> None:
        assert self._files is not None
        target = self.folder / path
        write_atomically(target, self._files.read(path))
