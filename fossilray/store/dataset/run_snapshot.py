"""The committed slides of a run at one moment, each compared with its footer as it is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from fossilray.core.errors import StoreError
from fossilray.core.formats.parquet import conform
from fossilray.core.records import ArrayFiles
from fossilray.core.schemas import OBJECTS_SCHEMA
from fossilray.core.types import OnProgress
from fossilray.store.arrays.array_layout import read_layout
from fossilray.store.arrays.embeddings import iter_shards
from fossilray.store.dataset.multi_slide_file import SlideRows
from fossilray.store.run.layout import OBJECTS, slide_of
from fossilray.store.run.objects_file import decode_objects, parse_tail, read_committed, read_stored_footer
from fossilray.store.run.roles import objects_file
from fossilray.store.run.run_store import RunStore
from fossilray.store.run.summaries import describe_lost


@dataclass(frozen=True)
class SlideEmbeddings:
    """Position of the vectors of one slide, and their objects."""

    slide_id: str
    object_id: pa.Array
    arrays: ArrayFiles


class RunSnapshot:
    """Committed slides of a run at one moment; later commits are ignored."""

    def __init__(self, store: RunStore, display: OnProgress | None) -> None:
        self.store = store
        self.digest = store.read_run().digest
        self.committed = _list_once(store)
        known = store.stored_summaries_table()
        if store.lost:
            # A dataset without them would look whole.
            raise describe_lost(store.url, store.lost)
        self.summaries = known.filter(pc.is_in(known["slide_id"], pa.array(self.committed, pa.string())))
        counts = zip(
            self.summaries["slide_id"].to_pylist(), self.summaries["objects"].to_pylist(), strict=True
        )
        self.objects: dict[str, int] = dict(counts)
        for slide_id in sorted(self.committed.keys() - self.objects.keys()):
            # Its footer is damaged: a dataset without the slide would look whole.
            read_stored_footer(store.files, self.committed[slide_id])
            raise StoreError(
                f"{store.url}/{self.committed[slide_id]} was committed just now; compact the run again"
            )
        self.empty = [slide_id for slide_id, count in self.objects.items() if not count]
        self.bytes = 0
        self._done = 0
        self._display = display

    def read(self, slide_ids: Sequence[str], vectors: list[SlideEmbeddings]) -> Iterator[SlideRows]:
        """The objects of these slides; where their embeddings are is added to `vectors`."""
        paths = [self.committed[slide_id] for slide_id in slide_ids]
        for slide_id, path, content in zip(
            slide_ids, paths, read_committed(self.store.files, paths), strict=True
        ):
            name = f"{self.store.url}/{path}"
            footer, _ = parse_tail(content, name=name)
            table = decode_objects(content, name=name).replace_schema_metadata(None)
            expected = (footer.summary.slide_id, footer.summary.objects, footer.run_digest)
            if (slide_id, table.num_rows, self.digest) != expected or table.num_rows != self.objects[
                slide_id
            ]:
                raise StoreError(
                    f"{name} and the summary of its slide disagree; find out with `fossilray verify` before the run "
                    "is compacted"
                )
            vectors.append(SlideEmbeddings(slide_id, table["object_id"].combine_chunks(), footer.arrays))
            yield SlideRows(slide_id, [conform(table, OBJECTS_SCHEMA, objects_file(name))])
            self.bytes += len(content)
            self._done += 1
            if self._display is not None:
                self._display(self._done, len(self.committed))

    def dimension(self) -> int | None:
        """Length of the run's vectors; None if no slide has an object."""
        for slide_id, path in self.committed.items():
            if self.objects[slide_id]:
                layout = read_layout(self.store, read_stored_footer(self.store.files, path).arrays.path)
                if layout.embeddings is None:
                    raise StoreError(
                        f"{self.store.url}/{path} names arrays without embeddings although the run makes them; find "
                        "out with `fossilray verify`, or compact without embeddings"
                    )
                return layout.embeddings[1]
        return None


def _list_once(store: RunStore) -> dict[str, str]:
    """Return the objects file of each slide, from one listing."""
    path_of_slide: dict[str, str] = {}
    for path in store.files.find(OBJECTS):
        if path.endswith(".parquet") and path_of_slide.setdefault(slide_of(path), path) != path:
            raise StoreError(
                f"{store.url} holds slide {slide_of(path)} twice, as {path_of_slide[slide_of(path)]} and {path}; find "
                "out with `fossilray verify` which one to remove before the run is compacted"
            )
    return path_of_slide


def read_vectors(
    store: RunStore, slide: SlideEmbeddings, schema: pa.Schema, dimension: int
) -> Iterator[pa.Table]:
    """Yield a slide's embeddings as tables of `schema`, one for each shard.

    Raises:
        StoreError: a shard is missing or damaged.
    """
    kind = schema.field("embedding").type
    first = 0
    for vectors in iter_shards(store.files, slide.arrays, rows=len(slide.object_id), dimension=dimension):
        rows = slide.object_id.slice(first, len(vectors))
        first += len(vectors)
        yield pa.Table.from_arrays(
            [
                pa.array([slide.slide_id] * len(rows), pa.string()),
                rows,
                pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=kind),
            ],
            schema=schema,
        )
