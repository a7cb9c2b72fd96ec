"""What an index holds beside what its runs hold now: whoever searches is told what cannot be found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fossilray.analysis.search.index_record import IndexedSlide, ShardRecord
from fossilray.analysis.search.vectors_of_runs import RunVectorSource


@dataclass(frozen=True)
class IndexStatus:
    """Slides that differ between an index and its runs."""

    missing: tuple[IndexedSlide, ...]
    """Committed, and not in the index."""
    anew: tuple[IndexedSlide, ...]
    """Committed as they are now, in the index as they were before."""
    gone: tuple[IndexedSlide, ...]
    """In the index, and not committed any more."""
    now: Mapping[tuple[str, str], IndexedSlide]
    """What the runs hold, by (run, slide_id)."""

    @property
    def to_build(self) -> tuple[IndexedSlide, ...]:
        return self.missing + self.anew

    def __str__(self) -> str:
        """A sentence for each kind of difference; empty if there is none."""
        parts = []
        for found, what, remedy in (
            (self.missing, "are not in the index and cannot be found", "`fossilray index build` adds them"),
            (
                self.anew,
                "were made anew since and are left out",
                "`fossilray index build` takes them in again",
            ),
            (self.gone, "are not committed any more and are left out", ""),
        ):
            if found:
                named = ", ".join(str(one) for one in found[:5]) + (", …" if len(found) > 5 else "")
                objects = sum(one.objects for one in found)
                parts.append(
                    f"{len(found)} slides with {objects:,} objects {what}: {named}{'; ' if remedy else ''}{remedy}"
                )
        return ". ".join(parts)


def compare_with_runs(sources: Mapping[str, RunVectorSource], shards: Sequence[ShardRecord]) -> IndexStatus:
    """How the shards of an index differ from what these runs hold now; one listing a run."""
    now = {slide.key: slide for source in sources.values() for slide in source.slides()}
    held: dict[tuple[str, str], IndexedSlide] = {}
    for slide in (slide for shard in shards for slide in shard.slides):
        if slide.key not in held or is_same(slide, now.get(slide.key)):
            held[slide.key] = slide
    return IndexStatus(
        missing=tuple(slide for key, slide in now.items() if key not in held),
        anew=tuple(s for key, s in now.items() if key in held and not is_same(held[key], s)),
        gone=tuple(slide for key, slide in held.items() if key not in now and key[0] in sources),
        now=now,
    )


def is_same(one: IndexedSlide, other: IndexedSlide | None) -> bool:
    """Whether two are of the same objects."""
    return other is not None and one.attempt == other.attempt
