"""Nearest specimens of a run: by its index, or by exact comparison with as many vectors as a limit allows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fossilray.analysis.identify.result import NearSpecimen
from fossilray.analysis.search.index_record import IndexedSlide
from fossilray.analysis.search.search import Hit, SearchIndex
from fossilray.analysis.search.vectors_of_runs import RunVectorSource
from fossilray.core.text import counted
from fossilray.core.vectors import unit_vectors
from fossilray.labels.current import attempts_of
from fossilray.labels.label import Label
from fossilray.store import RunStore
from fossilray.store.derived.listing import latest_predictions
from fossilray.store.query.connection import connect, create_objects_view, query_table
from fossilray.store.query.vectors import VectorBackbone

MOST_COMPARED = 200_000
"""Vectors of runs without an index that are held in memory, 1 kB each at 512 dimensions."""

_ROWS_AT_ONCE = 8192

ObjectName = tuple[str, int]
"""slide_id and object_id."""


@dataclass(frozen=True)
class GivenName:
    """The name that the current labels of an object give it."""

    name: str
    who: str


LabelsNow = Callable[[], Mapping[ObjectName, GivenName]]
"""Returns the labelled objects of a run at this moment."""


@dataclass(frozen=True)
class NearestSpecimens:
    """The specimens nearest to one object, the most similar first."""

    labelled: tuple[NearSpecimen, ...]
    unlabelled: tuple[NearSpecimen, ...]


def given_name(labels: Sequence[Label]) -> GivenName:
    """Return the names and annotators of the current labels of one object, the newest last."""
    names = dict.fromkeys(label.occurrence.shown for label in reversed(labels))
    who = dict.fromkeys(label.who for label in reversed(labels))
    return GivenName(" / ".join(names), ", ".join(who))


class RunSpecimens:
    """The objects of one run, compared exactly; vectors are read at the first comparison."""

    def __init__(
        self,
        store: RunStore,
        labels: LabelsNow,
        *,
        embeddings: str | None = None,
        most: int = MOST_COMPARED,
        seed: int = 0,
    ) -> None:
        """Open the vectors of a run.

        embeddings: a name of `fossilray embed`; None: the run's own. most: of larger runs, the objects of slides drawn
        at random are compared, and all labelled ones.

        Raises:
            UsageError: the run was processed without a backbone.
            RunNotFound: it has no embeddings of this name.
        """
        self._store, self._labels, self._most, self._seed = store, labels, most, seed
        self._source = RunVectorSource(store, embeddings)
        self.backbone: VectorBackbone = self._source.backbone
        self._guard = threading.Lock()
        self._held: _HeldVectors | None = None

    @property
    def source(self) -> str:
        """The URL of the run."""
        return self._store.url

    @property
    def scope(self) -> str:
        """A clause about what is compared, for notes."""
        held = self._hold()
        name = self._store.url
        if held.is_whole:
            return f"compared with all {len(held):,} objects with pixels of {name}"
        return (
            f"compared with {len(held):,} of {held.total:,} objects of {name}, on {counted(held.drawn, 'slide')} drawn "
            "at random, and with all labelled ones; `fossilray index build` makes an index of all"
        )

    def nearest(self, vectors: NDArray[np.float32], *, count: int) -> list[NearestSpecimens]:
        """Return the nearest specimens of unit vectors (q, d).

        Raises:
            StoreError: vectors or objects of the run are missing or damaged.
        """
        names, held = self._labels(), self._hold()
        is_labelled = np.array([key in names for key in held.keys], bool)
        cosine = held.compare(vectors)
        nearest = [
            [
                [(held.keys[row], float(values[row])) for row in _largest(values, mask, 2 * count)]
                for mask in (is_labelled, ~is_labelled)
            ]
            for values in cosine
        ]
        known = describe_objects(self._store, {key for pair in nearest for part in pair for key, _ in part})

        def shown(pairs: Sequence[tuple[ObjectName, float]]) -> tuple[NearSpecimen, ...]:
            specimens = (_specimen(self._store.url, key, near, known, names) for key, near in pairs)
            return tuple(specimen for specimen in specimens if specimen is not None)[:count]

        return [NearestSpecimens(shown(labelled), shown(others)) for labelled, others in nearest]

    def _hold(self) -> _HeldVectors:
        with self._guard:
            if self._held is None:
                self._held = self._read()
            return self._held

    def _read(self) -> _HeldVectors:
        slides = self._source.slides()
        total = sum(slide.objects for slide in slides)
        order = np.random.default_rng(self._seed).permutation(len(slides)).tolist()
        drawn: list[IndexedSlide] = []
        for number in order if total > self._most else range(len(slides)):
            if drawn and sum(slide.objects for slide in drawn) + slides[number].objects > self._most:
                break
            drawn.append(slides[number])
        keys: list[ObjectName] = []
        blocks = [np.zeros((0, self.backbone.dimension), np.float16)]
        for slide in drawn:
            for block in self._source.blocks(slide):
                keys += [(slide.slide_id, number) for number in block.object_id.tolist()]
                blocks.append(_unit(block.vectors))
        rest = {slide.slide_id: slide for slide in slides} if len(drawn) < len(slides) else {}
        for slide in drawn:
            rest.pop(slide.slide_id, None)
        by_slide: dict[str, list[int]] = {}
        for slide_id, object_id in self._labels():
            if slide_id in rest:
                by_slide.setdefault(slide_id, []).append(object_id)
        for slide_id, numbers in sorted(by_slide.items()):
            keys += [(slide_id, number) for number in numbers]
            blocks.append(_unit(self._source.reader.read(slide_id, rest[slide_id].attempt, numbers)))
        return _HeldVectors(
            keys, np.concatenate(blocks), total, len(drawn), is_whole=len(drawn) == len(slides)
        )


class IndexSpecimens:
    """The objects of an index. labels: of its runs, by URL."""

    def __init__(self, index: SearchIndex, labels: Mapping[str, LabelsNow]) -> None:
        self._index, self._labels = index, labels
        self.backbone: VectorBackbone = VectorBackbone.of(index.record.backbone)
        self._guard = threading.Lock()

    @property
    def source(self) -> str:
        """The URL of the index."""
        return self._index.index.url

    @property
    def scope(self) -> str:
        """A clause about what is compared, for notes."""
        objects = sum(slide.objects for slide in self._index.slides)
        late = str(self._index.freshness)
        return f"searched among {objects:,} objects of {self._index.index.url}{f'; {late}' if late else ''}"

    def nearest(self, vectors: NDArray[np.float32], *, count: int) -> list[NearestSpecimens]:
        """Return the nearest specimens of unit vectors (q, d).

        Raises:
            StoreError: a shard, or the vectors or objects of a run are missing or damaged.
        """
        names = {url: labels() for url, labels in self._labels.items()}
        with self._guard:
            labelled = self._among_labelled(vectors, names, 2 * count)
            others = [
                [
                    hit
                    for hit in hits
                    if (hit.slide.slide_id, hit.object_id) not in names.get(hit.slide.run, {})
                ]
                for hits in self._index.search(vectors, count=2 * count)
            ]
            known = self._describe([*labelled, *others])

        def shown(hits: Sequence[Hit]) -> tuple[NearSpecimen, ...]:
            specimens = (self._of_hit(hit, known, names) for hit in hits)
            return tuple(specimen for specimen in specimens if specimen is not None)[:count]

        return [
            NearestSpecimens(shown(of_labelled), shown(of_others))
            for of_labelled, of_others in zip(labelled, others, strict=True)
        ]

    def _among_labelled(
        self, vectors: NDArray[np.float32], names: Mapping[str, Mapping[ObjectName, GivenName]], count: int
    ) -> list[list[Hit]]:
        chosen: dict[tuple[str, str], list[int]] = {}
        for url, of_run in names.items():
            for slide_id, object_id in of_run:
                chosen.setdefault((url, slide_id), []).append(object_id)
        objects = {key: np.array(sorted(numbers), np.int64) for key, numbers in chosen.items()}
        search_filter = self._index.filter(objects)
        if search_filter is None or not search_filter.count:
            return [[] for _ in vectors]
        return self._index.search(vectors, count=count, search_filter=search_filter)

    def _describe(self, hits: Sequence[Sequence[Hit]]) -> dict[str, dict[ObjectName, dict[str, Any]]]:
        wanted: dict[str, set[ObjectName]] = {}
        for of_object in hits:
            for hit in of_object:
                wanted.setdefault(hit.slide.run, set()).add((hit.slide.slide_id, hit.object_id))
        runs = self._index.runs()
        return {url: describe_objects(runs[url].store, objects) for url, objects in wanted.items()}

    def _of_hit(
        self,
        hit: Hit,
        known: Mapping[str, Mapping[ObjectName, Mapping[str, Any]]],
        names: Mapping[str, Mapping[ObjectName, GivenName]],
    ) -> NearSpecimen | None:
        url, key = hit.slide.run, (hit.slide.slide_id, hit.object_id)
        return _specimen(url, key, hit.similarity, known[url], names.get(url, {}))


@dataclass(frozen=True, eq=False)
class _HeldVectors:
    keys: list[ObjectName]
    vectors: NDArray[np.float16]
    """(n, d) unit vectors; 0 for a vector of length 0."""
    total: int
    """Objects of the run."""
    drawn: int
    """Slides of which all objects are held."""
    is_whole: bool
    """Whether these are all slides."""

    def __len__(self) -> int:
        return len(self.keys)

    def compare(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the cosines (q, n) with unit vectors (q, d)."""
        blocks = [
            vectors @ self.vectors[first : first + _ROWS_AT_ONCE].astype(np.float32).T
            for first in range(0, len(self), _ROWS_AT_ONCE)
        ]
        cosine: NDArray[np.float32] = np.concatenate(
            [np.zeros((len(vectors), 0), np.float32), *blocks], axis=1
        )
        return np.nan_to_num(cosine, copy=False, nan=-1.0)


