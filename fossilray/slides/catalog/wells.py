"""Wells that a catalog spells in several ways."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from fossilray.core.records import CatalogRow
from fossilray.core.site_names import normalise_well, well_key
from fossilray.core.text import list_some
from fossilray.slides.catalog.table import Catalog


def merge_wells(catalog: Catalog) -> Catalog:
    """Return the catalog with one spelling for each well, and a note for each well that had several.

    Spellings of one well differ in case, separators and the prefix NO: `NO 6407/6-5` and `6407_6-5`.
    """
    spellings: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in catalog.rows:
        if row.well is not None:
            spellings[well_key(normalise_well(row.well))][row.well] += 1
    chosen = {key: _choose(counts) for key, counts in spellings.items()}
    notes = [
        f"the wells {list_some(sorted(map(repr, counts)), most=8)} are one: {chosen[key]}"
        for key, counts in sorted(spellings.items())
        if len(counts) > 1
    ]
    rows = [
        row if row.well is None else replace(row, well=chosen[well_key(normalise_well(row.well))])
        for row in catalog.rows
    ]
    return replace(catalog, rows=rows, notes=(*catalog.notes, *notes))


def keep_spelling(rows: Sequence[CatalogRow], frozen: Sequence[CatalogRow]) -> list[CatalogRow]:
    """Return the rows with the spelling that a run has of each well. frozen: the rows of that run."""
    of_slide = {row.slide_id: row.well for row in frozen if row.well is not None}
    of_key = {well_key(normalise_well(well)): well for well in of_slide.values()}
    kept: list[CatalogRow] = []
    for row in rows:
        if row.well is None:
            kept.append(row)
            continue
        key = well_key(normalise_well(row.well))
        frozen_well = of_slide.get(row.slide_id)
        is_same = frozen_well is not None and well_key(normalise_well(frozen_well)) == key
        kept.append(replace(row, well=frozen_well if is_same else of_key.get(key, row.well)))
    return kept


def _choose(spellings: Counter[str]) -> str:
    """Return the most frequent spelling, as `normalise_well` writes it."""
    return min(
        Counter(map(normalise_well, spellings.elements())).items(), key=lambda item: (-item[1], item[0])
    )[0]
