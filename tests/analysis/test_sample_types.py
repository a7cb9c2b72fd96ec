"""Cuttings that cave, cores and spikes: what is known of synthetic wells is recovered at the stated rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.cli_runner import rows_of, run_command
from support.synthetic_well import TAXA, WELL, Truth, make_truth, start_run, write_well

from fossilray.analysis.stratigraphy.concentrations import estimate_concentrations
from fossilray.analysis.stratigraphy.confusion import Confusion
from fossilray.analysis.stratigraphy.intervals import estimate_ratios
from fossilray.analysis.stratigraphy.ranges import find_ranges
from fossilray.analysis.stratigraphy.samples import WellSample
from fossilray.core.records import CatalogRow
from fossilray.core.slide_sample import Spike
from fossilray.store import RunStore

SPIKE = Spike("Lycopodium", 2, 20_848, 1_546)
SAMPLES, CORE_EVERY, OBJECTS = 24, 3, 300


def a_sample(
    top: float, base: float, kind: str | None, *, spike: Spike | None = None, grams: float = 10.0
) -> WellSample:
    return WellSample(
        label="a",
        depth_m=(top + base) / 2,
        top_m=top,
        base_m=base,
        sample_type=kind,
        spike=spike,
        amount=(grams, "g"),
        has_mixed_spikes=False,
        slides=1,
        classified=1,
        objects=0,
        unclassified=0,
        lost_share=0.0,
    )


def true_shares(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Shares (samples, taxa) of the beds, and the rows of the true last and first occurrence of each taxon."""
    last = rng.integers(0, SAMPLES - 6, 8)
    first = np.minimum(last + rng.integers(4, 12, 8), SAMPLES - 1)
    last[0], first[0] = 0, SAMPLES - 1
    rows = np.arange(SAMPLES)[:, None]
    weights = np.where((rows >= last) & (rows <= first), rng.uniform(0.5, 1.5, 8), 0)
    return weights / weights.sum(axis=1, keepdims=True), last, first


def caved(shares: NDArray[np.float64], part: float) -> NDArray[np.float64]:
    """Shares of cuttings: a part of each sample is of the beds above it, more from the near ones."""
    mixed = shares.copy()
    for row in range(1, len(shares)):
        distance = row - np.arange(row)
        weight = np.exp(-distance / 3.0)
        mixed[row] = (1 - part) * shares[row] + part * (weight @ shares[:row]) / weight.sum()
    return mixed


def test_tops_come_from_cuttings_and_bases_from_cores_in_wells_that_cave() -> None:
    rng = np.random.default_rng(7)
    tops, caved_bases, flagged, held = [], [], [], []
    for _ in range(60):
        shares, last, first = true_shares(rng)
        beds = [(2000 + 10.0 * row, 2010 + 10.0 * row) for row in range(SAMPLES)]
        cuttings = [a_sample(*bed, "ditch cuttings") for bed in beds]
        cores = [a_sample(bed[0] + 6, bed[0] + 6, "core") for bed in beds[::CORE_EVERY]]
        mixed = [rng.multinomial(OBJECTS, share) for share in caved(shares, 0.15)]
        pure = [rng.multinomial(OBJECTS, share) for share in shares[::CORE_EVERY]]
        alone = find_ranges(np.array(mixed) > 0, cuttings)
        order = np.argsort([sample.depth_m for sample in (*cuttings, *cores)], kind="stable")
        both = [(*cuttings, *cores)[row] for row in order]
        ranges = find_ranges(np.array([*mixed, *pure])[order] > 0, both)
        for taxon in range(8):
            tops.append(alone[taxon].last == last[taxon])
            wrong = alone[taxon].first is not None and alone[taxon].first > first[taxon]
            caved_bases.append(wrong)
            flagged.append(alone[taxon].is_first_doubtful)
            firm = ranges[taxon].firm_first
            assert firm is None or both[firm].top_m < 2010 + 10 * first[taxon], (
                "a core holds a taxon below its base"
            )
            if firm is not None:
                next_core = both[firm].top_m + 10 * CORE_EVERY
                held.append(
                    both[firm].top_m <= 2010 + 10 * first[taxon] and next_core >= 2000 + 10 * first[taxon]
                )
            assert alone[taxon].last is None or alone[taxon].last >= last[taxon], "nothing caves upwards"
    assert np.mean(tops) >= 0.95
    assert np.mean(caved_bases) >= 0.5, "the wells do not cave"
    assert all(flagged), "a first occurrence in cuttings is always doubtful"
    assert np.mean(held) >= 0.95


