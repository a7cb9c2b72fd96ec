"""Creation of an index, and the division of slides into shards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from fossilray.analysis.search.freshness import compare_with_runs
from fossilray.analysis.search.index_record import IndexedSlide, IndexRecord
from fossilray.analysis.search.index_store import IndexStore, digest_of
from fossilray.analysis.search.quantizer import (
    QUANTIZERS,
    QuantizerTrial,
    VectorQuantizer,
    compare_quantizers,
    lists_for,
)
from fossilray.analysis.search.sample import sample_vectors
from fossilray.analysis.search.vectors_of_runs import RunVectorSource
from fossilray.core.backbones import require_comparable
from fossilray.core.config import StoreConfig
from fossilray.core.errors import UsageError
from fossilray.core.records import utc_now
from fossilray.core.text import counted
from fossilray.core.version import __version__
from fossilray.store.query.vectors import VectorBackbone

SHARD_OBJECTS = 8_000_000
"""Objects per shard. A worker holds the codes of a shard twice while it sorts them: 1.4 GB at 88 bytes."""
MIN_SAMPLE = 400_000
_VECTORS_PER_LIST = 64
"""Training vectors per list."""


@dataclass(frozen=True)
class IndexSettings:
    """Settings of a new index. An existing index keeps its own."""

    embeddings: str | None = None
    """Name of the embeddings to index in every run; None: the runs' own."""
    quantizer: str = "auto"
    """Name of the quantizer; auto: the one of highest recall on a sample."""
    lists: int | None = None
    """None: by the number of objects."""
    sample: int | None = None
    """Vectors that the quantizer is trained on; None: 64 per list, at least MIN_SAMPLE."""
    shard_objects: int = SHARD_OBJECTS
    seed: int = 0


def open_index(
    sources: Mapping[str, RunVectorSource],
    url: str,
    access: StoreConfig,
    settings: IndexSettings,
    *,
    on_message: Callable[[str], None] = lambda _: None,
) -> IndexStore:
    """Open the index at a URL, or create it with a quantizer trained on a sample of all wells.

    Raises:
        UsageError: the settings are invalid, there is nothing to index, or the vectors of a run are of another
            backbone than those of the index.
    """
    if settings.quantizer not in ("auto", *QUANTIZERS):
        raise UsageError(f"--quantizer {settings.quantizer!r} is not one of auto, {', '.join(QUANTIZERS)}")
    numbers = (settings.shard_objects, settings.lists, settings.sample)
    if any(number is not None and number < 1 for number in numbers):
        raise UsageError("--shard-objects, --lists and --sample must be at least 1")
    index = IndexStore.find(url, access)
    if index is None:
        index = _create(sources, url, access, settings, on_message)
    indexed = VectorBackbone.of(index.record.backbone)
    for run, source in sources.items():
        require_comparable(
            indexed,
            source.backbone,
            of_ours=f"{index.url} indexes vectors of",
            of_theirs=f"the vectors of {run}",
            remedy="build another index, or run `fossilray embed` with the backbone of the index and give --embeddings",
        )
    return index


def plan_shards(index: IndexStore, sources: Mapping[str, RunVectorSource], *, max_objects: int) -> list[str]:
    """Write the plans of the shards that the index lacks, and return their keys."""
    to_build = compare_with_runs(sources, index.shards()).to_build
    index.collect_garbage()
    groups = group_slides(to_build, max_objects=max_objects)
    return [index.write_plan(group) for group in groups]


def group_slides(slides: Sequence[IndexedSlide], *, max_objects: int) -> list[list[IndexedSlide]]:
    """Group slides by well into groups of at most `max_objects` objects; a larger slide is a group of its own."""
    groups: list[list[IndexedSlide]] = []
    objects = 0
    for slide in sorted(slides, key=lambda slide: (slide.well, slide.slide_id, slide.run)):
        if not groups or objects + slide.objects > max_objects:
            groups.append([])
            objects = 0
        groups[-1].append(slide)
        objects += slide.objects
    return groups


def _create(
    sources: Mapping[str, RunVectorSource],
    url: str,
    access: StoreConfig,
    settings: IndexSettings,
    on_message: Callable[[str], None],
) -> IndexStore:
    """Choose a quantizer, train it on a sample of all wells and create the index."""
    slides = [slide for source in sources.values() for slide in source.slides()]
    first = next(iter(sources.values()))
    backbone = first.backbone
    lists = settings.lists or lists_for(sum(slide.objects for slide in slides))
    count = settings.sample or max(MIN_SAMPLE, _VECTORS_PER_LIST * lists)
    wells = len({slide.well for slide in slides})
    on_message(f"training a quantizer on up to {count:,} vectors of {counted(wells, 'well')}")
    vectors = sample_vectors(sources, slides, count=count, dimension=backbone.dimension, seed=settings.seed)
    if not len(vectors):
        raise UsageError(
            f"{', '.join(sources)} hold no object with pixels and an embedding, so there is nothing to index; process "
            "slides first"
        )
    name, trials = settings.quantizer, list[QuantizerTrial]()
    if name == "auto":
        try:
            trials = compare_quantizers(vectors, seed=settings.seed)
            name = trials[0].coder
        except UsageError:
            name = next(iter(QUANTIZERS))  # too few vectors for a comparison, and for a difference
    quantizer = VectorQuantizer.train(vectors, name=name, lists=lists, seed=settings.seed)
    crops = first.store.read_run().config["crops"]
    record = IndexRecord(
        backbone=asdict(backbone),
        crops={"size_px": crops["size_px"], "fit": crops["fit"]},
        coder=name,
        coder_sha256=digest_of(quantizer.to_bytes()),
        lists=quantizer.lists,
        taught_on=len(vectors),
        trials=tuple(trials),
        fossilray=__version__,
        created_at=utc_now(),
    )
    return IndexStore.create(url, record, quantizer, access)
