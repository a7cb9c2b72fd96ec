"""Checks that a compacted dataset holds the files that its record lists, as they were written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial

from fossilray.core.errors import CatalogError, RunNotFound, StoreError, StoreUnreachable
from fossilray.core.formats.parquet import read_parquet_metadata
from fossilray.core.parallel import map_in_chunks
from fossilray.store.dataset.dataset_store import (
    DATASET_JSON,
    EMBEDDINGS_FOLDER,
    FAILURES_PARQUET,
    DatasetFile,
    DatasetRecord,
)
from fossilray.store.files.base import READ_THREADS, Files
from fossilray.store.files.streaming import open_ranged
from fossilray.store.maintenance.slide_check import FindingKind, VerifyFinding
from fossilray.store.run.layout import OBJECTS, RUN_JSON, catalog_part_path
from fossilray.store.run.objects_file import read_tail_of
from fossilray.store.run.roles import dataset_part, dataset_record
from fossilray.store.run.run_store import RunStore

_BLOCK = 8 * 2**20
_THREADS = 4
_REMEDY = "compact the run again into another folder"


def check_dataset(files: Files, *, deep: bool) -> Iterator[VerifyFinding]:
    """Yield the damage of a dataset's files; its source run is not checked.

    deep: compare the sha256 of every file, not only sizes and footers.

    Raises:
        StoreUnreachable: the store cannot be reached.
    """
    store = RunStore(files)
    yield from _unless_read(RUN_JSON, "record", store.read_run)
    yield from _unless_read(catalog_part_path(0), "catalog", store.read_catalog)
    sizes = {entry.path: entry.bytes for entry in files.entries("")}
    try:
        listed = DatasetRecord.from_json(files.read(DATASET_JSON), url=files.url).files
    except StoreUnreachable:
        raise
    except (StoreError, FileNotFoundError) as error:
        yield VerifyFinding(
            "", DATASET_JSON, "record", _describe_error(dataset_record(files.url).name, error)
        )
        # Without the record only the footer of each file is checked.
        listed = tuple(DatasetFile(path, (), -1, sizes[path], "") for path in sizes if _is_part(path))
    else:
        for path in sorted(filter(_is_part, sizes.keys() - {file.path for file in listed})):
            message = f"{path} is not among the files of the dataset, and readers of a glob take it for one; "
            yield VerifyFinding("", path, "extra", message + "move it out")
    check = partial(_check_file, files, sizes, deep=deep)
    for findings in map_in_chunks(check, listed, threads=_THREADS if deep else READ_THREADS):
        yield from findings


def _check_file(files: Files, sizes: dict[str, int], file: DatasetFile, *, deep: bool) -> list[VerifyFinding]:
    def finding(kind: FindingKind, what: str) -> list[VerifyFinding]:
        return [VerifyFinding("", file.path, kind, f"{file.path} {what}; {_REMEDY}")]

    if file.path not in sizes:
        return finding("missing", "is gone")
    if sizes[file.path] != file.bytes:
        return finding("size", f"has {sizes[file.path]:,} bytes, {file.bytes:,} were written")
    try:
        if file.sha256 and (deep or not file.path.endswith(".parquet")):
            if _digest(files, file.path) != file.sha256:
                return finding("checksum", "is not what was written (sha256)")
            return []
        tail = read_tail_of(lambda size: files.read_tail(file.path, size))
        rows = read_parquet_metadata(tail, dataset_part(file.path)).num_rows
    except StoreUnreachable:
        raise
    except (StoreError, FileNotFoundError) as error:
        return [VerifyFinding("", file.path, "unread", _describe_error(file.path, error))]
    return finding("rows", f"holds {rows:,} rows of {file.rows:,}") if file.rows not in (-1, rows) else []


def _unless_read(path: str, kind: FindingKind, read: Callable[[], object]) -> Iterator[VerifyFinding]:
    try:
        read()
    except StoreUnreachable:
        raise
    except (StoreError, RunNotFound, CatalogError) as error:
        yield VerifyFinding("", path, kind, f"{path}: {error}")


def _describe_error(name: str, error: Exception) -> str:
    """Return a message with the name of the file, the error and the remedy."""
    text = "it is gone" if isinstance(error, FileNotFoundError) else str(error)
    return text if name in text and _REMEDY in text else f"{name}: {text}; {_REMEDY}"


def _is_part(path: str) -> bool:
    """Return whether readers of a dataset read this file."""
    return path == FAILURES_PARQUET or (
        path.partition("/")[0] in (OBJECTS, EMBEDDINGS_FOLDER, "slides") and path.endswith(".parquet")
    )


def _digest(files: Files, path: str) -> str:
    sha256 = hashlib.sha256()
    with open_ranged(files, path) as file:
        while block := file.read(_BLOCK):
            sha256.update(block)
    return sha256.hexdigest()