def test_samples_of_unknown_type_are_taken_as_they_are() -> None:
    samples = [a_sample(10 * row, 10 * row, None) for row in range(3)]
    (range_,) = find_ranges(np.array([[True], [True], [False]]), samples)
    assert (range_.last, range_.first, range_.firm_first, range_.is_first_doubtful) == (0, 1, 1, False)


def concentrations_of_known_samples(
    *, samples: int, confusion: Confusion | None, confused: NDArray[np.float64], seed: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether the interval of each taxon, and of all together, holds the concentration that was mixed."""
    rng = np.random.default_rng(seed)
    true = rng.uniform(500, 20_000, (samples, 3))
    grams, mounted = 10.0, 0.005
    added = rng.normal(SPIKE.grains, SPIKE.grains_per_tablet_sd * np.sqrt(SPIKE.tablets), samples)
    drawn = np.column_stack([rng.poisson(true * grams * mounted), rng.poisson(added * mounted)])
    predicted = np.array(
        [sum(rng.multinomial(count, confused[kind]) for kind, count in enumerate(row)) for row in drawn]
    )
    labels = ("a", "b", "c", "lycopodium")
    found = estimate_concentrations(
        [a_sample(1, 2, "core", spike=SPIKE, grams=grams) for _ in range(samples)],
        predicted,
        labels,
        np.array([0, 1, 2, -1]),
        3,
        confusion=confusion,
        rng=rng,
    )
    assert found is not None
    assert set(found.units) == {"g"}
    expected = np.column_stack([true, true.sum(axis=1)])
    inside = (found.low <= expected) & (expected <= found.high)
    return inside[:, :3], inside[:, 3]


def test_concentrations_are_covered_at_the_stated_rate() -> None:
    inside, totals = concentrations_of_known_samples(samples=500, confusion=None, confused=np.eye(4), seed=1)
    assert 0.93 <= inside.mean() <= 0.98
    assert 0.92 <= totals.mean() <= 0.98


def test_concentrations_of_a_classifier_that_errs_are_covered_at_the_stated_rate() -> None:
    confused = np.full((4, 4), 0.1 / 3) + np.eye(4) * (0.9 - 0.1 / 3)
    validation = np.stack([np.random.default_rng(5).multinomial(200, row) for row in confused])
    confusion = Confusion(("a", "b", "c", "lycopodium"), validation)
    inside, totals = concentrations_of_known_samples(
        samples=120, confusion=confusion, confused=confused, seed=2
    )
    assert inside.mean() >= 0.92
    assert totals.mean() >= 0.92
    plain, _ = concentrations_of_known_samples(samples=120, confusion=None, confused=confused, seed=2)
    assert plain.mean() < inside.mean()


def test_the_interval_is_that_of_stockmarrs_relative_error_where_counts_are_large() -> None:
    """Stockmarr (1971): the relative errors of the tablets, of the grains and of the markers add in quadrature."""
    counts, markers, grams = 4_000, 3_000, 8.0
    found = estimate_concentrations(
        [a_sample(1, 2, None, spike=SPIKE, grams=grams)],
        np.array([[counts, markers]]),
        ("a", "Lycopodium"),
        np.array([0, -1]),
        1,
        confusion=None,
        rng=np.random.default_rng(0),
    )
    assert found is not None
    assert found.values[0, 0] == pytest.approx(counts / markers * 2 * 20_848 / grams)
    relative = np.sqrt((1_546 / 20_848) ** 2 / 2 + 1 / counts + 1 / markers)
    assert np.log(found.high[0, 0] / found.values[0, 0]) == pytest.approx(1.96 * relative, rel=0.02)
    assert np.log(found.values[0, 0] / found.low[0, 0]) == pytest.approx(1.96 * relative, rel=0.02)


def test_ratios_without_a_marker_grain_are_unknown_and_of_an_absent_taxon_begin_at_zero() -> None:
    ratios = estimate_ratios(
        np.array([[5, 0], [0, 7]]),
        np.array([0, 1]),
        1,
        confusion=None,
        rng=np.random.default_rng(0),
    )
    assert not np.isfinite(ratios.values[0, 0])
    assert ratios.low[1, 0] == ratios.values[1, 0] == 0
    assert 0 < ratios.high[1, 0] < 1


@pytest.fixture(scope="module")
def spiked(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunStore, Truth]:
    """A well whose last taxon is the marker, without any statement about its samples."""
    store = start_run(tmp_path_factory.mktemp("spiked") / "run")
    truth = make_truth(samples=6, right=1.0)
    shares = truth.shares.copy()
    shares[:, -1] = 0.25
    shares[:, :-1] *= 0.75 / shares[:, :-1].sum(axis=1, keepdims=True)
    truth = Truth(truth.depths, shares, np.eye(6), np.eye(6, dtype=np.int64) * 100)
    store.freeze_catalog(
        [
            CatalogRow(f"6407-6-5-{depth:g}", "a.mrxs", well=WELL, measured_depth_m=depth)
            for depth in truth.depths
        ]
    )
    write_well(store, truth, objects=80)
    return store, truth


def test_a_chart_of_imported_samples_tells_cuttings_from_cores_and_gives_concentrations(
    spiked: tuple[RunStore, Truth], tmp_path: Path
) -> None:
    store, truth = spiked
    lines = [
        "slide_id,top_depth_m,base_depth_m,sample_type,weight_g,marker,marker_tablets,grains_per_tablet,grains_per_tablet_sd"
    ]
    for row, depth in enumerate(truth.depths.tolist()):
        kind = "SWC" if row == 2 else "DC"
        ends = f"{depth:g},{depth:g}" if row == 2 else f"{depth - 5:g},{depth + 5:g}"
        spike = "10,wetzeliella,2,20848,1546" if row != 4 else ",,,,"
        lines.append(f"6407-6-5-{depth:g},{ends},{kind},{spike}")
    table = tmp_path / "samples.csv"
    table.write_text("\n".join(lines))
    assert "round 1: 6 of 6 slides corrected" in run_command("samples", "import", store.url, table)
    output = run_command("chart", store.url, "--well", WELL, "--out", tmp_path / "chart")
    assert "samples by type: 5 ditch cuttings, 1 side-wall core" in output
    assert "first occurrences from cuttings only, which caving may have made too deep:" in output
    assert "marker grains, which are no part of the percentages: wetzeliella" in output
    assert "concentrations of 5 samples:" in output
    percent = rows_of(tmp_path / "chart" / "percent.csv")
    assert {row["taxon"] for row in percent} == set(TAXA[:-1])
    assert sum(float(row["2000"]) for row in percent) == pytest.approx(100, abs=0.1)
    rows = rows_of(tmp_path / "chart" / "concentrations.csv")
    totals = [row for row in rows if row["taxon"] == "all taxa"]
    assert len(totals) == 5
    expected = 0.75 / 0.25 * 2 * 20848 / 10
    assert (
        sum(float(row["concentration_low"]) <= expected <= float(row["concentration_high"]) for row in totals)
        >= 4
    )
    samples = rows_of(tmp_path / "chart" / "samples.csv")
    assert (samples[0]["top_depth_m"], samples[0]["base_depth_m"]) == ("1995", "2005")
    assert samples[2]["sample_type"] == "side-wall core"
    ranges = {row["taxon"]: row for row in rows_of(tmp_path / "chart" / "ranges.csv")}
    assert {row["is_first_doubtful"] for row in ranges.values()} <= {"True", "False"}
    svg = (tmp_path / "chart" / "percent.svg").read_text("utf-8")
    assert ">1,995–2,005<" in svg
    assert "▶ side-wall core; □ ditch cuttings; ▽ first occurrence in cuttings, may be caved" in svg
    assert (tmp_path / "chart" / "concentration.svg").is_file()
