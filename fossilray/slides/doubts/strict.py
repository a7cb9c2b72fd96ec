"""Findings of several checks put together, and refusal of slides by them."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from fossilray.core.errors import DoubtfulSlide
from fossilray.core.records import CatalogRow, Doubt

_OF_THE_CATALOG = ("same-scan",)
"""Codes of findings that compare the slides of a catalog, which the slide alone does not show."""


def merge_doubts(row: CatalogRow, of_slide: Iterable[Doubt]) -> tuple[Doubt, ...]:
    """Return the findings about an opened slide, after those of its row that only the catalog shows."""
    return (*(doubt for doubt in row.doubts or () if doubt.code in _OF_THE_CATALOG), *of_slide)


def refuse_doubts(path: str, doubts: Iterable[Doubt], strict: Collection[str]) -> None:
    """Refuse a slide with a finding whose code is among the strict ones.

    Raises:
        DoubtfulSlide: it has one.
    """
    refused = [doubt for doubt in doubts if doubt.code in strict]
    if refused:
        reasons = "; ".join(f"{doubt.code}: {doubt.sentence}" for doubt in refused)
        raise DoubtfulSlide(f"{path}: {reasons} (refused by slides.strict_doubts)")
