"""Checks of stored tiles: faulty entries of the index, damaged data, and what was lost by them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fossilray.core.records import Doubt
from fossilray.slides.slide import Slide

_CODE = "tiles-missing"


def tile_doubts(
    slide: Slide, *, tiles_failed: int = 0, crops_coarser: int = 0, crops_failed: int = 0
) -> Iterator[Doubt]:
    """Return a doubt if stored tiles are missing or damaged, as far as the index states it and reads have found it.

    The counts are those of a processed slide.
    """
    reasons = slide.faulty_tiles()
    faulty = sum(reasons.values())
    listed = slide.listed.count if slide.listed is not None else 0
    findings = []
    if faulty:
        which = ", ".join(f"{count:,} {why}" for why, count in sorted(reasons.items()))
        share = f" of {listed:,} ({faulty / listed:.2%})" if listed >= faulty else ""
        findings.append(f"missing or damaged stored tiles: {faulty:,}{share}, namely {which}")
    lost = [
        f"{what}: {count:,}"
        for count, what in (
            (tiles_failed, "tiles of the detector that could not be read"),
            (crops_coarser, "crops from a coarser level"),
            (crops_failed, "crops that could not be read"),
        )
        if count
    ]
    if lost:
        findings.append(", ".join(lost))
    if findings:
        yield Doubt(
            _CODE,
            float(faulty or tiles_failed + crops_coarser + crops_failed),
            f"{'; '.join(findings)}; copy the slide again if its source is sound",
        )


def with_losses(
    doubts: Iterable[Doubt], slide: Slide, *, tiles_failed: int, crops_coarser: int, crops_failed: int
) -> tuple[Doubt, ...]:
    """Return the doubts of a processed slide: those from before it, with its tiles checked again."""
    counts = {"tiles_failed": tiles_failed, "crops_coarser": crops_coarser, "crops_failed": crops_failed}
    return (*(doubt for doubt in doubts if doubt.code != _CODE), *tile_doubts(slide, **counts))
