"""A compacted dataset: the combined files of a run, read like the run and never written to.

DATASET/
  dataset.json                        contents and source run; written last, its creation publishes the dataset
  run.json  catalog.parquet           the source's
  failures.parquet                    failures of the slides that are not in the dataset
  slides/part-000000.parquet          one row per slide
  samples/round-<k>.parquet           the source's rounds of corrections; later ones are read from the source
  objects/well=<well>/part-<k>.parquet      the objects of many slides, by slide_id and object_id
  embeddings/well=<well>/part-<k>.parquet   their vectors in the same order (optional)
  compacting.json                     only during compaction, or after an interrupted one
Crops, embeddings and pictures stay in the source run, where `arrays` finds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa

from fossilray.core.config import StoreConfig
from fossilray.core.errors import RunNotFound, StoreError, UsageError
from fossilray.core.formats import build_record, parquet, parse_json
from fossilray.core.records import READABLE_VERSIONS, Failure, FileEntry
from fossilray.core.schemas import FAILURES_SCHEMA, SCHEMA_VERSION, SLIDES_SCHEMA
from fossilray.store.files.base import Files
from fossilray.store.files.open import open_files
from fossilray.store.run.attempts import AttemptRecords
from fossilray.store.run.json_record import JsonRecord
from fossilray.store.run.layout import OBJECTS, part_path
from fossilray.store.run.objects_file import Footer
from fossilray.store.run.roles import dataset_part, dataset_record
from fossilray.store.run.run_store import RunStore

DATASET_JSON = "dataset.json"
UNFINISHED_JSON = "compacting.json"
FAILURES_PARQUET = "failures.parquet"
EMBEDDINGS_FOLDER = "embeddings"


@dataclass(frozen=True)
class DatasetFile:
    """One Parquet file of a dataset."""

    path: str
    slides: tuple[str, ...]
    """Slides whose objects or embeddings it holds, in order; empty for the tables about slides."""
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class DatasetRecord(JsonRecord):
    """Content of dataset.json."""

    schema_version: int
    source: str
    """URL of the source run, which keeps arrays and pictures."""
    compacted_at: str
    """UTC, ISO 8601; slides committed after it began are not in it."""
    slides: int
    objects: int
    embedding_dimension: int | None
    files: tuple[DatasetFile, ...]

    @staticmethod
    def from_json(text: bytes, *, url: str) -> DatasetRecord:
        """Parse a dataset.json.

        Raises:
            StoreError: the file was not written by this version of fossilray.
        """
        role = dataset_record(url)
        stated = parse_json(text, role)
        version = stated.get("schema_version") if isinstance(stated, dict) else None
        if version is not None and version not in READABLE_VERSIONS:
            raise StoreError(
                f"{url} is of schema version {version!s:.20}, this fossilray reads {SCHEMA_VERSION}; compact its "
                "run again into another folder"
            )
        return build_record(DatasetRecord, stated, role)


class DatasetTables:
    """`CompactedSlides` of a dataset: its tables about slides, and the files that its record lists."""

    def __init__(self, files: Files, source: RunStore, record: DatasetRecord) -> None:
        self._files = files
        self.source = source
        self._record = record

    @property
    def schema_version(self) -> int:
        return self._record.schema_version

    def committed(self) -> set[str]:
        return set(self._read_table(part_path(0), SLIDES_SCHEMA)["slide_id"].to_pylist())

    def committed_files(self) -> dict[str, str]:
        """The objects file of each slide by slide_id; slides without objects are missing."""
        return {
            slide_id: file.path
            for file in self._record.files
            if file.path.startswith(f"{OBJECTS}/")
            for slide_id in file.slides
        }

    def footer(self, slide_id: str) -> Footer | None:
        return self.source.footer(slide_id) if slide_id in self.committed() else None

    def summaries_table(self) -> tuple[pa.Table, frozenset[str]]:
        return self._read_table(part_path(0), SLIDES_SCHEMA), frozenset()

    def rebuild_summaries(self) -> int:
        raise _is_read_only(self._files.url)

    def attempts(self) -> AttemptRecords:
        rows = self._read_table(FAILURES_PARQUET, FAILURES_SCHEMA).to_pylist()
        return AttemptRecords(failures=[Failure(**row) for row in rows], cleared=frozenset(), started=[])

    def _read_table(self, path: str, schema: pa.Schema) -> pa.Table:
        """Read one of the tables about slides.

        Raises:
            DamagedFile: it is missing or damaged.
        """
        role = dataset_part(f"{self._files.url}/{path}")
        try:
            return parquet.read_table(self._files.read(path), role, schema=schema)
        except FileNotFoundError:
            raise role.damaged("it is gone") from None


def open_run(url: str | Path, config: StoreConfig | None = None) -> RunStore:
    """Open a run directory or a compacted dataset.

    No file of a run is read yet, so a missing run is reported by the first function that reads it.

    Args:
        url: local path, or s3:// address.
        config: how the object store is reached (`store` of a `RunConfig`); by default from the environment.

    Returns:
        The run, for the other functions of this API. `url` is its address, `summaries_table()` a `pyarrow.Table` of its
        committed slides.

    Raises:
        RunNotFound: there is a dataset that was never finished.
        StoreError: the store cannot be reached, or holds a dataset of another version.

    Example:
        >>> import fossilray
        >>> run = fossilray.open_run("census")
        >>> slides = run.summaries_table()
    """
    config = config or StoreConfig()
    files = open_files(str(url), config)
    content = _read_if_there(files, DATASET_JSON)
    if content is not None:
        record = DatasetRecord.from_json(content, url=files.url)
        read_only = _ReadOnlyFiles(files)
        source = RunStore.open(record.source, config)
        return RunStore(read_only, dataset=DatasetTables(read_only, source, record))
    if _read_if_there(files, UNFINISHED_JSON) is not None:
        raise RunNotFound(
            f"{files.url} holds a dataset that is not finished; wait for `fossilray compact`, or start the same "
            "command again if it was interrupted"
        )
    return RunStore(files)


def _read_if_there(files: Files, path: str) -> bytes | None:
    try:
        return files.read(path)
    except FileNotFoundError:
        return None


class _ReadOnlyFiles:
    """`Files` of a dataset; every write is refused."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self.filesystem = files.filesystem
        self.root = files.root
        self.url = files.url
        self.options = files.options
        self.single_writer = files.single_writer

    def read(self, path: str) -> bytes:
        return self._files.read(path)

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        return self._files.read_ranges(path, ranges)

    def read_tail(self, path: str, size: int) -> bytes:
        return self._files.read_tail(path, size)

    def find(self, folder: str) -> list[str]:
        return self._files.find(folder)

    def entries(self, folder: str) -> list[FileEntry]:
        return self._files.entries(folder)

    def names(self, folder: str) -> list[str]:
        return self._files.names(folder)

    def write(self, path: str, content: bytes) -> None:
        raise _is_read_only(self.url)

    def create(self, path: str, content: bytes) -> bool:
        raise _is_read_only(self.url)

    def delete(self, path: str) -> None:
        raise _is_read_only(self.url)

    def links(self, folder: str) -> list[str]:
        return self._files.links(folder)

    def irregular(self, folder: str) -> list[str]:
        return self._files.irregular(folder)

    def clock(self) -> datetime:
        raise _is_read_only(self.url)

    def now(self) -> datetime:
        return self._files.now()

    def abort_uploads(self, before: datetime) -> int:
        raise _is_read_only(self.url)


def _is_read_only(url: str) -> UsageError:
    return UsageError(
        f"{url} is a compacted dataset, which is only read; name the run it was made of, or another one"
    )
