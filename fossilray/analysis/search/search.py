"""The objects of an index that look most like given vectors: by code first, then by exact vectors, filters minded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.search.freshness import IndexStatus, compare_with_runs, is_same
from fossilray.analysis.search.index_record import IndexedSlide
from fossilray.analysis.search.index_store import IndexStore
from fossilray.analysis.search.quantizer import Lists, unit
from fossilray.analysis.search.shard_file import ShardReader
from fossilray.analysis.search.vectors_of_runs import RunVectorSource
from fossilray.core.config import StoreConfig
from fossilray.core.errors import UsageError
from fossilray.store import open_run
from fossilray.store.files.base import READ_THREADS
from fossilray.store.files.local import LocalFiles

PROBES = 64
CANDIDATES_A_HIT = 4
FEWEST_CANDIDATES = 200
EXACT_BELOW = 2_000
"""So few allowed objects are compared one by one; no code is asked."""
DISK_THREADS = 4
_MOST_LOADED = 20_000_000
"""Entries of lists that stay in memory between searches: 1.9 GB at 88 bytes."""


@dataclass(frozen=True)
class Hit:
    """An object that was found."""

    similarity: float
    """Cosine between its exact vector and the query's."""
    slide: IndexedSlide
    object_id: int


@dataclass(frozen=True)
class SearchFilter:
    """Which objects may be found."""

    bits: NDArray[np.uint8]
    """One for each id of an index, the lowest of a byte first."""
    count: int
    chosen: bool
    """By name, so that each is known to have pixels."""

    @property
    def ids(self) -> NDArray[np.int64]:
        return np.flatnonzero(np.unpackbits(self.bits, bitorder="little")).astype(np.int64)


