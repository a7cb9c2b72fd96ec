"""Embeddings of a run's objects: the run's own, or those that `fossilray embed` made under a name."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fossilray.core.backbones import describe_backbone
from fossilray.core.errors import QueryError, StoreError, UsageError
from fossilray.store.arrays.array_layout import read_layout
from fossilray.store.arrays.embeddings import CHUNK_ROWS, iter_shards, read_embeddings
from fossilray.store.derived.derived_store import EMBEDDINGS_PER_ROW_GROUP, DerivedStore
from fossilray.store.query.stored_slide import StoredSlide
from fossilray.store.run.layout import arrays_path, slide_file, split_arrays_path
from fossilray.store.run.run_record import RunRecord
from fossilray.store.run.run_store import RunStore

_Number = TypeVar("_Number", bound=np.generic)

CACHE_BYTES = 256 * 2**20
"""Bytes of recently read chunks that a search keeps in memory, per run."""

_MAX_ROW_GROUPS = 4
"""Largest number of row groups of named embeddings that are read singly; for more, the whole file is read."""


@dataclass(frozen=True)
class VectorBackbone:
    """The backbone that made a run's embeddings."""

    name: str
    sha256: str
    """sha256 of its weights, as in run.json; empty if the backbone has no weights."""
    dimension: int
    """Length of a vector; 0 if the run declares none and has no objects."""

    @staticmethod
    def of(record: Mapping[str, Any]) -> VectorBackbone:
        """Return the backbone in a record's `backbone`, which may hold further fields."""
        return VectorBackbone(str(record["name"]), str(record["sha256"]), int(record["dimension"]))

    @staticmethod
    def of_run(run: RunRecord) -> VectorBackbone:
        """The backbone that a run was processed with; its name is `none` where there was no backbone."""
        digests = [digest for name, digest in sorted(run.weights.items()) if name.startswith("embedder/")]
        return VectorBackbone(
            name=str(run.embedder.get("name", run.config["embedder"]["weights"])),
            sha256=digests[0] if digests else "",
            dimension=int(run.embedder.get("dimension", 0)),
        )

    def __str__(self) -> str:
        return describe_backbone(self)


@dataclass(frozen=True)
class VectorBlock:
    """Vectors of some objects of one slide."""

    object_id: NDArray[np.int64]
    vectors: NDArray[np.float16]
    """(n, d)."""


