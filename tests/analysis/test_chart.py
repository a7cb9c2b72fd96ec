"""The command `chart` on a well of known assemblages: figures, tables, and invalid input."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from support.cli_runner import rows_of, run_command
from support.small_run import commit_slide, write_small_run
from support.synthetic_well import TAXA, WELL, make_truth, predictions_table, start_run, write_well

from fossilray.analysis.stratigraphy.chart import ChartOptions, WellChart, compute_chart
from fossilray.analysis.stratigraphy.page import describe_findings
from fossilray.analysis.stratigraphy.samples import read_depths
from fossilray.analysis.stratigraphy.tables import well_tables
from fossilray.analysis.stratigraphy.taxon_grouping import group_taxa
from fossilray.core.errors import UsageError
from fossilray.labels.taxonomy import read_taxonomy
from fossilray.store import RunStore
from fossilray.store.derived.derived_store import DerivedStore

OTHER = "6407/7-1"
TRUTH = make_truth(samples=12)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    store = start_run(tmp_path_factory.mktemp("well") / "run")
    predictions = write_well(store, TRUTH, objects=90, barren=(5,))
    shallower = replace(TRUTH, depths=TRUTH.depths - 300)
    write_well(store, shallower, well=OTHER, objects=60, predictions=predictions, seed=40)
    return store


def chart(run: RunStore | str, out: Path, *more: str, well: str = WELL) -> str:
    url = run if isinstance(run, str) else run.url
    return run_command("chart", url, "--well", well, "--out", out, *more)


def tables(run: RunStore, folder: Path, **options: Any) -> WellChart:
    """Write only the tables of a chart, without figures."""
    computed = compute_chart(run, WELL, ChartOptions(**options))
    folder.mkdir(exist_ok=True)
    for name, content in well_tables(computed).items():
        (folder / name).write_bytes(content)
    return computed


def test_counts_of_a_known_well_are_recovered_within_the_stated_intervals(
    run: RunStore, tmp_path: Path
) -> None:
    output = chart(run, tmp_path)
    assert "12 samples of well 6407/6-5, 990 objects classified by genera, 6 taxa" in output
    assert "corrected by the classifier's confusion matrix (360 validation crops, accuracy" in output
    assert "1 sample is barren: 2062.5 m" in output
    assert "3 zones by the broken-stick model" in output
    held, false_occurrences = [], 0
    for row in rows_of(tmp_path / "intervals.csv"):
        sample = int(np.flatnonzero(float(row["measured_depth_m"]) == TRUTH.depths)[0])
        expected = 90 * TRUTH.shares[sample, TAXA.index(row["taxon"])]
        held.append(float(row["count_low"]) - 0.05 <= expected <= float(row["count_high"]) + 0.05)
        false_occurrences += row["is_certain"] == "True" and expected == 0
    assert len(held) == 11 * 6
    assert np.mean(held) >= 0.9
    assert false_occurrences <= 1, "an absent taxon has occurrences"


def test_the_folder_holds_charts_tables_and_a_page(run: RunStore, tmp_path: Path) -> None:
    chart(run, tmp_path / "one", "--match", OTHER)
    chart(run, tmp_path / "two", "--match", OTHER)
    names = {path.name for path in (tmp_path / "one").iterdir()}
    pictures = {
        f"{name}.{form}"
        for name in ("percent", "counts", "rarefaction", "correlation")
        for form in ("svg", "png")
    }
    tables = {"counts", "percent", "called", "intervals", "samples", "ranges", "zones", "correlation"}
    assert names == pictures | {f"{name}.csv" for name in tables} | {"chart.html"}
    for name in sorted(names):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    for name in ("percent.png", "correlation.png"):
        assert min(Pillow.open(tmp_path / "one" / name).size) > 500
    svg = (tmp_path / "one" / "percent.svg").read_text("utf-8")
    for text in (*TAXA, "2,000", "Measured depth, m", "barren", "Z1", "Z3", "CONISS", "Well 6407/6-5"):
        assert f">{text}<" in svg
    html = (tmp_path / "one" / "chart.html").read_text("utf-8")
    assert "http:" not in html.replace("http://www.w3.org", "")
    assert html.count("data:image/svg+xml") == 4
    assert "<th>Measured depth, m</th><th>Top, m</th><th>Base, m</th><th>Type</th><th>Slides</th>" in html
    HTMLParser().feed(html)


def test_diversity_and_rarefaction_are_not_drawn_without_a_well_sampled_sample(
    run: RunStore, tmp_path: Path
) -> None:
    chart(run, tmp_path, "--min-objects", "100000")
    names = {path.stem for path in tmp_path.iterdir()}
    assert "rarefaction" not in names
    assert "Shannon" not in (tmp_path / "percent.svg").read_text("utf-8")
    assert "richness is not rarefied" in (tmp_path / "chart.html").read_text("utf-8")


def test_the_matrix_has_taxa_down_and_depths_across_by_last_occurrence(run: RunStore, tmp_path: Path) -> None:
    tables(run, tmp_path)
    lines = list(csv.reader(io.StringIO((tmp_path / "counts.csv").read_text("utf-8"))))
    assert lines[0] == ["taxon", "group", *(f"{depth:g}" for depth in TRUTH.depths)]
    assert {line[0] for line in lines[1:]} == set(TAXA)
    # Deflandrea and Wetzeliella reach the top; Cerodinium and Palaeoperidinium end in the lowest zone.
    assert {line[0] for line in lines[1:3]} == {"Deflandrea", "Wetzeliella"}
    assert {line[0] for line in lines[-2:]} == {"Cerodinium", "Palaeoperidinium"}
    percent = np.array([line[2:] for line in csv.reader((tmp_path / "percent.csv").open())][1:], float)
    totals = percent.sum(axis=0)
    np.testing.assert_allclose(np.delete(totals, 5), 100, atol=0.1)
    assert totals[5] == 0
    tables(run, tmp_path, order="name")
    assert [row["taxon"] for row in rows_of(tmp_path / "counts.csv")] == sorted(TAXA)


def test_table_of_samples_states_their_condition(run: RunStore, tmp_path: Path) -> None:
    chart(run, tmp_path, "--zones", "2", "--min-objects", "20")
    samples = rows_of(tmp_path / "samples.csv")
    assert "barren" in samples[5]["state"]
    assert samples[5]["shannon"] == ""
    assert {row["zone"] for row in samples} == {"Z1", "Z2", ""}
    assert {row["rarefied_to"] for row in samples} == {"90"}
    # Slides of the fixture have tiles that failed.
    assert "lossy" in samples[0]["state"]
    assert float(samples[0]["lost_percent"]) > 0
    few = tables(run, tmp_path, min_objects=91)
    assert "no zones: 4 samples of 91 objects and two taxa are needed" in set(describe_findings(few))
    assert "few objects" in rows_of(tmp_path / "samples.csv")[0]["state"]


def test_two_wells_match_zone_by_zone(run: RunStore, tmp_path: Path) -> None:
    assert "pairs of samples match" in chart(run, tmp_path, "--match", OTHER)
    zone = np.arange(12) * 3 // 12
    for row in rows_of(tmp_path / "correlation.csv"):
        first = zone[TRUTH.depths == float(row["first_depth_m"])]
        second = zone[TRUTH.depths - 300 == float(row["second_depth_m"])]
        assert first == second
    with pytest.raises(UsageError, match="cannot be correlated with itself"):
        chart(run, tmp_path, "--match", WELL)


def test_intervals_without_a_confusion_matrix_hold_sampling_error_only(run: RunStore, tmp_path: Path) -> None:
    plain = tables(run, tmp_path / "plain", is_corrected=False)
    assert "counts are not corrected and intervals hold sampling error only (--raw-counts)" in set(
        describe_findings(plain)
    )
    for row in rows_of(tmp_path / "plain" / "intervals.csv"):
        assert float(row["count"]) == int(row["predicted"])
    bare = start_run(tmp_path / "run")
    write_well(bare, make_truth(samples=3), objects=12, with_confusion=False)
    assert any(
        "the classifier has no confusion matrix" in sentence
        for sentence in describe_findings(tables(bare, tmp_path / "bare"))
    )
    table = tmp_path / "confusion.csv"
    lines = [",".join(["", *TAXA]), *(f"{name},{','.join('0' * 6)}" for name in TAXA)]
    table.write_text("\n".join(lines))
    assert "(0 validation crops" in chart(bare, tmp_path / "zero", "--confusion", str(table))
    with pytest.raises(UsageError, match="contradict each other"):
        chart(bare, tmp_path / "both", "--confusion", str(table), "--raw-counts")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has no rows"),
        (",a,b\na,1,2\n", "classes of its rows and columns differ in b"),
        (",a,b\na,1,2\nb,1\n", "line 3: '' is not a count"),
        (",a,b\na,1,-2\nb,1,1\n", "line 2: '-2' is not a count"),
        (",a,b\na,1,2\nb,1,1\n", "the confusion matrix has no class Areoligera"),
    ],
)
def test_an_invalid_confusion_matrix_or_one_of_other_classes_is_refused(
    run: RunStore, tmp_path: Path, text: str, reason: str
) -> None:
    (tmp_path / "confusion.csv").write_text(text)
    with pytest.raises(UsageError, match=reason):
        chart(run, tmp_path / "out", "--confusion", str(tmp_path / "confusion.csv"))


def test_depths_and_confusion_as_a_spreadsheet_with_decimal_commas_writes_them(
    run: RunStore, tmp_path: Path
) -> None:
    depths, confusion = tmp_path / "depths.csv", tmp_path / "confusion.csv"
    depths.write_text("\ufeffslide_id;measured_depth_m\r\n6407-6-5-2000;2012,5\r\n;\r\n", encoding="utf-8")
    lines = [
        ["", *TAXA],
        *([name, *("10,0" if other == name else "0" for other in TAXA)] for name in TAXA),
    ]
    confusion.write_text("\r\n".join(map(";".join, lines)), encoding="utf-8")
    output = chart(run, tmp_path / "out", "--depths", str(depths), "--confusion", str(confusion))
    assert "(60 validation crops, accuracy 100.0 %)" in output
    assert "slides of equal depth are pooled into one sample at 2012.5 m" in output


def test_missing_and_equal_depths(run: RunStore, tmp_path: Path) -> None:
    table = tmp_path / "depths.csv"
    table.write_text("slide_id,measured_depth_m\n6407-6-5-2000,2012.5\n")
    pooled = "; ".join(describe_findings(tables(run, tmp_path, depths=read_depths(table))))
    assert "11 samples of well" in pooled
    assert "slides of equal depth are pooled into one sample at 2012.5 m" in pooled
    assert rows_of(tmp_path / "samples.csv")[0]["objects"] == "180"
    for text, reason in (
        ("slide_id,measured_depth_m\na,1\na,2\n", "line 3: slide a has two depths, 1 and 2 m"),
        ("slide_id,measured_depth_m\na,deep\n", "line 2: measured_depth_m is 'deep', not a number"),
        ("slide_id,measured_depth_m\nnowhere,7\n", "name nowhere, which .* does not have"),
        ("slide,depth\na,1\n", "no column slide_id, measured_depth_m; its columns: slide, depth"),
    ):
        table.write_text(text)
        with pytest.raises(UsageError, match=reason):
            chart(run, tmp_path, "--depths", str(table))
    partly = start_run(tmp_path / "partly")
    predictions = write_well(partly, make_truth(samples=2), objects=10)
    commit_without_depth(partly, predictions, "undated")
    assert "left out, without a measured depth: 1 slide, undated" in "; ".join(
        describe_findings(tables(partly, tmp_path / "p"))
    )
    without = start_run(tmp_path / "none")
    predictions = write_well(without, make_truth(samples=1), well="another", objects=5)
    commit_without_depth(without, predictions, "undated")
    with pytest.raises(UsageError, match=r"no slide of well .* has a measured depth.*--depths"):
        chart(without, tmp_path / "n")


def commit_without_depth(store: RunStore, predictions: DerivedStore, slide_id: str) -> None:
    commit_slide(store, slide_id, count=6, well=WELL, depth_m=None, seed=9, embeddings=False)
    footer = store.footer(slide_id)
    assert footer is not None
    table = predictions_table(slide_id, np.array(TAXA))
    predictions.commit(slide_id, WELL, table, source_attempt=footer.attempt)


def test_a_missing_well_and_missing_predictions_are_named(run: RunStore, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no committed slides of well 'nowhere'; it has 6407/6-5, 6407/7-1"):
        chart(run, tmp_path, well="nowhere")
    with pytest.raises(UsageError, match="no predictions named other"):
        chart(run, tmp_path, "--predictions", "other")
    unclassified = write_small_run(tmp_path / "run")
    with pytest.raises(UsageError, match="has no predictions; run `fossilray classify run"):
        chart(unclassified, tmp_path)


def test_one_sample_of_one_class_is_drawn(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    truth = make_truth(samples=1)
    only = replace(truth, shares=np.eye(6)[:1], confused=np.eye(6), validation=np.eye(6, dtype=np.int64) * 50)
    write_well(store, only, objects=60)
    output = chart(store, tmp_path / "out")
    assert "no zones" in output
    assert ">Areoligera<" in (tmp_path / "out" / "percent.svg").read_text("utf-8")
    assert [row["taxon"] for row in rows_of(tmp_path / "out" / "counts.csv")] == ["Areoligera"]


def test_a_barren_well_is_drawn_and_reported(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    write_well(store, make_truth(samples=2), objects=5, barren=(0, 1))
    assert "2 samples are barren" in chart(store, tmp_path / "out")
    assert (tmp_path / "out" / "percent.svg").read_text("utf-8").count(">barren<") == 2


TAXONOMY = """species,genus,group,synonyms
,Areoligera,Gonyaulacoid,
,Glaphyrocysta,Gonyaulacoid,
,Cerodinium,Peridinioid,
,Deflandrea,Peridinioid,Cerodinium_old; Palaeoperidinium
Apectodinium augustum,Apectodinium,Peridinioid,wetzeliella|Wetzelia
"""


def test_a_taxonomy_groups_labels_and_the_chart_lists_what_it_merged(run: RunStore, tmp_path: Path) -> None:
    path = tmp_path / "taxonomy.csv"
    path.write_text(TAXONOMY)
    output = chart(run, tmp_path / "genus", "--taxonomy", str(path))
    assert "Apectodinium includes Wetzeliella" in output
    assert "Deflandrea includes Palaeoperidinium" in output
    counts = {row["taxon"]: row for row in rows_of(tmp_path / "genus" / "called.csv")}
    assert set(counts) == {"Areoligera", "Glaphyrocysta", "Cerodinium", "Deflandrea", "Apectodinium"}
    assert counts["Deflandrea"]["group"] == "Peridinioid"
    tables(run, tmp_path / "plain", is_corrected=False)
    plain = {row["taxon"]: row for row in rows_of(tmp_path / "plain" / "called.csv")}
    for depth in ("2000", "2137.5"):
        assert int(counts["Deflandrea"][depth]) == int(plain["Deflandrea"][depth]) + int(
            plain["Palaeoperidinium"][depth]
        )
    chart(run, tmp_path / "group", "--taxonomy", str(path), "--rank", "group", "--leave-out", "gonyaulacoid")
    assert [row["taxon"] for row in rows_of(tmp_path / "group" / "counts.csv")] == ["Peridinioid"]
    with pytest.raises(UsageError, match="debris is not a label, taxon or group here"):
        chart(run, tmp_path / "x", "--leave-out", "debris")


def test_yaml_is_read_like_csv_and_unknown_labels_keep_their_names(tmp_path: Path) -> None:
    path = tmp_path / "taxonomy.yaml"
    path.write_text(
        "- {genus: Deflandrea, group: Peridinioid, synonyms: [Cerodinium old]}\n- {species: A b, genus: A}\n"
    )
    grouping = group_taxa(["cerodinium_old", "Deflandrea", "A b", "Stray"], read_taxonomy(path))
    assert grouping.taxa == ("Deflandrea", "A", "Stray")
    assert grouping.taxon_of_label == (0, 0, 1, 2)
    assert grouping.unknown == ("Stray",)
    assert grouping.merged == (("A", ("A b",)), ("Deflandrea", ("cerodinium_old",)))
    assert group_taxa(["A b"], read_taxonomy(path), rank="species").taxa == ("A b",)


def invalid_taxonomies() -> Iterator[tuple[str, str]]:
    yield "species,genus,group,synonyms\n,A,,x\n,B,,x\n", "gives 'x' to A and to B"
    yield (
        "species,genus,group,synonyms\nA b,A,one,\nA c,A,two,\n",
        "puts the genus A into 'one' and into 'two'",
    )
    yield "species,genus,group,synonyms\n,,one,\n", "line 2: it names neither a species nor a genus"
    yield "name,genus\na,b\n", "has the column 'name'; known are species, genus"
    yield "", "contains no taxa"


@pytest.mark.parametrize(("text", "reason"), invalid_taxonomies())
def test_a_taxonomy_that_contradicts_itself_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "taxonomy.csv").write_text(text)
    with pytest.raises(UsageError, match=reason):
        read_taxonomy(tmp_path / "taxonomy.csv")
