"""Whether an index of vectors holds what its builds committed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from fossilray.analysis.search.index_record import IndexRecord, ShardRecord, slides_from
from fossilray.analysis.search.index_store import INDEX_JSON, IndexStore, coder_path
from fossilray.analysis.search.quantizer import VectorQuantizer
from fossilray.analysis.search.shard_file import FILES, ShardReader
from fossilray.core.errors import StoreError, StoreUnreachable
from fossilray.store.files.base import Files
from fossilray.store.maintenance.side_files import check_side_files
from fossilray.store.maintenance.slide_check import FindingKind, VerifyFinding

_ANEW = "build the index again in another place"
_AGAIN = "delete {path} and start `fossilray index build` again"


def check_index(files: Files, *, deep: bool) -> Iterator[VerifyFinding]:
    """What is wrong with the files of an index; the runs that it was made of are not looked at.

    deep: all entries of shards are read and compared with their checksums, which indexes made before 2026-12 have not.

    Raises:
        StoreUnreachable: the store does not answer.
    """
    coder: VectorQuantizer | None = None
    record: IndexRecord | None = None
    try:
        record = IndexRecord.from_json(files.read(INDEX_JSON), url=files.url)
    except (StoreError, FileNotFoundError) as error:
        yield _finding(INDEX_JSON, "record", error, _ANEW)
    if record is not None:
        index = IndexStore(files, record)
        try:
            coder = index.coder()
        except StoreError as error:
            yield _finding(coder_path(record.coder_sha256), "coder", error, _ANEW)
        yield from check_side_files(index.attempts, deep=deep)
    for path in files.find("shards"):
        if path.endswith(".json"):
            yield from _check_shard(files, path, record, coder, deep=deep)
    for path in files.find("plans"):
        try:
            slides_from(files.read(path), name=path)
        except FileNotFoundError:
            continue  # a build has ended meanwhile
        except StoreError as error:
            yield _finding(path, "plan", error, _AGAIN.format(path=path))


def _check_shard(
    files: Files, path: str, record: IndexRecord | None, coder: VectorQuantizer | None, *, deep: bool
) -> Iterator[VerifyFinding]:
    remedy = _AGAIN.format(path=path)
    try:
        shard = ShardRecord.from_json(files.read(path), name=path)
    except (StoreError, FileNotFoundError) as error:
        yield _finding(path, "shard", error, remedy)
        return
    if record is not None and shard.coder_sha256 != record.coder_sha256:
        yield _finding(path, "shard", f"{path} is of another coder than the index", remedy)
        return
    sizes = {PurePosixPath(entry.path).name: entry.bytes for entry in files.entries(shard.data)}
    for name in FILES:
        if name not in sizes:
            yield _finding(f"{shard.data}/{name}", "missing", f"{shard.data}/{name} is gone", remedy)
    if set(FILES) - sizes.keys():
        return
    if (size := sum(sizes[name] for name in FILES)) != shard.size_bytes:
        what = f"{shard.data}: its files have {size:,} bytes, {shard.size_bytes:,} were written"
        yield _finding(shard.data, "size", what, remedy)
        return
    if coder is None:
        return
    try:
        reader = ShardReader(files, shard, lists=coder.lists, code_bytes=coder.code_bytes)
        if deep:
            reader.check()
    except (StoreError, FileNotFoundError) as error:
        yield _finding(shard.data, "shard", error, remedy)


def _finding(path: str, kind: FindingKind, error: object, remedy: str) -> VerifyFinding:
    """A finding whose message has the file's name and a remedy.

    Raises:
        StoreUnreachable: that is what the error is.
    """
    if isinstance(error, StoreUnreachable):
        raise error
    text = f"{path} is gone" if isinstance(error, FileNotFoundError) else str(error)
    text = text if path in text else f"{path}: {text}"
    return VerifyFinding("", path, kind, text if ";" in text else f"{text}; {remedy}")