class SearchIndex:
    """An index opened to be searched: what its shards held, and what its runs held, at that moment."""

    def __init__(self, index: IndexStore, access: StoreConfig) -> None:
        self.index = index
        self.record = index.record
        self.coder = index.coder()
        self.shards = index.shards()
        self._access = access
        self._sources: dict[tuple[str, str | None], RunVectorSource] = {}
        self._readers = [
            ShardReader(index.files, one, lists=self.coder.lists, code_bytes=self.coder.code_bytes)
            for one in self.shards
        ]
        # Bases are multiples of 8, so that bits of a shard are whole bytes.
        sizes = [-(-shard.objects // 8) * 8 for shard in self.shards]
        self._bases = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._starts = [
            np.concatenate([[0], np.cumsum([slide.objects for slide in shard.slides])]).astype(np.int64)
            for shard in self.shards
        ]
        self.freshness: IndexStatus = compare_with_runs(self.runs(), self.shards)
        self._now = self._places()
        self._lists, self._entries = Lists(self.coder), 0
        self._loaded = set[tuple[int, int]]()

    @staticmethod
    def open(url: str, access: StoreConfig | None = None) -> SearchIndex:
        """The index at a place, with the runs it was made of.

        Raises:
            RunNotFound: there is none, or a run of it is not where it was.
            UsageError: nothing was put into it yet.
            StoreError: it or a run cannot be read.
        """
        access = access or StoreConfig()
        found = SearchIndex(IndexStore.open(url, access), access)
        if not found.shards:
            raise UsageError(f"{url} holds no shard yet; start `fossilray index build` again")
        return found

    @property
    def dimension(self) -> int:
        return self.coder.dimension

    @property
    def slides(self) -> list[IndexedSlide]:
        """Slides whose objects can be found."""
        return [slide for slide, _ in self._now.values()]

    def runs(self) -> Mapping[str, RunVectorSource]:
        """The vectors of each run that the index was made of, by its address."""
        named = {slide.run: self.source(slide) for shard in self.shards for slide in reversed(shard.slides)}
        return dict(sorted(named.items()))

    def source(self, slide: IndexedSlide) -> RunVectorSource:
        """Where the vectors of a slide are."""
        key = (slide.run, slide.embeddings)
        if key not in self._sources:
            self._sources[key] = RunVectorSource(open_run(slide.run, self._access), slide.embeddings)
        return self._sources[key]

    def allow(self, chosen: Mapping[tuple[str, str], NDArray[np.int64]] | None = None) -> SearchFilter | None:
        """The objects that may be found: all (None), or some of slides, by (run, slide_id).

        Slides that are gone or were made anew are never among them. None: nothing is to be left out.
        """
        held = sum(len(shard.slides) for shard in self.shards)
        if chosen is None and len(self._now) == held:
            return None
        marked = np.zeros(int(self._bases[-1]), bool)
        for key, (slide, first) in self._now.items():
            if chosen is None:
                marked[first : first + slide.objects] = True
            elif key in chosen:
                marked[first + chosen[key]] = True
        return SearchFilter(np.packbits(marked, bitorder="little"), int(marked.sum()), chosen is not None)

    def find_object(self, slide_id: str, object_id: int, run: str | None = None) -> Hit:
        """An object of the index by its name.

        Raises:
            UsageError: there is none, or several runs have a slide of this name.
        """
        found = [s for s in self.slides if s.slide_id == slide_id and run in (None, s.run)]
        if not found:
            late = any(one.slide_id == slide_id for one in self.freshness.to_build)
            why = (
                "it came after the index was built; start `fossilray index build` again"
                if late
                else ("none of its runs has it")
            )
            raise UsageError(f"{self.index.url} has no slide {slide_id!r:.80}: {why}")
        if len(found) > 1:
            raise UsageError(
                f"slide {slide_id} is in {' and in '.join(one.run for one in found)}; say which with --run"
            )
        if not 0 <= object_id < found[0].objects:
            raise UsageError(f"slide {slide_id} has objects 0 to {found[0].objects - 1}, not {object_id}")
        return Hit(1.0, found[0], object_id)

    @property
    def _threads(self) -> int:
        """Readers at once: a disk gives a vector sooner than threads change places, an object store does not."""
        local = all(isinstance(source.store.files, LocalFiles) for source in self._sources.values())
        return DISK_THREADS if local else READ_THREADS

    def vectors(self, objects: Sequence[Hit]) -> NDArray[np.float32]:
        """The exact vectors (n, d) of objects, of length 1; NaN of one that has no direction."""
        wanted: dict[IndexedSlide, list[int]] = {}
        for number, one in enumerate(objects):
            wanted.setdefault(one.slide, []).append(number)
        found = np.empty((len(objects), self.dimension), np.float32)

        def read(share: Sequence[tuple[IndexedSlide, list[int]]]) -> None:
            for slide, numbers in share:
                rows = [objects[number].object_id for number in numbers]
                found[numbers] = self.source(slide).reader.read(slide.slide_id, slide.attempt, rows)

        for slide in wanted:
            self.source(slide)  # opened once, before threads ask
        jobs, threads = list(wanted.items()), self._threads
        with ThreadPoolExecutor(threads) as readers:
            list(readers.map(read, (jobs[start::threads] for start in range(threads))))
        return unit(found)

    def search(
        self,
        queries: NDArray[np.float32],
        *,
        count: int,
        probes: int = PROBES,
        candidates: int | None = None,
        allowed: SearchFilter | None = None,
    ) -> list[list[Hit]]:
        """The `count` objects most like each of the queries (q, d) of length 1, the likest first.

        candidates: how many are compared exactly; default four for each hit, at least 200. probes: lists looked into;
        more where these hold fewer allowed objects than candidates are wanted.

        Raises:
            UsageError: the queries are of another dimension.
            StoreError: a shard or the vectors of a run are gone.
        """
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise UsageError(
                f"the query is of {queries.shape[-1]} numbers and the index of {self.dimension}; describe it by "
                f"{self.record.backbone['name']}"
            )
        allowed = allowed or self.allow()
        if allowed is not None and allowed.chosen and allowed.count <= EXACT_BELOW:
            ids = np.broadcast_to(allowed.ids, (len(queries), allowed.count))
        else:
            wanted = candidates or max(FEWEST_CANDIDATES, CANDIDATES_A_HIT * count)
            ids = self._candidates(queries, max(wanted, count), probes, allowed)
        return self.rank(queries, ids, count)

    def rank(self, queries: NDArray[np.float32], ids: NDArray[np.int64], count: int) -> list[list[Hit]]:
        """Candidates (q, c) of each query by exact cosine; -1 is none."""
        named, place = np.unique(ids, return_inverse=True)
        place = place.reshape(ids.shape)
        objects = [self._locate(int(one)) if one >= 0 else None for one in named]
        real = [number for number, one in enumerate(objects) if one is not None]
        exact = np.full((len(objects), self.dimension), np.nan, np.float32)
        if real:
            exact[real] = self.vectors([one for one in objects if one is not None])
        found: list[list[Hit]] = []
        for query, places in zip(queries, place, strict=True):
            cosine = exact[places] @ query
            cosine[~np.isfinite(cosine)] = -np.inf
            hits = []
            for best in np.argsort(-cosine, kind="stable")[:count].tolist():
                one = objects[places[best]]
                if one is not None and np.isfinite(cosine[best]):
                    hits.append(Hit(float(min(cosine[best], 1.0)), one.slide, one.object_id))
            found.append(hits)
        return found

    def _candidates(
        self, queries: NDArray[np.float32], wanted: int, probes: int, allowed: SearchFilter | None
    ) -> NDArray[np.int64]:
        possible = allowed.count if allowed is not None else sum(shard.entries for shard in self.shards)
        wanted, shards = min(wanted, possible), self._shards_of(allowed)
        while True:
            probe = self.coder.nearest_lists(queries, probes)
            self._load(np.unique(probe.lists[probe.lists >= 0]).tolist(), shards)
            ids = self._lists.search(probe, max(wanted, 1), None if allowed is None else allowed.bits)
            # Objects without a vector are allowed and cannot be found, so the end may be short of what is wanted.
            if (ids >= 0).all() or probes >= self.coder.lists:
                return ids
            probes *= 4

    def _shards_of(self, allowed: SearchFilter | None) -> list[int]:
        """The shards that hold an allowed object; of one well they are few."""
        edges = (self._bases // 8).tolist()
        return [
            number
            for number in range(len(self.shards))
            if allowed is None or allowed.bits[edges[number] : edges[number + 1]].any()
        ]

    def _load(self, numbers: Sequence[int], shards: Sequence[int]) -> None:
        """Have these lists of these shards in memory."""
        if self._entries > _MOST_LOADED:
            self._lists, self._loaded, self._entries = Lists(self.coder), set(), 0
        lacking = {
            shard: absent
            for shard in shards
            if (absent := [number for number in numbers if (shard, number) not in self._loaded])
        }
        if not lacking:
            return
        with ThreadPoolExecutor(READ_THREADS) as readers:
            parts = readers.map(lambda one: list(self._readers[one[0]].read(one[1])), lacking.items())
            for (shard, absent), part in zip(lacking.items(), parts, strict=True):
                for number, positions, codes in part:
                    self._lists.add(number, positions.astype(np.int64) + self._bases[shard], codes)
                    self._entries += len(positions)
                self._loaded.update((shard, number) for number in absent)

    def _places(self) -> dict[tuple[str, str], tuple[IndexedSlide, int]]:
        """The id of the first object of each slide that can be found, by (run, slide_id); one copy of each."""
        found: dict[tuple[str, str], tuple[IndexedSlide, int]] = {}
        for shard, base, starts in zip(self.shards, self._bases.tolist(), self._starts, strict=False):
            for slide, start in zip(shard.slides, starts.tolist(), strict=False):
                if slide.key not in found and is_same(slide, self.freshness.now.get(slide.key)):
                    found[slide.key] = (slide, base + start)
        return found

    def _locate(self, number: int) -> Hit:
        shard = int(np.searchsorted(self._bases, number, "right")) - 1
        position = number - int(self._bases[shard])
        place = int(np.searchsorted(self._starts[shard], position, "right")) - 1
        return Hit(0.0, self.shards[shard].slides[place], position - int(self._starts[shard][place]))
