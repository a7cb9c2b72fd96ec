"""Findings about the slides of a run: comparisons within a well, counts, status."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.run_fixtures import a_summary

from fossilray.core.doubt_codes import COMPARING_CODES, DOUBT_CODES
from fossilray.core.records import UNASSIGNED_WELL, CatalogRow, Doubt, SlideSummary
from fossilray.core.schemas import SLIDES_SCHEMA
from fossilray.store.files.parquet import to_table
from fossilray.store.run.doubts import add_comparisons, compare_slides, count_doubts, doubts_of_run

USUAL = (18.0, 30.0, 46.0)


def a_slide(number: int, **changes: Any) -> SlideSummary:
    """A slide of a well whose density and sizes scatter by a quarter around 50 per mm2 and 30 um."""
    rng = np.random.default_rng(number)
    summary = replace(
        a_summary(f"s{number}", f"{number:016x}"),
        scanned_mm2=100.0,
        objects=round(5000 * float(np.exp(rng.normal(0, 0.25)))),
        longest_um_quartiles=tuple(float(size * np.exp(rng.normal(0, 0.1))) for size in USUAL),
    )
    return replace(summary, **changes)


def compared(*slides: SlideSummary) -> dict[str, list[Doubt]]:
    found = compare_slides(to_table(slides, SLIDES_SCHEMA))
    return {slide_id: list(doubts) for slide_id, doubts in found.items()}


def test_slides_that_vary_as_samples_do_raise_no_finding() -> None:
    assert compared(*map(a_slide, range(30))) == {}
    crowded, sparse = a_slide(30, objects=11_000), a_slide(31, objects=1900)
    assert compared(*map(a_slide, range(30)), crowded, sparse) == {}


def test_density_far_from_the_wells_is_found_with_its_value() -> None:
    found = compared(*map(a_slide, range(8)), a_slide(8, objects=60), a_slide(9, objects=50_000))
    assert {slide_id: [doubt.code for doubt in doubts] for slide_id, doubts in found.items()} == {
        "s8": ["density-unusual"],
        "s9": ["density-unusual"],
    }
    assert [found[name][0].value for name in ("s8", "s9")] == [0.6, 500.0]
    assert (
        "500 objects per mm2, where the 10 slides of well 6407/6-5 have a median of"
        in found["s9"][0].sentence
    )


@pytest.mark.parametrize("factor", [0.5, 2.0], ids=["half", "double"])
def test_sizes_off_by_the_factor_of_a_wrong_objective_are_found(factor: float) -> None:
    odd = a_slide(8, longest_um_quartiles=tuple(size * factor for size in USUAL))
    found = compared(*map(a_slide, range(8)), odd)
    (doubt,) = found["s8"]
    assert (doubt.code, doubt.value) == ("sizes-unusual", 30 * factor)
    assert list(found) == ["s8"]


def test_slides_are_compared_within_a_well_of_six_or_more() -> None:
    sparse = a_slide(9, objects=60)
    assert compared(*map(a_slide, range(4)), sparse) == {}
    elsewhere = [replace(a_slide(number), well="6407/6-6") for number in range(8)]
    assert compared(*elsewhere, sparse) == {}
    unassigned = [replace(slide, well=UNASSIGNED_WELL) for slide in (*map(a_slide, range(8)), sparse)]
    assert compared(*unassigned) == {}


def test_slides_of_older_runs_without_quartiles_are_compared_by_density_only() -> None:
    old = [replace(a_slide(number), longest_um_quartiles=None, doubts=None) for number in range(8)]
    assert compared(*old) == {}
    assert list(compared(*old, a_slide(9, objects=60))) == ["s9"]


def test_comparisons_are_added_to_the_findings_of_the_slides() -> None:
    recorded = Doubt("slide-type", None, "fluorescence")
    table = to_table([*map(a_slide, range(8)), a_slide(9, objects=60, doubts=(recorded,))], SLIDES_SCHEMA)
    codes = [
        [doubt["code"] for doubt in doubts or ()] for doubts in add_comparisons(table)["doubts"].to_pylist()
    ]
    assert codes[:-1] == [[]] * 8
    assert codes[-1] == ["slide-type", "density-unusual"]
    assert add_comparisons(table).schema.equals(table.schema)


def test_findings_of_slides_that_wait_are_those_of_the_catalog() -> None:
    seen, waiting = Doubt("slide-type", None, "seen"), Doubt("mpp-implausible", 9.0, "waiting")
    table = to_table([a_slide(1, doubts=(seen,)), a_slide(2)], SLIDES_SCHEMA)
    rows = [CatalogRow(f"s{number}", "a.mrxs", doubts=(waiting,)) for number in (1, 2, 3)]
    rows.append(CatalogRow("s4", "a.mrxs"))
    found = doubts_of_run(table, rows)
    assert found == {"s1": (seen,), "s3": (waiting,)}
    counts = count_doubts({**found, "s5": [waiting, waiting]})
    assert [(count.code, count.slides, count.example) for count in counts] == [
        ("mpp-implausible", 2, "s3"),
        ("slide-type", 1, "s1"),
    ]
    assert str(counts[0]) == "mpp-implausible: 2 slides, such as s3: waiting"


def test_codes_that_compare_are_codes() -> None:
    assert set(COMPARING_CODES) <= DOUBT_CODES.keys()
