"""Comparison of an index with its runs: slides that a search cannot find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fossilray.analysis.search.index_record import IndexedSlide, ShardRecord
from fossilray.analysis.search.vectors_of_runs import RunVectorSource
from fossilray.core.text import counted, list_some


@dataclass(frozen=True)
class IndexStatus:
    """Slides that differ between an index and its runs."""

    missing: tuple[IndexedSlide, ...]
    """Slides of the runs that are not in the index."""
    reprocessed: tuple[IndexedSlide, ...]
    """Slides of the runs that are in the index with the objects of an earlier attempt."""
    removed: tuple[IndexedSlide, ...]
    """Slides of the index that are no longer committed."""
    current: Mapping[tuple[str, str], IndexedSlide]
    """All slides of the runs, by (run, slide_id)."""

    @property
    def to_build(self) -> tuple[IndexedSlide, ...]:
        return self.missing + self.reprocessed

    def __str__(self) -> str:
        """Return one sentence for each kind of difference; empty without differences."""
        sentences = []
        for slides, state, remedy in (
            (self.missing, "not in the index", "; `fossilray index build` adds them"),
            (
                self.reprocessed,
                "reprocessed since the build and left out",
                "; `fossilray index build` adds them again",
            ),
            (self.removed, "no longer committed and left out", ""),
        ):
            if slides:
                objects = sum(slide.objects for slide in slides)
                sentences.append(
                    f"{state}: {counted(len(slides), 'slide')} with {counted(objects, 'object')}, "
                    f"{list_some(slides)}{remedy}"
                )
        return ". ".join(sentences)


def compare_with_runs(sources: Mapping[str, RunVectorSource], shards: Sequence[ShardRecord]) -> IndexStatus:
    """Compare the shards of an index with its runs, by one listing per run."""
    current = {slide.key: slide for source in sources.values() for slide in source.slides()}
    held: dict[tuple[str, str], IndexedSlide] = {}
    for slide in (slide for shard in shards for slide in shard.slides):
        if slide.key not in held or is_same(slide, current.get(slide.key)):
            held[slide.key] = slide
    return IndexStatus(
        missing=tuple(slide for key, slide in current.items() if key not in held),
        reprocessed=tuple(
            slide for key, slide in current.items() if key in held and not is_same(held[key], slide)
        ),
        removed=tuple(slide for key, slide in held.items() if key not in current and key[0] in sources),
        current=current,
    )


def is_same(slide: IndexedSlide, other: IndexedSlide | None) -> bool:
    """Return whether both are the same attempt, and so hold the same objects."""
    return other is not None and slide.attempt == other.attempt
