"""Charts on what an expert determined: labels are counted as labelled, and only the rest by predictions."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.cli_runner import rows_of, run_command
from support.expert_labels import label_objects, stated
from support.small_run import commit_slide
from support.synthetic_well import TAXA, WELL, make_truth, start_run, write_well

from fossilray.analysis.report import write_report
from fossilray.analysis.stratigraphy.assemblages import TaxonSample
from fossilray.analysis.stratigraphy.chart import ChartOptions, WellChart, compute_chart
from fossilray.analysis.stratigraphy.determined import count_determinations
from fossilray.analysis.stratigraphy.expert.comparison import compare_with_expert
from fossilray.analysis.stratigraphy.expert.counts import read_expert_counts
from fossilray.analysis.stratigraphy.match import match_wells
from fossilray.analysis.stratigraphy.page import describe_findings
from fossilray.analysis.stratigraphy.tables import well_tables
from fossilray.core.config.choices import UncertainLabels
from fossilray.core.errors import UsageError
from fossilray.labels.determinations import read_determinations
from fossilray.labels.taxonomy import Taxonomy, read_taxonomy
from fossilray.store import RunStore

TRUTH = make_truth(samples=6)
SLIDES = tuple(f"6407-6-5-{depth:g}" for depth in TRUTH.depths)
TOP = SLIDES[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    store = start_run(tmp_path_factory.mktemp("well") / "run")
    write_well(store, TRUTH, objects=80)
    return store


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """A run without predictions."""
    store = start_run(tmp_path_factory.mktemp("bare") / "run")
    for seed, depth in enumerate(TRUTH.depths.tolist()):
        slide_id = f"6407-6-5-{depth:g}"
        commit_slide(store, slide_id, count=80, well=WELL, depth_m=depth, seed=seed, embeddings=False)
    return store


def chart(
    run: RunStore,
    labels: Path,
    *,
    taxonomy: Taxonomy | None = None,
    uncertain: UncertainLabels = "leave-out",
    head: str | None = None,
    leave_out: tuple[str, ...] = (),
) -> WellChart:
    found = read_determinations(labels, run, taxonomy=taxonomy, uncertain=uncertain)
    return compute_chart(
        run,
        WELL,
        ChartOptions(taxonomy=taxonomy, determinations=found, head=head, leave_out=leave_out),
    )


def rows_by_taxon(computed: WellChart, sample: int) -> dict[str, dict[str, str]]:
    text = well_tables(computed)["intervals.csv"].decode().splitlines()
    depth = f"{TRUTH.depths[sample]:g}"
    return {row["taxon"]: row for row in csv.DictReader(text) if row["measured_depth_m"] == depth}


def test_a_sample_with_seven_labelled_monolete_spores_has_at_least_seven_for_sure(
    run: RunStore, tmp_path: Path
) -> None:
    # Palaeoperidinium is a class of the head and absent here; Laevigatosporites is none.
    labels = label_objects(
        run,
        tmp_path / "labels",
        [
            *((TOP, number, "Laevigatosporites") for number in range(7)),
            *((TOP, number, "Palaeoperidinium") for number in range(7, 10)),
        ],
    )
    computed = chart(run, labels)
    rows = rows_by_taxon(computed, 0)
    for taxon, number in (("Laevigatosporites", 7), ("Palaeoperidinium", 3)):
        row = rows[taxon]
        assert int(row["labelled"]) == number
        assert float(row["count"]) >= number
        assert float(row["count_low"]) >= number
        assert row["is_certain"] == "True"
        assert computed.ranges[computed.taxa.index(taxon)].last == 0
    assert sum(int(row["labelled"]) + int(row["predicted"]) for row in rows.values()) == 80
    assert computed.well_samples.samples[0].objects == 80
    assert computed.estimate.objects.round().tolist() == [80] * 6
    findings = " | ".join(describe_findings(computed))
    assert "470 objects classified by genera, 10 objects labelled by experts" in findings
    assert "label set labels, version 1: 10 objects determined in 1 of 6 samples" in findings
    assert computed.diversity[0].richness >= 2


def test_every_labelled_taxon_is_counted_in_full_and_the_estimate_nears_the_truth(
    run: RunStore, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    members = [np.repeat(TAXA, rng.multinomial(80, share)) for share in TRUTH.shares]
    drawn = {slide: rng.choice(80, 60, replace=False).tolist() for slide in SLIDES}
    labels = label_objects(
        run,
        tmp_path / "labels",
        [
            (slide, number, str(members[row][number]))
            for row, slide in enumerate(SLIDES)
            for number in drawn[slide]
        ],
    )
    computed, plain = chart(run, labels), compute_chart(run, WELL, ChartOptions())
    assert (computed.counts >= computed.determined - 1e-6).all()
    assert (computed.estimate.present_low[computed.determined > 0] > 0).all()
    assert computed.determined.sum() == 6 * 60

    def wrong(of: WellChart) -> float:
        expected = TRUTH.shares[:, [TAXA.index(taxon) for taxon in of.taxa]]
        return float(np.abs(of.estimate.shares - expected).sum())

    assert wrong(computed) < wrong(plain)


def test_labels_alone_make_a_chart(bare: RunStore, tmp_path: Path) -> None:
    counted = {"Spiniferites ramosus": 40, "Spiniferites membranaceus": 12, "Deflandrea": 8}
    names = np.repeat(list(counted), list(counted.values())).tolist()
    labels = label_objects(
        bare,
        tmp_path / "labels",
        [
            *((TOP, number, name) for number, name in enumerate(names)),
            *((SLIDES[1], number, "Azolla") for number in range(4)),
            (SLIDES[1], 9, "wood"),
        ],
    )
    computed = chart(bare, labels)
    assert computed.confusion is None
    assert set(computed.taxa) == {"Spiniferites", "Deflandrea", "Azolla"}, "species count for their genus"
    rows = rows_by_taxon(computed, 0)
    assert (rows["Spiniferites"]["count"], rows["Spiniferites"]["labelled"]) == ("52.0", "52")
    assert float(rows["Spiniferites"]["percent_low"]) < 86.67 < float(rows["Spiniferites"]["percent_high"])
    assert computed.well_sampled == (0,), "four labels are few"
    assert [sample.apart for sample in computed.well_samples.samples[:2]] == [{}, {"wood": 1}]
    out = tmp_path / "chart"
    printed = run_command("chart", bare.url, "--well", WELL, "--labels", labels, "--out", out)
    assert "64 objects labelled by experts, 3 taxa" in printed
    assert "there are no predictions: the assemblage is what was labelled" in printed
    states = [row["state"] for row in rows_of(out / "samples.csv")]
    assert [state.removesuffix("; lossy") for state in states[1:]] == ["few objects", *["no labels"] * 4]
    svg = (out / "percent.svg").read_text("utf-8")
    assert ">no labels<" in svg
    assert "determined by an expert" in svg
    assert (out / "labelled.csv").read_text("utf-8").splitlines()[0].startswith("taxon,group,2000")
    with pytest.raises(UsageError, match="or give --labels of an expert"):
        compute_chart(bare, WELL, ChartOptions())
    with pytest.raises(UsageError, match="determines no object of well"):
        chart(bare, label_objects(bare, tmp_path / "none", [(TOP, 1, "wood")]))


def test_what_is_not_in_place_or_no_taxon_is_counted_apart(run: RunStore, tmp_path: Path) -> None:
    labels = label_objects(
        run,
        tmp_path / "labels",
        [
            (TOP, 0, stated("Spiniferites", situation="reworked")),
            (TOP, 1, stated("Cerodinium", situation="caved")),
            (TOP, 2, stated("Spiniferites", situation="in place")),
            (TOP, 3, "wood"),
            (TOP, 4, "cf. Azolla"),
            (TOP, 5, stated("Azolla", is_unsure=True)),
            (TOP, 6, "indet."),
            (TOP, 7, stated("Lycopodium", specimen="marker")),
        ],
    )
    computed = chart(run, labels)
    top = computed.well_samples.samples[0]
    assert top.apart == {
        **{"reworked": 1, "caved": 1, "wood": 1, "uncertain": 2, "without a name": 1, "marker": 1},
    }
    assert (top.labelled, top.objects) == (1, 73)
    assert computed.determined.sum() == 1
    (sample, *_) = csv.DictReader(well_tables(computed)["samples.csv"].decode().splitlines())
    assert (sample["reworked"], sample["caved"], sample["contaminant"]) == ("1", "1", "0")
    assert sample["labelled_apart"] == "marker 1; uncertain 2; without a name 1; wood 1"
    findings = " | ".join(describe_findings(computed))
    assert "counted apart, in no range and no assemblage: 1 reworked, 1 caved" in findings
    assert "2 labels with cf., aff., ? or a doubt name no taxon without it" in findings
    with_doubts = chart(run, labels, uncertain="train")
    assert with_doubts.determined[0, with_doubts.taxa.index("Azolla")] == 2
    assert chart(run, labels, leave_out=("wood",)).taxa == computed.taxa


def test_kinds_that_the_head_has_as_classes_are_counted_like_them(run: RunStore, tmp_path: Path) -> None:
    labels = label_objects(run, tmp_path / "labels", [(TOP, 0, "wood"), (TOP, 1, "dirt")])
    sample = TaxonSample("top", 2000.0, 1, 0, np.zeros(0, np.int64), 0, slide_ids=(TOP,))
    found = count_determinations(
        read_determinations(labels, run),
        [sample],
        ("Azolla", "wood"),
        con=None,
        well_slides=SLIDES,
        markers=[None],
        taxonomy=None,
        rank="genus",
    )
    assert dict(zip(found.names, found.counts[0].tolist(), strict=True)) == {"Azolla": 0, "wood": 1}
    assert found.apart == ({"dirt": 1},)


def test_ranks_synonyms_and_case_are_those_of_the_taxonomy(run: RunStore, tmp_path: Path) -> None:
    file = tmp_path / "taxa.csv"
    file.write_text(
        "species,genus,family,group,synonyms\n"
        "Deflandrea phosphoritica,Deflandrea,Deflandreaceae,Peridinioid,D. phos\n"
        ",Areoligera,Areoligeraceae,Gonyaulacoid,Areoligra\n"
        ",Glaphyrocysta,Areoligeraceae,Gonyaulacoid,\n"
    )
    labels = label_objects(
        run,
        tmp_path / "labels",
        [
            (TOP, 0, "Deflandrea phosphoritica"),
            (TOP, 1, "deflandrea"),
            (TOP, 2, "Areoligra"),
            (TOP, 3, "Areoligeraceae"),
            (TOP, 4, "Deflandrea cf. phosphoritica"),
        ],
    )
    computed = chart(run, labels, taxonomy=read_taxonomy(file))
    counted = dict(zip(computed.taxa, computed.determined[0].tolist(), strict=True))
    assert counted["Deflandrea"] == 3
    assert counted["Areoligera"] == 1
    assert counted["Areoligeraceae undetermined"] == 1
    assert computed.groups[computed.taxa.index("Areoligeraceae undetermined")] == "Gonyaulacoid"
    findings = " | ".join(describe_findings(computed))
    assert (
        "at a coarser rank than the chart's, in columns of their own: Areoligeraceae undetermined 1"
        in findings
    )


def test_labelled_grains_of_the_marker_give_concentrations_without_predictions(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    commit_slide(store, "a", count=90, well=WELL, depth_m=2000.0, seed=0, embeddings=False)
    samples = tmp_path / "samples.csv"
    samples.write_text(
        "slide_id,weight_g,marker,marker_tablets,grains_per_tablet,grains_per_tablet_sd\n"
        "a,10,Lycopodium,2,20000,1500\n"
    )
    run_command("samples", "import", store.url, samples)
    marker = stated("spore of the tablet", specimen="marker")
    labels = label_objects(
        store,
        tmp_path / "labels",
        [
            *(("a", number, "Azolla") for number in range(30)),
            *(("a", 30 + number, marker) for number in range(20)),
            *(("a", 50 + number, "lycopodium") for number in range(40)),
        ],
    )
    computed = chart(store, labels)
    assert computed.taxa == ("Azolla",)
    assert computed.concentrations is not None
    np.testing.assert_allclose(computed.concentrations.values[0], 30 / 60 * 2 * 20_000 / 10)
    assert computed.concentrations.markers.tolist() == [60]


@pytest.mark.parametrize("head", [None, "none"])
def test_an_experts_counts_and_another_well_are_compared_with_labels(
    run: RunStore, tmp_path: Path, head: str | None
) -> None:
    labelled = [
        (slide, number, TAXA[number % 2] if row < 3 else TAXA[number % 3])
        for row, slide in enumerate(SLIDES)
        for number in range(60)
    ]
    computed = chart(run, label_objects(run, tmp_path / "labels", labelled), head=head)
    file = tmp_path / "counts.csv"
    lines = [
        f"{depth:g},{taxon},{count}"
        for depth in TRUTH.depths
        for taxon, count in ((TAXA[0], 30), (TAXA[1], 30))
    ]
    file.write_text("\n".join(["measured_depth_m,taxon,count", *lines]))
    compared = compare_with_expert(run, computed, read_expert_counts(file))
    assert compared.specimens.sum() == 360
    assert compared.agrees[:3].all()
    other = replace(computed, well_samples=replace(computed.well_samples, well="other"))
    matched = match_wells(computed, other, match_distance=0.15)
    assert len(matched.depths) == 6


def test_contradicting_labels_leave_an_object_to_its_prediction(run: RunStore, tmp_path: Path) -> None:
    labels = label_objects(run, tmp_path / "labels", [(TOP, 0, "Azolla"), (TOP, 1, "Azolla")])
    label_objects(run, labels, [(TOP, 0, "Botryococcus"), (TOP, 1, "Azolla")], who="Ben")
    computed = chart(run, labels)
    assert computed.determined.sum() == 1
    assert computed.well_samples.samples[0].objects == 80
    assert "1 objects have labels that contradict each other" in " | ".join(describe_findings(computed))


def test_labels_of_an_earlier_attempt_are_found_by_their_position(run: RunStore, tmp_path: Path) -> None:
    objects = [(TOP, number, "Azolla") for number in range(9)]
    labels = label_objects(run, tmp_path / "labels", objects, attempt="earlier")
    computed = chart(run, labels)
    found = computed.well_samples.determined
    assert found is not None
    assert found.determinations.moved == 9
    assert computed.determined[0, computed.taxa.index("Azolla")] == 9
    assert computed.well_samples.samples[0].objects == 80


def test_labels_follow_their_slide_into_another_well(run: RunStore, tmp_path: Path) -> None:
    labels = label_objects(run, tmp_path / "labels", [(TOP, 0, "Azolla"), (SLIDES[1], 0, "Azolla")])
    moved = replace(chart(run, labels).options, depths={TOP: 2100.0})
    computed = compute_chart(run, WELL, moved)
    row = [sample.depth_m for sample in computed.well_samples.samples].index(2100.0)
    assert computed.determined[row, computed.taxa.index("Azolla")] == 1


def test_report_and_chart_have_the_same_numbers(run: RunStore, tmp_path: Path) -> None:
    labels = label_objects(run, tmp_path / "labels", [(TOP, number, "Azolla") for number in range(31)])
    page = write_report(run, tmp_path / "report.html", labels=labels).read_text("utf-8")
    for total in chart(run, labels).counts.ravel():
        assert f">{total:,.0f}<" in page or total < 0.5
    assert "label set labels, version 1: 31 objects determined in 1 of 6 samples" in page
    assert "counts are corrected by the classifier" in page
    assert "determined by an expert" in page