class VectorReader:
    """Embeddings of one run: its own, or those of a name. Safe to share between threads.

    A dataset is read through the run that it was made of. Every vector is checked against the attempt at its slide:
    named embeddings of a slide that was reprocessed since are refused.
    """

    def __init__(self, store: RunStore, name: str | None = None, *, cache_bytes: int = 0) -> None:
        """Open the embeddings of a run; no vector is read yet.

        name: as given to `fossilray embed`; None: the run's own. cache_bytes: recently read chunks that `read` and
        `rows` keep in memory.

        Raises:
            RunNotFound: the run has no embeddings of this name.
        """
        self.store = store.source_run
        self.name = name
        self._named = None if name is None else DerivedStore.open(self.store, "embeddings", name)
        self._cache = _ChunkCache(cache_bytes)
        self._files: Mapping[str, str] = {}

    @cached_property
    def backbone(self) -> VectorBackbone:
        """The backbone that made the vectors.

        Raises:
            UsageError: the run was processed without a backbone.
        """
        if self._named is not None:
            return VectorBackbone.of(self._named.record.backbone)
        run = self.store.read_run()
        if run.config["embedder"]["weights"] == "none":
            raise UsageError(
                f"{self.store.url} holds no embeddings: it was made with embedder.weights none; run `fossilray embed` "
                "and give --embeddings, or process into another run directory with a backbone"
            )
        backbone = VectorBackbone.of_run(run)
        return backbone if backbone.dimension else replace(backbone, dimension=self._stored_dimension())

    def committed(self) -> set[str]:
        """slide_ids of the slides that have vectors, by one listing."""
        return self.store.committed() if self._named is None else self._named.committed()

    def slide(self, slide: StoredSlide) -> NDArray[np.float16]:
        """Return the vectors (n, d) of all objects of a slide, by object_id.

        Raises:
            StoreError: they are missing or damaged, or were made of an earlier attempt.
        """
        empty = np.zeros((0, self.backbone.dimension), np.float16)
        return np.concatenate([empty, *self._in_order(slide)])

    def blocks(self, slide: StoredSlide) -> Iterator[VectorBlock]:
        """Yield a slide's vectors by object_id, of the objects that have pixels.

        The run's own come 2,048 at a time, named ones in one block.

        Raises:
            StoreError: as `slide`.
        """
        has_pixels = slide.objects["opacity"].is_valid().to_numpy()
        first = 0
        for vectors in self._in_order(slide):
            rows = np.arange(first, first + len(vectors))
            first += len(vectors)
            kept = has_pixels[rows]
            yield VectorBlock(rows[kept], vectors[kept])

    def rows(self, table: pa.Table) -> NDArray[np.float16]:
        """Return the vectors (n, d) of a query's rows, in their order.

        table: has the columns `arrays` and `object_id`.

        Raises:
            QueryError: a column is missing, or the run was processed without a backbone.
            StoreError: the vectors are missing or damaged, or were made of an earlier attempt.
        """
        if self._named is not None:
            empty = np.zeros((0, self.backbone.dimension), np.float16)
            return gather_rows(
                table, lambda path, rows: self.read(*split_arrays_path(path), rows), empty=empty
            )
        return gather_rows(table, self._own_rows, empty=np.zeros((0, 0), np.float16))

    def read(
        self, slide_id: str, attempt: str, object_id: Sequence[int] | NDArray[np.int64]
    ) -> NDArray[np.float16]:
        """Return the vectors (n, d) of some objects of one attempt at a slide, in the order of `object_id`.

        Raises:
            StoreError: as `rows`.
        """
        size = CHUNK_ROWS if self._named is None else EMBEDDINGS_PER_ROW_GROUP
        number, row = np.divmod(np.asarray(object_id, np.int64), size)
        wanted, position = np.unique(number, return_inverse=True)
        if not wanted.size:
            return np.zeros((0, self.backbone.dimension), np.float16)
        # Chunks are of one size but for the last of a slide.
        vectors = np.concatenate(self._chunks(slide_id, attempt, wanted.tolist()))
        index = position * size + row
        if (row < 0).any() or index.max() >= len(vectors):
            raise StoreError(
                f"{self.store.url} has no vector of object {int(np.max(object_id))} of slide {slide_id}; its objects "
                "and vectors disagree: see what else is damaged with `fossilray verify`"
            )
        selected: NDArray[np.float16] = vectors[index]
        return selected

    def _own_rows(self, path: str, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        layout = read_layout(self.store, path)
        if layout.embeddings is None:
            raise QueryError(
                f"{path} holds no embeddings: the run was made with embedder.weights none; process into "
                "another run directory with a backbone"
            )
        count = layout.embeddings[0]
        if rows.size and (rows.min() < 0 or rows.max() >= count):
            raise StoreError(
                f"{path} holds embeddings 0 to {count - 1}, requested were {rows.min()} to {rows.max()}"
            )
        return self.read(*split_arrays_path(path), rows)

    def _chunks(self, slide_id: str, attempt: str, numbers: Sequence[int]) -> list[NDArray[np.float16]]:
        """Return chunks of a slide's vectors by number, from the cache if possible."""
        cached = self._cache.get(slide_id, attempt, numbers)
        missing = [number for number in numbers if number not in cached]
        if missing:
            read = dict(zip(missing, self._read_chunks(slide_id, attempt, missing), strict=True))
            self._cache.add(slide_id, attempt, read)
            cached |= read
        return [cached[number] for number in numbers]

    def _read_chunks(self, slide_id: str, attempt: str, numbers: Sequence[int]) -> list[NDArray[np.float16]]:
        if self._named is not None:
            return self._read_named_chunks(self._named, slide_id, attempt, numbers)
        path = arrays_path(slide_id, attempt)
        try:
            return read_embeddings(self.store.files, path, numbers, dimension=self._own_dimension(path))
        except FileNotFoundError:
            raise StoreError(
                f"{self.store.url}/{path} lacks embeddings although its slide is committed; see what else is damaged "
                "with `fossilray verify`"
            ) from None

    def _read_named_chunks(
        self, named: DerivedStore, slide_id: str, attempt: str, numbers: Sequence[int]
    ) -> list[NDArray[np.float16]]:
        path, size, dimension = (
            self._named_file(named, slide_id),
            EMBEDDINGS_PER_ROW_GROUP,
            self.backbone.dimension,
        )
        slices = [(number * size, (number + 1) * size) for number in numbers]
        if len(numbers) > _MAX_ROW_GROUPS:
            whole = embedding_matrix(named.read_file(path, source_attempt=attempt), dimension)
            return [whole[start:stop] for start, stop in slices]
        tables = named.read_slices(path, slices, columns=["embedding"], source_attempt=attempt)
        return [embedding_matrix(table, dimension) for table in tables]

    def _named_file(self, named: DerivedStore, slide_id: str) -> str:
        if slide_id not in self._files:
            self._files = named.committed_files()  # slides may have been added since the last listing
        if slide_id not in self._files:
            raise StoreError(
                f"{named.url} has no embeddings of slide {slide_id} yet; start `fossilray embed` again first"
            )
        return self._files[slide_id]

    def _in_order(self, slide: StoredSlide) -> Iterator[NDArray[np.float16]]:
        if not slide.objects.num_rows:
            return
        if self._named is not None:
            path = slide_file(slide.slide_id, slide.footer.summary.well)
            table = self._named.read_file(path, source_attempt=slide.footer.attempt)
            yield embedding_matrix(table, self.backbone.dimension)
            return
        arrays = slide.footer.arrays
        yield from iter_shards(
            self.store.files, arrays, rows=slide.objects.num_rows, dimension=self._own_dimension(arrays.path)
        )

    def _own_dimension(self, path: str) -> int:
        """Length of the vectors in these arrays; runs of earlier versions do not declare it."""
        declared = VectorBackbone.of_run(self.store.read_run()).dimension
        if declared:
            return declared
        layout = read_layout(self.store, path)
        return 0 if layout.embeddings is None else layout.embeddings[1]

    def _stored_dimension(self) -> int:
        table = self.store.summaries_table()
        for row in table.filter(pc.greater(table["objects"], 0)).slice(0, 1).to_pylist():
            layout = read_layout(self.store, arrays_path(row["slide_id"], row["attempt"]))
            return 0 if layout.embeddings is None else layout.embeddings[1]
        return 0


class _ChunkCache:
    """Cache of the most recently read chunks of vectors, bounded in bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._chunks: OrderedDict[tuple[str, str, int], NDArray[np.float16]] = OrderedDict()
        self._lock = Lock()

    def get(self, slide_id: str, attempt: str, numbers: Sequence[int]) -> dict[int, NDArray[np.float16]]:
        chunks = {}
        with self._lock:
            for number in numbers:
                if (chunk := self._chunks.get((slide_id, attempt, number))) is not None:
                    self._chunks.move_to_end((slide_id, attempt, number))
                    chunks[number] = chunk
        return chunks

    def add(self, slide_id: str, attempt: str, chunks: Mapping[int, NDArray[np.float16]]) -> None:
        with self._lock:
            for number, chunk in chunks.items():
                if (slide_id, attempt, number) not in self._chunks:
                    self._chunks[slide_id, attempt, number] = chunk
                    self._bytes += chunk.nbytes
            while self._bytes > self._max_bytes:
                self._bytes -= self._chunks.popitem(last=False)[1].nbytes


def embedding_matrix(table: pa.Table, dimension: int) -> NDArray[np.float16]:
    """Return the vectors (n, dimension) of a table of embeddings."""
    values: NDArray[np.float16] = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return values.reshape(-1, dimension)


def gather_rows(
    table: pa.Table, read: Callable[[str, NDArray[np.int64]], NDArray[_Number]], *, empty: NDArray[_Number]
) -> NDArray[_Number]:
    """Return what `read` gives for the rows of a query, in their order; one call per Zarr group.

    read: takes a row's `arrays` and the object_ids there. empty: the result of a query without rows.

    Raises:
        QueryError: the result lacks the columns `arrays` and `object_id`.
    """
    for name in ("arrays", "object_id"):
        if name not in table.column_names:
            raise QueryError(
                f"the result has no column {name}; select arrays and object_id to reach crops and embeddings"
            )
    if not table.num_rows:
        return empty
    groups = np.array(table.column("arrays").to_pylist(), dtype=np.str_)
    rows = np.asarray(table.column("object_id").to_numpy(), dtype=np.int64)
    names, group_of = np.unique(groups, return_inverse=True)
    gathered: NDArray[_Number] | None = None
    for index, name in enumerate(names):
        positions = np.flatnonzero(group_of == index)
        values = read(str(name), rows[positions])
        if gathered is None:
            gathered = np.empty((table.num_rows, *values.shape[1:]), values.dtype)
        gathered[positions] = values
    assert gathered is not None
    return gathered
