"""Verification of an index: its record, quantizer, shards and plans."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from fossilray.analysis.search.index_record import IndexRecord, ShardRecord, slides_from
from fossilray.analysis.search.index_store import INDEX_JSON, IndexStore, quantizer_path
from fossilray.analysis.search.quantizer import VectorQuantizer
from fossilray.analysis.search.shard_file import FILES, ShardReader
from fossilray.core.errors import StoreError, StoreUnreachable
from fossilray.store.files.base import Files
from fossilray.store.maintenance.side_files import check_side_files
from fossilray.store.maintenance.slide_check import FindingKind, VerifyFinding

_REBUILD = "build the index again in another folder"
_DELETE_AND_RESUME = "delete {path} and start `fossilray index build` again"


def check_index(files: Files, *, deep: bool) -> Iterator[VerifyFinding]:
    """Yield what is wrong with the files of an index. Its runs are not read.

    Args:
        deep: read all entries of shards and compare checksums, which indexes made before 2026-12 lack.

    Raises:
        StoreUnreachable: the store is unreachable.
    """
    quantizer: VectorQuantizer | None = None
    record: IndexRecord | None = None
    try:
        record = IndexRecord.from_json(files.read(INDEX_JSON), url=files.url)
    except (StoreError, FileNotFoundError) as error:
        yield _finding(INDEX_JSON, "record", error, _REBUILD)
    if record is not None:
        index = IndexStore(files, record)
        try:
            quantizer = index.load_quantizer()
        except StoreError as error:
            yield _finding(quantizer_path(record.coder_sha256), "coder", error, _REBUILD)
        yield from check_side_files(index.attempts, deep=deep)
    for path in files.find("shards"):
        if path.endswith(".json"):
            yield from _check_shard(files, path, record, quantizer, deep=deep)
    for path in files.find("plans"):
        try:
            slides_from(files.read(path), name=path)
        except FileNotFoundError:
            continue  # a build has ended since the listing
        except StoreError as error:
            yield _finding(path, "plan", error, _DELETE_AND_RESUME.format(path=path))


def _check_shard(
    files: Files, path: str, record: IndexRecord | None, quantizer: VectorQuantizer | None, *, deep: bool
) -> Iterator[VerifyFinding]:
    remedy = _DELETE_AND_RESUME.format(path=path)
    try:
        shard = ShardRecord.from_json(files.read(path), name=path)
    except (StoreError, FileNotFoundError) as error:
        yield _finding(path, "shard", error, remedy)
        return
    if record is not None and shard.coder_sha256 != record.coder_sha256:
        yield _finding(path, "shard", f"{path} is of another quantizer than the index", remedy)
        return
    sizes = {PurePosixPath(entry.path).name: entry.bytes for entry in files.entries(shard.data)}
    for name in FILES:
        if name not in sizes:
            yield _finding(f"{shard.data}/{name}", "missing", f"{shard.data}/{name} is missing", remedy)
    if set(FILES) - sizes.keys():
        return
    if (size := sum(sizes[name] for name in FILES)) != shard.size_bytes:
        reason = f"{shard.data}: its files have {size:,} bytes, {shard.size_bytes:,} were written"
        yield _finding(shard.data, "size", reason, remedy)
        return
    if quantizer is None:
        return
    try:
        reader = ShardReader(files, shard, lists=quantizer.lists, code_bytes=quantizer.code_bytes)
        if deep:
            reader.check()
    except (StoreError, FileNotFoundError) as error:
        yield _finding(shard.data, "shard", error, remedy)


def _finding(path: str, kind: FindingKind, error: object, remedy: str) -> VerifyFinding:
    """Return a finding whose message names the file and a remedy.

    Raises:
        StoreUnreachable: the error is one.
    """
    if isinstance(error, StoreUnreachable):
        raise error
    text = f"{path} is missing" if isinstance(error, FileNotFoundError) else str(error)
    text = text if path in text else f"{path}: {text}"
    return VerifyFinding("", path, kind, text if ";" in text else f"{text}; {remedy}")
