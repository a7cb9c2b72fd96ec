"""Current values of the columns that rounds corrected, and tables of slides that show them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fossilray.core.records import UNASSIGNED_WELL, CatalogRow
from fossilray.core.sample_terms import mid_depth
from fossilray.core.schemas import CATALOG_SCHEMA, SAMPLES_SCHEMA
from fossilray.core.slide_sample import SAMPLE_COLUMNS, SlideSample
from fossilray.store.samples.rounds import SampleRound, SampleValue

_DEPTHS = ("top_depth_m", "base_depth_m")


@dataclass(frozen=True)
class Corrections:
    """Current values of corrected columns; a slide or a column that no round names is as the run has it."""

    by_slide: Mapping[str, Mapping[str, SampleValue]]

    def __bool__(self) -> bool:
        return bool(self.by_slide)

    @cached_property
    def wells(self) -> dict[str, str]:
        """The well of each slide whose well a round names."""
        return {
            slide_id: str(values["well"] or UNASSIGNED_WELL)
            for slide_id, values in self.by_slide.items()
            if "well" in values
        }

    @cached_property
    def depths(self) -> dict[str, float | None]:
        """The measured depth of each slide whose depths a round names: the middle of its interval."""
        return {
            slide_id: _middle(values) for slide_id, values in self.by_slide.items() if _has_depths(values)
        }

    def value(self, slide_id: str, column: str, frozen: object) -> object:
        """The current value of a column of a slide, `frozen` if no round names it."""
        values = self.by_slide.get(slide_id, {})
        if column == "measured_depth_m" and _has_depths(values):
            return _middle(values)
        return values.get(column, frozen)


NO_CORRECTIONS = Corrections({})


def merge_rounds(rounds: Iterable[SampleRound]) -> Corrections:
    """Return the values that count after these rounds."""
    by_slide: dict[str, dict[str, SampleValue]] = {}
    for round_ in rounds:
        for change in round_.changes:
            by_slide.setdefault(change.slide_id, {})[change.column] = change.now
    return Corrections(by_slide)


def correct_table(table: pa.Table, corrections: Corrections) -> pa.Table:
    """Return a table of slides with its columns about samples corrected.

    A column that is not nullable has UNASSIGNED_WELL for a slide that was taken out of its well.
    """
    if not corrections:
        return table
    columns = {*SAMPLE_COLUMNS, "measured_depth_m"} & set(table.column_names)
    rows = [
        (row, slide_id)
        for row, slide_id in enumerate(table["slide_id"].to_pylist())
        if slide_id in corrections.by_slide
    ]
    replaced: dict[str, list[object]] = {}
    for row, slide_id in rows:
        for name in columns:
            marker = object()
            value = corrections.value(slide_id, name, marker)
            if value is not marker:
                if name not in replaced:
                    replaced[name] = table[name].to_pylist()
                replaced[name][row] = value
    for name, values in replaced.items():
        index = table.schema.get_field_index(name)
        field = table.schema.field(index)
        missing = None if field.nullable else UNASSIGNED_WELL
        filled = [missing if value is None else value for value in values]
        table = table.set_column(index, field, pa.array(filled, field.type))
    return table


def samples_table(catalog: pa.Table, corrections: Corrections) -> pa.Table:
    """Return the current samples in SAMPLES_SCHEMA and measured_depth_m, a row for each row of a catalog."""
    columns = []
    for field in SAMPLES_SCHEMA:
        known = catalog[field.name] if field.name in CATALOG_SCHEMA.names else None
        if field.name in _DEPTHS and known is not None:
            known = pc.coalesce(known, catalog["measured_depth_m"])
        columns.append(pa.nulls(catalog.num_rows, field.type) if known is None else known)
    table = pa.Table.from_arrays(columns, schema=SAMPLES_SCHEMA)
    table = table.append_column("measured_depth_m", catalog["measured_depth_m"])
    return correct_table(table, corrections)


def iter_samples(rows: Iterable[CatalogRow], corrections: Corrections) -> Iterator[SlideSample]:
    """Yield the current sample of each slide of a catalog."""
    for row in rows:
        known = {name: getattr(row, name, None) for name in SAMPLE_COLUMNS}
        if known["top_depth_m"] is None and known["base_depth_m"] is None:
            known |= dict.fromkeys(_DEPTHS, row.measured_depth_m)
        values: dict[str, Any] = {**known, **corrections.by_slide.get(row.slide_id, {})}
        yield SlideSample(row.slide_id, **values)


def _has_depths(values: Mapping[str, SampleValue]) -> bool:
    return any(name in values for name in _DEPTHS)


def _middle(values: Mapping[str, SampleValue]) -> float | None:
    top, base = (values.get(name) for name in _DEPTHS)
    return mid_depth(top if isinstance(top, float) else None, base if isinstance(base, float) else None)
