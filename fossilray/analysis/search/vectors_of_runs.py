"""Runs as sources of an index: their slides, and the embeddings of the slides' objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fossilray.analysis.search.index_record import IndexedSlide
from fossilray.core.backbones import require_comparable
from fossilray.core.config import StoreConfig
from fossilray.core.errors import StoreError, UsageError
from fossilray.store import RunStore, open_run
from fossilray.store.query.stored_slide import read_slide
from fossilray.store.query.vectors import CACHE_BYTES, VectorBackbone, VectorBlock, VectorReader
from fossilray.store.run.layout import objects_path


class RunVectorSource:
    """The slides of one run for an index, with their vectors. Safe to share between threads."""

    def __init__(self, store: RunStore, embeddings: str | None) -> None:
        """embeddings: a name of `fossilray embed`; None: the run's own vectors.

        Raises:
            RunNotFound: the run has no embeddings of this name.
        """
        self.reader = VectorReader(store, embeddings, cache_bytes=CACHE_BYTES)
        self.store = self.reader.store

    @property
    def backbone(self) -> VectorBackbone:
        """The backbone that made the vectors.

        Raises:
            UsageError: the run was processed without a backbone.
        """
        return self.reader.backbone

    def slides(self) -> list[IndexedSlide]:
        """Return every committed slide that has objects and vectors, by well and slide_id.

        The wells are those of the objects files, so that a corrected well makes no shard outdated.
        """
        table = self.store.stored_summaries_table()
        with_vectors = None if self.reader.name is None else self.reader.committed()
        columns = ("slide_id", "well", "measured_depth_m", "attempt", "objects")
        slides = [
            IndexedSlide(run=self.store.url, embeddings=self.reader.name, **row)
            for row in table.select(list(columns)).to_pylist()
            if row["objects"] and (with_vectors is None or row["slide_id"] in with_vectors)
        ]
        return sorted(slides, key=lambda slide: (slide.well, slide.slide_id))

    def blocks(self, slide: IndexedSlide) -> Iterator[VectorBlock]:
        """Yield the vectors of a slide as `VectorReader.blocks` does.

        Raises:
            StoreError: they are missing or damaged, or the slide was reprocessed since it was listed.
        """
        path = objects_path(slide.slide_id, slide.well)
        stored = read_slide(self.store, slide.slide_id, path)
        if stored.footer.attempt != slide.attempt:
            raise StoreError(f"{slide} was reprocessed during the build; start `fossilray index build` again")
        yield from self.reader.blocks(stored)


def open_sources(
    runs: Sequence[str], embeddings: str | None, access: StoreConfig
) -> dict[str, RunVectorSource]:
    """Open runs as sources, by URL.

    Raises:
        UsageError: a run has no embeddings, two runs are of different backbones, or a run is listed twice.
        RunNotFound: there is no run at one of the URLs, or it has no embeddings of this name.
    """
    if not runs:
        raise UsageError("no run was given; give run directories or compacted datasets")
    sources: dict[str, RunVectorSource] = {}
    for url in runs:
        source = RunVectorSource(open_run(url, access), embeddings)
        if source.store.url in sources:
            raise UsageError(
                f"{url} is named twice, or is the dataset of another run that is named; leave one out"
            )
        sources[source.store.url] = source
    first = next(iter(sources))
    for url, source in sources.items():
        require_comparable(
            sources[first].backbone,
            source.backbone,
            of_ours=f"the vectors of {first} are of",
            of_theirs=f"those of {url}",
            remedy="build an index for each, or embed the crops of one run with the other backbone (`fossilray embed`)",
        )
    return sources
