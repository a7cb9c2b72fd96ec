"""Nearest-neighbour search: candidates by quantized code, then re-ranked by exact cosine similarity, under a filter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.search.freshness import IndexStatus, compare_with_runs, is_same
from fossilray.analysis.search.index_record import IndexedSlide
from fossilray.analysis.search.index_store import IndexStore
from fossilray.analysis.search.quantizer import InvertedLists
from fossilray.analysis.search.shard_file import ShardReader
from fossilray.analysis.search.vectors_of_runs import RunVectorSource
from fossilray.core.config import StoreConfig
from fossilray.core.errors import UsageError
from fossilray.core.vectors import unit_vectors
from fossilray.store import open_run
from fossilray.store.files.base import READ_THREADS
from fossilray.store.files.local import LocalFiles

PROBES = 64
CANDIDATES_PER_HIT = 4
MIN_CANDIDATES = 200
EXACT_BELOW = 2_000
"""With at most this many objects in an explicit filter, all are compared exactly and no codes are searched."""
DISK_THREADS = 4
_MAX_LOADED = 20_000_000
"""Entries of lists that stay in memory between searches: 1.9 GB at 88 bytes of code and 8 of id."""


@dataclass(frozen=True)
class Hit:
    """An object of an index, as the result of a search."""

    similarity: float
    """Cosine similarity of its exact vector to the query."""
    slide: IndexedSlide
    object_id: int


@dataclass(frozen=True)
class SearchFilter:
    """The objects that a search may return."""

    bits: NDArray[np.uint8]
    """One bit for each id of the index, the lowest bit of a byte first."""
    count: int
    is_explicit: bool
    """The objects were listed, so that each is known to have an embedding."""

    @property
    def ids(self) -> NDArray[np.int64]:
        """(count,) ids of the objects."""
        return np.flatnonzero(np.unpackbits(self.bits, bitorder="little")).astype(np.int64)


class SearchIndex:
    """An index opened for searches. Shards and runs are listed once, when it is opened."""

    def __init__(self, index: IndexStore, access: StoreConfig) -> None:
        self.index = index
        self.record = index.record
        self.quantizer = index.load_quantizer()
        self.shards = index.shards()
        self._access = access
        self._sources: dict[tuple[str, str | None], RunVectorSource] = {}
        self._readers = [
            ShardReader(index.files, shard, lists=self.quantizer.lists, code_bytes=self.quantizer.code_bytes)
            for shard in self.shards
        ]
        # The first id of a shard is a multiple of 8, so that the bits of a shard are whole bytes.
        sizes = [-(-shard.objects // 8) * 8 for shard in self.shards]
        self._bases = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._starts = [
            np.concatenate([[0], np.cumsum([slide.objects for slide in shard.slides])]).astype(np.int64)
            for shard in self.shards
        ]
        self.freshness: IndexStatus = compare_with_runs(self.runs(), self.shards)
        self._current = self._first_ids()
        self._lists, self._entries = InvertedLists(self.quantizer), 0
        self._loaded = set[tuple[int, int]]()

    @staticmethod
    def open(url: str, access: StoreConfig | None = None) -> SearchIndex:
        """Open an index and its runs.

        Raises:
            RunNotFound: there is no index at this URL, or no run at the URL in the index.
            UsageError: the index has no shards yet.
            StoreError: the index or a run cannot be read.
        """
        access = access or StoreConfig()
        index = SearchIndex(IndexStore.open(url, access), access)
        if not index.shards:
            raise UsageError(f"{url} holds no shard yet; start `fossilray index build` again")
        return index

    @property
    def dimension(self) -> int:
        return self.quantizer.dimension

    @property
    def slides(self) -> list[IndexedSlide]:
        """Slides whose objects can be found."""
        return [slide for slide, _ in self._current.values()]

    def runs(self) -> Mapping[str, RunVectorSource]:
        """Sources of the index's vectors, by the URL of the run."""
        named = {slide.run: self.source(slide) for shard in self.shards for slide in reversed(shard.slides)}
        return dict(sorted(named.items()))

    def source(self, slide: IndexedSlide) -> RunVectorSource:
        """The source of a slide's vectors."""
        key = (slide.run, slide.embeddings)
        if key not in self._sources:
            self._sources[key] = RunVectorSource(open_run(slide.run, self._access), slide.embeddings)
        return self._sources[key]

    def filter(
        self, objects: Mapping[tuple[str, str], NDArray[np.int64]] | None = None
    ) -> SearchFilter | None:
        """Return the filter of objects that may be found, or None if nothing needs to be left out.

        Slides that were removed from their run or reprocessed are always left out.

        Args:
            objects: object_ids by (run, slide_id); None: all objects.
        """
        indexed = sum(len(shard.slides) for shard in self.shards)
        if objects is None and len(self._current) == indexed:
            return None
        is_kept = np.zeros(int(self._bases[-1]), bool)
        for key, (slide, first) in self._current.items():
            if objects is None:
                is_kept[first : first + slide.objects] = True
            elif key in objects:
                is_kept[first + objects[key]] = True
        return SearchFilter(np.packbits(is_kept, bitorder="little"), int(is_kept.sum()), objects is not None)

    def find_object(self, slide_id: str, object_id: int, run: str | None = None) -> Hit:
        """Return an object of the index by its slide_id and object_id.

        Raises:
            UsageError: the index lacks the object, or several of its runs have the slide and `run` is not given.
        """
        slides = [slide for slide in self.slides if slide.slide_id == slide_id and run in (None, slide.run)]
        if not slides:
            is_late = any(slide.slide_id == slide_id for slide in self.freshness.to_build)
            reason = (
                "it was committed after the build; start `fossilray index build` again"
                if is_late
                else "its runs lack this slide; `fossilray query` lists slide_id and object_id"
            )
            raise UsageError(f"{self.index.url} has no slide {slide_id!r:.80}: {reason}")
        if len(slides) > 1:
            raise UsageError(
                f"slide {slide_id} is in {' and in '.join(slide.run for slide in slides)}; give --run"
            )
        if not 0 <= object_id < slides[0].objects:
            raise UsageError(f"slide {slide_id} has objects 0 to {slides[0].objects - 1}, not {object_id}")
        return Hit(1.0, slides[0], object_id)

    @property
    def _threads(self) -> int:
        """Number of reader threads: few for disks, more for object stores, whose latency is higher."""
        is_local = all(isinstance(source.store.files, LocalFiles) for source in self._sources.values())
        return DISK_THREADS if is_local else READ_THREADS

    def vectors(self, objects: Sequence[Hit]) -> NDArray[np.float32]:
        """Read the exact vectors of n objects as unit vectors (n, dimension); NaN for a vector of length 0."""
        rows_of: dict[IndexedSlide, list[int]] = {}
        for number, hit in enumerate(objects):
            rows_of.setdefault(hit.slide, []).append(number)
        vectors = np.empty((len(objects), self.dimension), np.float32)

        def read(share: Sequence[tuple[IndexedSlide, list[int]]]) -> None:
            for slide, numbers in share:
                rows = [objects[number].object_id for number in numbers]
                vectors[numbers] = self.source(slide).reader.read(slide.slide_id, slide.attempt, rows)

        for slide in rows_of:
            self.source(slide)  # opened here, because threads share it
        jobs, threads = list(rows_of.items()), self._threads
        with ThreadPoolExecutor(threads) as readers:
            list(readers.map(read, (jobs[start::threads] for start in range(threads))))
        return unit_vectors(vectors, undefined=np.nan)

    def search(
        self,
        queries: NDArray[np.float32],
        *,
        count: int,
        probes: int = PROBES,
        candidates: int | None = None,
        search_filter: SearchFilter | None = None,
    ) -> list[list[Hit]]:
        """Return the `count` objects most similar to each query, the most similar first.

        Args:
            queries: (q, dimension) unit vectors.
            probes: lists to search for each query; more if they hold too few candidates under the filter.
            candidates: objects that are compared exactly; None: four per hit, at least 200.
            search_filter: objects that may be found; None: all.

        Raises:
            UsageError: the queries have another dimension than the index.
            StoreError: a shard or the vectors of a run are missing or damaged.
        """
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise UsageError(
                f"the queries have {queries.shape[-1]} dimensions and the index {self.dimension}; embed them by "
                f"{self.record.backbone['name']}"
            )
        search_filter = search_filter or self.filter()
        if search_filter is not None and search_filter.is_explicit and search_filter.count <= EXACT_BELOW:
            ids = np.broadcast_to(search_filter.ids, (len(queries), search_filter.count))
        else:
            wanted = candidates or max(MIN_CANDIDATES, CANDIDATES_PER_HIT * count)
            ids = self._candidates(queries, max(wanted, count), probes, search_filter)
        return self.rank(queries, ids, count)

    def rank(self, queries: NDArray[np.float32], ids: NDArray[np.int64], count: int) -> list[list[Hit]]:
        """Rank candidates (q, c) of each query by exact cosine similarity; an id of -1 is not a candidate."""
        unique_ids, inverse = np.unique(ids, return_inverse=True)
        inverse = inverse.reshape(ids.shape)
        objects = [self._locate(int(number)) if number >= 0 else None for number in unique_ids]
        valid = [row for row, hit in enumerate(objects) if hit is not None]
        exact = np.full((len(objects), self.dimension), np.nan, np.float32)
        if valid:
            exact[valid] = self.vectors([hit for hit in objects if hit is not None])
        results: list[list[Hit]] = []
        for query, rows in zip(queries, inverse, strict=True):
            cosine = exact[rows] @ query
            cosine[~np.isfinite(cosine)] = -np.inf
            hits = []
            for best in np.argsort(-cosine, kind="stable")[:count].tolist():
                hit = objects[rows[best]]
                if hit is not None and np.isfinite(cosine[best]):
                    hits.append(Hit(float(min(cosine[best], 1.0)), hit.slide, hit.object_id))
            results.append(hits)
        return results

    def _candidates(
        self, queries: NDArray[np.float32], wanted: int, probes: int, search_filter: SearchFilter | None
    ) -> NDArray[np.int64]:
        """Return ids (q, c) of the nearest codes; -1 where there are fewer."""
        possible = (
            search_filter.count if search_filter is not None else sum(shard.entries for shard in self.shards)
        )
        wanted, shards = min(wanted, possible), self._shards_of(search_filter)
        bits = None if search_filter is None else search_filter.bits
        while True:
            probe = self.quantizer.nearest_lists(queries, probes)
            self._load(np.unique(probe.lists[probe.lists >= 0]).tolist(), shards)
            ids = self._lists.search(probe, max(wanted, 1), bits)
            # A filter may include objects without a vector, so even all lists may give fewer ids than wanted.
            if (ids >= 0).all() or probes >= self.quantizer.lists:
                return ids
            probes *= 4

    def _shards_of(self, search_filter: SearchFilter | None) -> list[int]:
        """Return the shards with an object of the filter."""
        edges = (self._bases // 8).tolist()
        return [
            number
            for number in range(len(self.shards))
            if search_filter is None or search_filter.bits[edges[number] : edges[number + 1]].any()
        ]

    def _load(self, numbers: Sequence[int], shards: Sequence[int]) -> None:
        """Load lists of shards into memory that are not there yet."""
        if self._entries > _MAX_LOADED:
            self._lists, self._loaded, self._entries = InvertedLists(self.quantizer), set(), 0
        missing = {
            shard: lists
            for shard in shards
            if (lists := [number for number in numbers if (shard, number) not in self._loaded])
        }
        if not missing:
            return
        with ThreadPoolExecutor(READ_THREADS) as readers:
            entries = readers.map(lambda item: list(self._readers[item[0]].read(item[1])), missing.items())
            for (shard, lists), of_shard in zip(missing.items(), entries, strict=True):
                for number, positions, codes in of_shard:
                    self._lists.add(number, positions.astype(np.int64) + self._bases[shard], codes)
                    self._entries += len(positions)
                self._loaded.update((shard, number) for number in lists)

    def _first_ids(self) -> dict[tuple[str, str], tuple[IndexedSlide, int]]:
        """Return each slide that can be found, by (run, slide_id), with the id of its first object."""
        first_ids: dict[tuple[str, str], tuple[IndexedSlide, int]] = {}
        for shard, base, starts in zip(self.shards, self._bases.tolist(), self._starts, strict=False):
            for slide, start in zip(shard.slides, starts.tolist(), strict=False):
                if slide.key not in first_ids and is_same(slide, self.freshness.current.get(slide.key)):
                    first_ids[slide.key] = (slide, base + start)
        return first_ids

    def _locate(self, number: int) -> Hit:
        """Return the object of an id."""
        shard = int(np.searchsorted(self._bases, number, "right")) - 1
        position = number - int(self._bases[shard])
        slide = int(np.searchsorted(self._starts[shard], position, "right")) - 1
        return Hit(0.0, self.shards[shard].slides[slide], position - int(self._starts[shard][slide]))
