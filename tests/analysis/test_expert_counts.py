"""`chart --expert`: tables of human counts in their layouts, what of them is refused, and what a user gets."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow
from support.cli_runner import invoke, rows_of, run_command
from support.synthetic_well import TAXA, WELL, make_truth, start_run, write_well

from fossilray.analysis.stratigraphy.chart import ChartOptions, WellChart, compute_chart
from fossilray.analysis.stratigraphy.expert.counts import read_expert_counts
from fossilray.analysis.stratigraphy.expert.matching import MatchedCounts, match_counts
from fossilray.core.errors import UsageError
from fossilray.labels.taxonomy import read_taxonomy
from fossilray.store import RunStore

TRUTH = make_truth(samples=8, crops=200)
SLIDES = [f"{WELL.replace('/', '-')}-{depth:g}" for depth in TRUTH.depths]
MISSED = TAXA.index("Glaphyrocysta")


def expert_counts() -> NDArray[np.int64]:
    """300 specimens a sample; the expert misses Glaphyrocysta, 60 % of the zone, in one of them."""
    seen = TRUTH.shares.copy()
    seen[4, MISSED] = 0
    seen /= seen.sum(axis=1, keepdims=True)
    rng = np.random.default_rng(2)
    return np.stack([rng.multinomial(300, share) for share in seen])


COUNTS = expert_counts()
LONG = [
    {"slide_id": slide, "taxon": taxon, "count": int(COUNTS[row, column])}
    for row, slide in enumerate(SLIDES)
    for column, taxon in enumerate(TAXA)
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    store = start_run(tmp_path_factory.mktemp("well") / "run")
    write_well(store, TRUTH, objects=150)
    return store


@pytest.fixture(scope="module")
def chart(run: RunStore) -> WellChart:
    return compute_chart(run, WELL, ChartOptions())


def written(folder: Path, text: str) -> Path:
    path = folder / "expert.csv"
    path.write_text(text, "utf-8")
    return path


def matched(chart: WellChart, path: Path) -> MatchedCounts:
    wells = dict.fromkeys(SLIDES, WELL) | {"elsewhere": "6407/7-1"}
    return match_counts(chart, read_expert_counts(path), well_of_slide=wells)


def refusal(chart: WellChart, folder: Path, text: str) -> str:
    with pytest.raises(UsageError) as caught:
        matched(chart, written(folder, text))
    return str(caught.value)


def test_every_layout_and_format_gives_the_same_counts(chart: WellChart, tmp_path: Path) -> None:
    by_slide = tmp_path / "long.parquet"
    pq.write_table(pa.Table.from_pylist(LONG), by_slide)
    by_depth = tmp_path / "long.csv"
    with by_depth.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(("Well", "Measured_depth_m", "Taxon", "Count"))
        writer.writerows(
            (WELL, f"{depth:g}", taxon.upper(), COUNTS[row, column])
            for row, depth in enumerate(TRUTH.depths)
            for column, taxon in enumerate(TAXA)
        )
    samples_down = tmp_path / "samples.csv"
    with samples_down.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("top", "base", "depth_unit", "remark", *TAXA))
        writer.writerows(
            (
                f"{depth / 0.3048:.3f}",
                f"{depth / 0.3048:.3f}",
                "ft",
                "a",
                *(count or "" for count in COUNTS[row]),
            )
            for row, depth in enumerate(TRUTH.depths)
        )
    taxa_down = tmp_path / "taxa.csv"
    with taxa_down.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("taxon", "group", *SLIDES[:2], *(f"{depth:g}" for depth in TRUTH.depths[2:])))
        writer.writerows((taxon, "", *COUNTS[:, column]) for column, taxon in enumerate(TAXA))
    for path in (by_slide, by_depth, samples_down, taxa_down):
        found = matched(chart, path)
        assert found.rows == tuple(range(8)), path
        order = [TAXA.index(chart.grouping.taxa[taxon]) for taxon in found.taxa]
        assert sorted(order) == list(range(6)), path
        np.testing.assert_array_equal(found.specimens, COUNTS[:, order], str(path))
        assert not found.notes, path


def test_the_missed_taxon_is_to_be_recounted_and_the_page_shows_it(run: RunStore, tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(LONG), tmp_path / "expert.parquet")
    output = run_command(
        "chart", run.url, "--well", WELL, "--expert", tmp_path / "expert.parquet", "--out", tmp_path / "out"
    )
    assert "2,400 specimens of 6 taxa in 8 samples compared" in output
    assert "recount these (false discovery rate 5 %): Glaphyrocysta at 2050 m, 0 counted where" in output
    out = tmp_path / "out"
    recounts = rows_of(out / "recount.csv")
    assert (recounts[0]["taxon"], recounts[0]["specimens"], recounts[0]["slides"]) == (
        "Glaphyrocysta",
        "0",
        SLIDES[4],
    )
    cells = rows_of(out / "expert.csv")
    assert len(cells) == 8 * 6
    assert sum(int(cell["specimens"]) for cell in cells) == 2400
    others = [cell["agrees"] == "True" for cell in cells if cell["measured_depth_m"] != "2050"]
    assert np.mean(others) >= 0.9
    of_taxa = {row["taxon"]: row for row in rows_of(out / "expert_taxa.csv")}
    assert float(of_taxa["Glaphyrocysta"]["bias_low"]) > 0
    correlations = {
        row["measure"]: float(row["correlation"]) for row in rows_of(out / "expert_correlation.csv")
    }
    assert correlations.keys() == {"Procrustes", "PCA axis 1", "PCA axis 2"}
    html = (out / "chart.html").read_text("utf-8")
    assert "<h2>Beside the expert</h2>" in html
    assert "Glaphyrocysta at 2050 m, 0 counted where" in html
    assert min(Pillow.open(out / "expert.png").size) > 500


def test_taxa_and_samples_that_only_one_count_has_are_named_with_line_and_remedy(
    chart: WellChart, tmp_path: Path
) -> None:
    found = matched(
        chart,
        written(
            tmp_path,
            "well,measured_depth_m,taxon,count\n,2000,Areoligera,5\n,2000,Wetzeliela,7\n,2013,Areoligera,4\n"
            "6407/7-1,2000,Areoligera,3\n,2000,Deflandrea,20\n",
        ),
    )
    assert found.specimens.tolist() in ([[5, 20]], [[20, 5]])
    notes = " | ".join(found.notes)
    assert (
        "taxa that the chart does not have, which are not compared: Wetzeliela (line 3, 7 specimens, is it"
        in notes
    )
    assert "is it Wetzeliella?); correct the names, or give --taxonomy" in notes
    assert "counts samples that well 6407/6-5 does not have here: 2013 m (line 4); correct" in notes
    assert "does not list" in notes
    assert "1 count of other wells are skipped" in notes


def test_synonyms_are_summed_and_species_are_of_their_genus(run: RunStore, tmp_path: Path) -> None:
    path = tmp_path / "taxa.csv"
    path.write_text("species,genus,group,synonyms\n,Wetzeliella,,W. articulata; W. meckelfeldensis\n")
    grouped = compute_chart(run, WELL, ChartOptions(taxonomy=read_taxonomy(path), leave_out=("Areoligera",)))
    found = matched(
        grouped,
        written(
            tmp_path,
            f"slide_id,W. articulata,w. meckelfeldensis,Deflandrea phosphoritica,Areoligera\n{SLIDES[0]},3,4,5,6\n",
        ),
    )
    taxa = [grouped.grouping.taxa[taxon] for taxon in found.taxa]
    assert dict(zip(taxa, found.specimens[0].tolist(), strict=True)) == {"Wetzeliella": 7, "Deflandrea": 5}
    assert any(
        note.startswith("left out of both counts, as of the chart: Areoligera") for note in found.notes
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it has no counts"),
        ("slide_id,taxon,count\n", "it has no counts"),
        ("slide_id,taxon,count\na,Areoligera,-3\n", "line 2: count is -3; a count is 0 or more"),
        ("slide_id,taxon,count\na,Areoligera,12.5\n", "line 2: count is '12.5', not a whole number"),
        ("slide_id,taxon,count\na,Areoligera,\n", "line 2: the count of Areoligera is empty; write 0"),
        ("slide_id,taxon,count\na,,3\n", "line 2: taxon is empty"),
        ("slide_id,Areoligera\na,many\n", "line 2: Areoligera is 'many', not a number"),
        ("top,base,Areoligera\n2040,2030,3\n", "line 2: the interval 2040 to 2030 m is upside down"),
        ("top,base,Areoligera\n2040,,3\n", "line 2: only one of top and base is given"),
        ("Areoligera,Deflandrea\n1,2\n", "line 2: no sample is stated; give slide_id"),
        ("slide_id,well\na,b\n", "it has no column of counts"),
        ("depth,taxon,count\n2000,Areoligera,3\n2000.0,areoligera,4\n", "areoligera of 2000 m is counted twice, here"),
        ("depth,taxon,count\n1234,Areoligera,3\n", "line 2: no sample is in common: 1234 m is none of well 6407/6-5"),
        ("slide_id,taxon,count\nelsewhere,Areoligera,3\n", "no sample is in common"),
        ("depth,taxon,count\n2000,Quercus,3\n", "line 2: no taxon is in common: Quercus is none of Areoligera"),
        ("depth,taxon,count\n2000,Areoligera,0\n", "no sample has both specimens"),
        ("depth,taxon,count\n90000,Areoligera,0\n", "line 2: depth is '90000', not between"),
    ],
)  # fmt: skip
def test_unusable_counts_are_refused_with_line_and_remedy(
    chart: WellChart, tmp_path: Path, text: str, reason: str
) -> None:
    message = refusal(chart, tmp_path, text)
    assert reason in message
    assert "expert.csv" in message
    assert "give numbers of specimens" in message


def test_a_sample_counted_by_slide_and_by_depth_is_refused(chart: WellChart, tmp_path: Path) -> None:
    message = refusal(
        chart, tmp_path, f"slide_id,depth,taxon,count\n{SLIDES[0]},,Areoligera,3\n,2000,Areoligera,4\n"
    )
    assert "Areoligera of 2000 m is counted twice, here and in line 2; leave one of them" in message


def test_the_command_names_the_file_and_ends_without_a_page(run: RunStore, tmp_path: Path) -> None:
    path = written(tmp_path, "slide_id,taxon,count\na,Areoligera,0.4\n")
    result = invoke("chart", run.url, "--well", WELL, "--expert", path, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "expert.csv (counts of an expert)" in str(result.exception)
    assert "line 2: count is '0.4', not a whole number" in str(result.exception)
    assert not (tmp_path / "out").exists()
