"""Whether two runs hold the same objects, as the design defines equal; and a reader who looks while they grow."""

from __future__ import annotations

import threading
from collections import Counter
from types import TracebackType
from typing import Self

import duckdb
import numpy as np
import pyarrow.parquet as pq

from fossilray.store import RunStore
from fossilray.store.arrays.group import open_array_group
from fossilray.store.files.base import is_remote


def assert_equal_runs(one: RunStore, other: RunStore) -> None:
    """Equal Arrow columns (the attempt in the arrays' path set aside), equal crop chunks, equal embeddings."""
    files, others = one.committed_files(), other.committed_files()
    assert files == others
    for slide_id, path in files.items():
        with (
            one.filesystem.open(f"{one.root}/{path}") as mine,
            other.filesystem.open(f"{other.root}/{path}") as theirs,
        ):
            assert pq.read_table(mine).drop(["arrays"]).equals(pq.read_table(theirs).drop(["arrays"])), (
                slide_id
            )
        mine, theirs = one.footer(slide_id), other.footer(slide_id)
        assert mine is not None
        assert theirs is not None
        # The same names with the same checksums: JPEG chunks, embeddings and metadata, byte for byte.
        assert mine.arrays.sha256 == theirs.arrays.sha256, slide_id
        assert mine.arrays.bytes == theirs.arrays.bytes
        group, other_group = (
            open_array_group(one, mine.arrays.path),
            open_array_group(other, theirs.arrays.path),
        )
        np.testing.assert_array_equal(group["crops"][:], other_group["crops"][:])


class Watcher:
    """A thread that asks a bare DuckDB glob again and again, and remembers the worst it saw."""

    def __init__(self, store: RunStore, *, objects: dict[str, int]) -> None:
        self.looks = 0
        self.faults: list[str] = []
        self._objects = objects
        self._glob = store.objects_glob()
        self._connection = duckdb.connect()
        if is_remote(store.url):
            self._connection.register_filesystem(store.filesystem)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join(timeout=60)
        if kind is None:
            assert not self.faults, Counter(self.faults).most_common(3)
            assert self.looks

    def _watch(self) -> None:
        while not self._end.wait(0.05):
            try:
                rows = self._connection.sql(
                    "SELECT slide_id, count(*), count(DISTINCT object_id), min(object_id), max(object_id) "
                    f"FROM read_parquet('{self._glob}') GROUP BY slide_id"
                ).fetchall()
            except duckdb.Error as error:
                if "No files found" not in str(error):
                    self.faults.append(str(error).splitlines()[0])
                continue
            self.looks += 1
            for slide_id, count, distinct, least, most in rows:
                whole = self._objects.get(slide_id)
                if (count, distinct, least, most) != (whole, whole, 0, count - 1):
                    self.faults.append(f"{slide_id}: {count} rows, {distinct} ids, {whole} expected")
