"""How an index begins, and which slides go into which shard of it."""

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
from fossilray.analysis.search.sample import draw_sample
from fossilray.analysis.search.vectors_of_runs import RunVectorSource
from fossilray.core.config import StoreConfig
from fossilray.core.errors import RunMismatch, UsageError
from fossilray.core.records import utc_now
from fossilray.core.version import __version__
from fossilray.store.query.vectors import VectorBackbone

SHARD_OBJECTS = 8_000_000
"""One worker holds a shard's codes while it sorts them: twice 88 bytes each, 1.4 GB."""
SAMPLE = 400_000
_TAUGHT_A_LIST = 64
"""Vectors a centre is taught on, where there are so many."""


@dataclass(frozen=True)
class IndexSettings:
    """How a new index is made; one that exists keeps its own."""

    embeddings: str | None = None
    """Name of the vectors to index in every run; None: the runs' own."""
    coder: str = "auto"
    lists: int | None = None
    """None: after the number of objects."""
    sample: int | None = None
    """Vectors the coder is taught on; None: 64 a list, at least SAMPLE."""
    shard_objects: int = SHARD_OBJECTS
    seed: int = 0


def open_index(
    sources: Mapping[str, RunVectorSource],
    url: str,
    access: StoreConfig,
    settings: IndexSettings,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> IndexStore:
    """The index at a place, begun now if there is none: a coder is chosen and taught on a sample of all wells.

    Raises:
        UsageError: the settings are wrong, or there is nothing to index.
        RunMismatch: the index is of vectors by another backbone than these runs.
    """
    if settings.coder not in ("auto", *QUANTIZERS):
        raise UsageError(f"--coder {settings.coder!r} is none of auto, {', '.join(QUANTIZERS)}")
    numbers = (settings.shard_objects, settings.lists, settings.sample)
    if any(number is not None and number < 1 for number in numbers):
        raise UsageError("--shard-objects, --lists and --sample are numbers of at least 1")
    index = IndexStore.find(url, access)
    if index is None:
        index = _begin(sources, url, access, settings, say)
    _check(index, sources)
    return index


def plan_shards(index: IndexStore, sources: Mapping[str, RunVectorSource], *, most_objects: int) -> list[str]:
    """Plan the shards that the index lacks of these runs, write the plans, and return the shards' keys."""
    todo = compare_with_runs(sources, index.shards()).to_build
    index.sweep()
    groups = group_slides(todo, most_objects=most_objects)
    return [index.plan(group) for group in groups]


def group_slides(slides: Sequence[IndexedSlide], *, most_objects: int) -> list[list[IndexedSlide]]:
    """Slides in groups of at most so many objects, the wells one after the other, so that few groups share a well."""
    groups: list[list[IndexedSlide]] = []
    objects = 0
    for slide in sorted(slides, key=lambda one: (one.well, one.slide_id, one.run)):
        if not groups or objects + slide.objects > most_objects:
            groups.append([])
            objects = 0
        groups[-1].append(slide)
        objects += slide.objects
    return groups


def _begin(
    sources: Mapping[str, RunVectorSource],
    url: str,
    access: StoreConfig,
    settings: IndexSettings,
    say: Callable[[str], None],
) -> IndexStore:
    """A new index: a coder chosen and taught on a sample of all wells."""
    slides = [slide for source in sources.values() for slide in source.slides()]
    first = next(iter(sources.values()))
    backbone = first.backbone
    lists = settings.lists or lists_for(sum(slide.objects for slide in slides))
    count = settings.sample or max(SAMPLE, _TAUGHT_A_LIST * lists)
    say(f"teaching a coder on up to {count:,} vectors of {len({slide.well for slide in slides})} wells")
    vectors = draw_sample(sources, slides, count=count, dimension=backbone.dimension, seed=settings.seed)
    if not len(vectors):
        raise UsageError(
            f"{', '.join(sources)} hold no object with pixels and a vector; there is nothing to index"
        )
    name, trials = settings.coder, list[QuantizerTrial]()
    if name == "auto":
        try:
            trials = compare_quantizers(vectors, seed=settings.seed)
            name = trials[0].coder
        except UsageError:
            name = next(iter(QUANTIZERS))  # too few to tell, and to matter
    coder = VectorQuantizer.train(vectors, name=name, lists=lists, seed=settings.seed)
    crops = first.store.read_run().config["crops"]
    record = IndexRecord(
        backbone=asdict(backbone),
        crops={"size_px": crops["size_px"], "fit": crops["fit"]},
        coder=name,
        coder_sha256=digest_of(coder.to_bytes()),
        lists=coder.lists,
        taught_on=len(vectors),
        trials=tuple(trials),
        fossilray=__version__,
        created_at=utc_now(),
    )
    return IndexStore.create(url, record, coder, access)


def _check(index: IndexStore, sources: Mapping[str, RunVectorSource]) -> None:
    """Make sure that these vectors belong into this index."""
    for url, source in sources.items():
        indexed = VectorBackbone.of(index.record.backbone)
        if source.backbone.sha256 != indexed.sha256:
            raise RunMismatch(
                f"{index.url} indexes vectors of {indexed}, and those of {url} are of "
                f"{source.backbone}; vectors of two backbones cannot be compared: build another index, or describe the "
                "crops anew with `fossilray embed` and give --embeddings"
            )
