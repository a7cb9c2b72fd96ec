"""The vectors of runs as an index takes them: slide by slide to be indexed, row by row to be compared exactly."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.search.index_record import IndexedSlide
from fossilray.core.config import StoreConfig
from fossilray.core.errors import StoreError, UsageError
from fossilray.core.schemas import embeddings_schema
from fossilray.store import RunStore, open_run
from fossilray.store.arrays.array_layout import read_layout
from fossilray.store.arrays.embeddings import CHUNK_ROWS, read_embeddings
from fossilray.store.dataset.dataset_store import source_run
from fossilray.store.dataset.run_snapshot import SlideEmbeddings, read_vectors
from fossilray.store.derived.derived_store import EMBEDDINGS_PER_ROW_GROUP, DerivedStore
from fossilray.store.query.stored_slide import StoredSlide, read_slide
from fossilray.store.query.vectors import embedding_matrix
from fossilray.store.run.layout import arrays_path, objects_path, slide_file

_BYTES_KEPT = 256 * 2**20
"""Of chunks of vectors that were read last."""


@dataclass(frozen=True)
class Block:
    """Vectors of some objects of a slide, of those that have pixels."""

    object_id: NDArray[np.int64]
    vectors: NDArray[np.float16]


class RunVectorSource:
    """The vectors of one run: its own, or those of a name that `fossilray embed` made. Safe between threads."""

    def __init__(self, store: RunStore, embeddings: str | None) -> None:
        self.store = source_run(store)
        self.embeddings = embeddings
        self._answers = (
            None if embeddings is None else DerivedStore.open(self.store, "embeddings", embeddings)
        )
        self._kept: OrderedDict[tuple[str, int], NDArray[np.float16]] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    @property
    def backbone(self) -> dict[str, object]:
        """Name, sha256 and dimension of what made them.

        Raises:
            UsageError: the run has none of its own.
        """
        run = self.store.read_run()
        if self._answers is not None:
            made_by = self._answers.record.backbone
            return {name: made_by[name] for name in ("name", "sha256", "dimension")}
        if run.config["embedder"]["weights"] == "none":
            raise UsageError(
                f"{self.store.url} holds no embeddings, for it was made with embedder.weights none; describe its crops "
                "with `fossilray embed`, and give --embeddings"
            )
        digests = [digest for name, digest in sorted(run.weights.items()) if name.startswith("embedder/")]
        return {
            "name": str(run.embedder.get("name", run.config["embedder"]["weights"])),
            "sha256": digests[0] if digests else "",
            "dimension": int(run.embedder.get("dimension", 0)) or self._stored_dimension(),
        }

    def slides(self) -> list[IndexedSlide]:
        """Every committed slide that has objects, and vectors, by well and slide_id."""
        table = self.store.summaries_table()
        has = None if self._answers is None else self._answers.committed()
        columns = ("slide_id", "well", "measured_depth_m", "attempt", "objects")
        found = [
            IndexedSlide(run=self.store.url, embeddings=self.embeddings, **row)
            for row in table.select(list(columns)).to_pylist()
            if row["objects"] and (has is None or row["slide_id"] in has)
        ]
        return sorted(found, key=lambda one: (one.well, one.slide_id))

    def blocks(self, slide: IndexedSlide, *, dimension: int) -> Iterator[Block]:
        """The vectors of a slide, 2,048 at most at a time; objects whose pixels could not be read are left out.

        Raises:
            StoreError: they are gone or damaged, or the slide was made anew since it was listed.
        """
        path = objects_path(slide.slide_id, slide.well)
        stored = read_slide(self.store, slide.slide_id, path)
        if stored.footer.attempt != slide.attempt:
            raise StoreError(f"{slide} was made anew meanwhile; start `fossilray index build` again")
        known = stored.objects["opacity"].is_valid().to_numpy()
        first = 0
        for vectors in self._in_order(slide, stored, dimension):
            rows = np.arange(first, first + len(vectors))
            first += len(vectors)
            kept = known[rows]
            yield Block(rows[kept], vectors[kept])

    def rows(self, slide: IndexedSlide, object_id: Sequence[int], *, dimension: int) -> NDArray[np.float16]:
        """The exact vectors (n, d) of some objects of a slide, in the order asked for.

        Raises:
            StoreError: they are gone or damaged.
        """
        size = CHUNK_ROWS if self._answers is None else EMBEDDINGS_PER_ROW_GROUP
        places = [divmod(int(one), size) for one in object_id]
        chunks = self._chunks(slide, sorted({number for number, _ in places}), dimension)
        return np.stack([chunks[number][row] for number, row in places])

    def _chunks(
        self, slide: IndexedSlide, numbers: Sequence[int], dimension: int
    ) -> dict[int, NDArray[np.float16]]:
        """Chunks of a slide's vectors by number."""
        name = f"{slide.slide_id}/{slide.attempt}"
        found = {}
        with self._lock:
            for number in numbers:
                if (held := self._kept.get((name, number))) is not None:
                    self._kept.move_to_end((name, number))
                    found[number] = held
        lacking = [number for number in numbers if number not in found]
        if not lacking:
            return found
        read = dict(zip(lacking, self._read_chunks(slide, lacking, dimension), strict=True))
        with self._lock:
            for number, chunk in read.items():
                if (name, number) not in self._kept:
                    self._kept[name, number] = chunk
                    self._bytes += chunk.nbytes
            while self._bytes > _BYTES_KEPT and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return found | read

    def _read_chunks(
        self, slide: IndexedSlide, numbers: Sequence[int], dimension: int
    ) -> list[NDArray[np.float16]]:
        if self._answers is not None:
            size = EMBEDDINGS_PER_ROW_GROUP
            tables = self._answers.read_slices(
                slide_file(slide.slide_id, slide.well),
                [(number * size, (number + 1) * size) for number in numbers],
                columns=["embedding"],
                source_attempt=slide.attempt,
            )
            return [embedding_matrix(table, dimension) for table in tables]
        path = arrays_path(slide.slide_id, slide.attempt)
        try:
            return read_embeddings(self.store.files, path, numbers, dimension=dimension)
        except FileNotFoundError:
            raise StoreError(
                f"{self.store.url}/{path} lacks embeddings although the index holds slide {slide.slide_id}; see what "
                "else is with `fossilray verify`, and bring the index up to date with `fossilray index build`"
            ) from None

    def _read_answers(self, slide: IndexedSlide, dimension: int) -> NDArray[np.float16]:
        assert self._answers is not None
        table = self._answers.read_file(slide_file(slide.slide_id, slide.well), source_attempt=slide.attempt)
        return embedding_matrix(table, dimension)

    def _in_order(
        self, slide: IndexedSlide, stored: StoredSlide, dimension: int
    ) -> Iterator[NDArray[np.float16]]:
        if self._answers is not None:
            yield self._read_answers(slide, dimension)
            return
        where = SlideEmbeddings(
            slide.slide_id, stored.objects["object_id"].combine_chunks(), stored.footer.arrays
        )
        for table in read_vectors(self.store, where, embeddings_schema(dimension), dimension):
            yield embedding_matrix(table, dimension)

    def _stored_dimension(self) -> int:
        """What the arrays themselves say; 0 of a run without objects."""
        for slide in self.slides()[:1]:
            layout = read_layout(self.store, arrays_path(slide.slide_id, slide.attempt))
            return 0 if layout.embeddings is None else layout.embeddings[1]
        return 0