def describe_objects(store: RunStore, objects: set[ObjectName]) -> dict[ObjectName, dict[str, Any]]:
    """Return size, well, depth, attempt and predicted genus of objects that have pixels; only their slides are read.

    Raises:
        StoreError: an objects file is missing or damaged.
    """
    if not objects:
        return {}
    files = store.committed_files()
    chosen = {slide_id: files[slide_id] for slide_id, _ in sorted(objects) if slide_id in files}
    con = connect(store)
    create_objects_view(con, store, chosen, genera=latest_predictions(store, None))
    wanted = sorted(objects)
    con.register(
        "wanted",
        pa.table(
            {
                "slide_id": pa.array([slide_id for slide_id, _ in wanted], pa.string()),
                "object_id": pa.array([number for _, number in wanted], pa.int32()),
            }
        ),
    )
    columns = {row[0] for row in con.execute("DESCRIBE objects").fetchall()}
    genus = "genus" if "genus" in columns else "NULL::VARCHAR AS genus"
    table = query_table(
        con,
        f"SELECT slide_id, object_id, width_um, height_um, well, measured_depth_m, {genus} "
        "FROM objects JOIN wanted USING (slide_id, object_id) WHERE opacity IS NOT NULL",
    )
    attempts = attempts_of(store)
    return {
        (row["slide_id"], row["object_id"]): {**row, "attempt": attempts.get(row["slide_id"])}
        for row in table.to_pylist()
    }


def _specimen(
    url: str,
    key: ObjectName,
    similarity: float,
    known: Mapping[ObjectName, Mapping[str, Any]],
    names: Mapping[ObjectName, GivenName],
) -> NearSpecimen | None:
    """Return an object as a specimen; None for one without pixels."""
    properties, given = known.get(key), names.get(key)
    if properties is None:
        return None
    return NearSpecimen(
        similarity=round(min(similarity, 1.0), 4),
        name=None if given is None else given.name,
        who=None if given is None else given.who,
        predicted=properties.get("genus"),
        run=url,
        slide_id=key[0],
        object_id=key[1],
        attempt=properties.get("attempt"),
        well=properties.get("well"),
        depth_m=properties.get("measured_depth_m"),
        width_um=properties.get("width_um"),
        height_um=properties.get("height_um"),
        file=None,
    )


def _unit(vectors: NDArray[np.float16]) -> NDArray[np.float16]:
    return unit_vectors(vectors.astype(np.float32), undefined=0.0).astype(np.float16)


def _largest(values: NDArray[np.float32], mask: NDArray[np.bool_], count: int) -> list[int]:
    """Return the rows of the largest values under a mask, the largest first."""
    rows = np.flatnonzero(mask)
    if len(rows) > count:
        rows = rows[np.argpartition(-values[rows], count - 1)[:count]]
    ordered: list[int] = rows[np.argsort(-values[rows], kind="stable")].tolist()
    return ordered