def open_sources(
    runs: Sequence[str], embeddings: str | None, access: StoreConfig
) -> dict[str, RunVectorSource]:
    """The vectors of runs, by address.

    Raises:
        UsageError: a run has none, two are of different backbones, or one is named twice.
        RunNotFound: there is no run at one of the places, or none of these embeddings.
    """
    if not runs:
        raise UsageError("no run was named; give run directories or compacted datasets")
    found: dict[str, RunVectorSource] = {}
    for url in runs:
        one = RunVectorSource(open_run(url, access), embeddings)
        if one.store.url in found:
            raise UsageError(
                f"{url} is named twice, or is the dataset of another run that is named; leave one out"
            )
        found[one.store.url] = one
    made_by = {url: one.backbone for url, one in found.items()}
    first = next(iter(made_by))
    for url, backbone in made_by.items():
        if backbone["sha256"] != made_by[first]["sha256"]:
            raise UsageError(
                f"the vectors of {first} are of {told(made_by[first])} and those of {url} of {told(backbone)}; vectors "
                "of two backbones cannot be compared: build an index for each, or describe one run's crops anew with "
                "`fossilray embed`"
            )
    return found


def told(backbone: Mapping[str, object]) -> str:
    """A backbone as a sentence names it."""
    return f"{backbone['name']} ({str(backbone['sha256'])[:12]})"
