"""The report's section on predicted genera: range charts, and contact sheets of each genus."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from analysis.test_report import Page
from support.classified_run import GENERA, made_up_predictions, predict
from support.small_run import COUNTS, HOSTILE_WELL, WELL, commit_slide, start_run, write_small_run

from fossilray.analysis.report import write_report
from fossilray.analysis.report.range_chart_svg import MAX_TAXA, draw_range_chart
from fossilray.analysis.stratigraphy.assemblages import Assemblages, gather_assemblages
from fossilray.analysis.stratigraphy.chart import ChartOptions, WellChart, chart_samples
from fossilray.analysis.stratigraphy.samples import CountSources, WellSample, WellSamples, samples_of_slides
from fossilray.core.errors import RunNotFound
from fossilray.store import RunStore
from fossilray.store.derived.listing import DerivedListing, latest_predictions
from fossilray.store.query.connection import connect, create_objects_view, run_query

HOSTILE = "<b>Alnus</b> & 'Co'"


def a_sample(label: str, depth_m: float, *, objects: int, classified: int = 1) -> WellSample:
    return WellSample(
        label, depth_m, depth_m, depth_m, None, None, None, has_mixed_spikes=False, slides=1,
        classified=classified, objects=objects, unclassified=0, lost_share=0.0,
    )  # fmt: skip


def a_well(*counts: tuple[int, ...], taxa: tuple[str, ...] = GENERA, unclassified: int = 0) -> WellChart:
    """A chart of samples with these counts; the last ones are not classified."""
    samples = [
        a_sample(f"s{row}", 2000.0 + 10 * row, objects=sum(own), classified=row < len(counts) - unclassified)
        for row, own in enumerate(counts)
    ]
    listing = DerivedListing(FakePredictions(), {})  # type: ignore[arg-type]
    well = WellSamples(
        "6407/6-5", listing, taxa, tuple(samples), np.array(counts).reshape(len(counts), -1), ()
    )
    return chart_samples(well, ChartOptions())


class FakePredictions:
    class record:  # noqa: N801
        head = None


def chart_of(run: RunStore, well: str) -> WellChart:
    slides = [summary for summary in run.summaries() if summary.well == well]
    samples = samples_of_slides(run, slides, latest_predictions(run, None), CountSources())
    return chart_samples(samples, ChartOptions(order="abundance"))


def assemblages_of(run: RunStore, well: str) -> Assemblages:
    con, chosen = connect(run), latest_predictions(run, None)
    assert chosen is not None
    create_objects_view(con, run, run.committed_files(), genera=chosen)
    slides = [summary for summary in run.summaries() if summary.well == well]
    return gather_assemblages(con, slides, chosen.files.keys())


def test_counts_are_those_of_the_predictions_from_the_top_down(tmp_path: Path) -> None:
    run = write_small_run(tmp_path / "run")
    predict(run, "genera")
    chart = assemblages_of(run, WELL)
    assert [sample.depth_m for sample in chart.samples] == [2030.0, 2050.0, 2080.0]
    for sample, slide_id in zip(chart.samples, ("a-2030", "b-2050", "c-2080"), strict=True):
        found = run_query(run, f"SELECT genus FROM predictions WHERE slide_id = '{slide_id}'")
        genera = found["genus"].to_pylist()
        assert sample.counts.tolist() == [genera.count(taxon) for taxon in chart.taxa]
        assert sample.unclassified == 1, "the object whose pixels could not be read has no taxon"


def test_taxa_are_ordered_by_depth(tmp_path: Path) -> None:
    run = start_run(tmp_path / "run")
    for slide_id, depth_m in (("a-2030", 2030.0), ("b-2050", 2050.0)):
        commit_slide(run, slide_id, count=9, well=WELL, depth_m=depth_m, seed=1)
    predict(run, "genera", slides=["a-2030"], genera=["Young", "Old"])
    predictions = latest_predictions(run, None)
    footer = run.footer("b-2050")
    assert predictions is not None
    assert footer is not None
    only_old = made_up_predictions("b-2050", 9, ["Old"], seed=0)
    predictions.results.commit("b-2050", WELL, only_old, source_attempt=footer.attempt)
    assert assemblages_of(run, WELL).taxa == ("Young", "Old")


def test_a_chart_distinguishes_barren_samples_from_unclassified_ones() -> None:
    chart = a_well((3, 1, 1), (0, 0, 0), (0, 0, 0), unclassified=1)
    svg = draw_range_chart(chart, name="one")
    assert svg.count(">barren<") == 1
    assert svg.count(">not classified yet<") == 1
    for text in (*GENERA, "2,010", "Measured depth, m", "Objects counted"):
        assert f">{text}<" in svg


def test_samples_without_depths_are_in_the_order_of_their_slides(tmp_path: Path) -> None:
    run = start_run(tmp_path / "run")
    for seed, slide_id in enumerate(("c-2080", "a-2030", "b-2050")):
        commit_slide(run, slide_id, count=8 + seed, well=WELL, depth_m=None, seed=seed)
    predict(run, "genera")
    chart = chart_of(run, WELL)
    assert not chart.well_samples.has_depths
    assert [sample.label for sample in chart.well_samples.samples] == ["a-2030", "b-2050", "c-2080"]
    mean = chart.estimate.shares.mean(axis=0)
    assert (np.diff(mean) <= 1e-9).all()
    write_report(run, tmp_path / "report.html")
    assert "no depth is known, so samples are slides" in (tmp_path / "report.html").read_text("utf-8")


@pytest.mark.parametrize("taxa", [1, MAX_TAXA, 70])
def test_any_number_of_taxa_is_drawn(taxa: int) -> None:
    names = tuple(f"genus {number}" for number in range(taxa))
    counts = tuple(range(1, taxa + 1))
    svg = draw_range_chart(a_well(counts, counts, taxa=names), name="n")
    if taxa > MAX_TAXA:
        assert f">{taxa - MAX_TAXA} rarer taxa<" in svg
        assert f">genus {taxa - 1}<" in svg
        assert ">genus 0<" not in svg
    else:
        assert svg.count(">genus ") == taxa


def test_the_page_shows_the_newest_head_or_the_one_named(tmp_path: Path) -> None:
    run = write_small_run(tmp_path / "run")
    predict(run, "a-head", genera=["Alnus", HOSTILE])
    predict(run, "b-head", genera=GENERA, slides=["a-2030"])
    html = write_report(run, tmp_path / "newest.html").read_text("utf-8")
    assert "<code>b-head</code>" in html
    assert "run on 1 of 4 slides" in html
    page = Page(write_report(run, tmp_path / "named.html", head="a-head").read_text("utf-8"))
    assert page.unclosed == []
    assert "genera" in [value for tag, name, value in page.attributes if (tag, name) == ("section", "id")]
    assert HOSTILE in page.text
    assert page.text.count("Highest probability of") == 2
    assert f"{WELL}" in page.text
    with pytest.raises(RunNotFound, match="no predictions named c-head; it has: a-head, b-head"):
        write_report(run, tmp_path / "none.html", head="c-head")


def test_the_most_and_least_probable_objects_of_a_genus_are_shown(tmp_path: Path) -> None:
    run = write_small_run(tmp_path / "run")
    predict(run, "genera", genera=["Alnus", "Betula"])
    page = Page(write_report(run, tmp_path / "report.html").read_text("utf-8"))
    for genus in ("Alnus", "Betula"):
        for order in ("DESC", "ASC"):
            row = run_query(
                run,
                f"SELECT slide_id, object_id, score, genus_2 FROM predictions WHERE genus = '{genus}' "
                f"ORDER BY score {order}, slide_id, object_id LIMIT 1",
            ).to_pylist()[0]
            assert ("figure", "title", f"{row['slide_id']} #{row['object_id']}") in page.attributes
            assert f"{100 * row['score']:.0f} %, else {row['genus_2']}" in page.text


def test_predictions_of_a_reprocessed_slide_are_left_out_and_reported(tmp_path: Path) -> None:
    run = write_small_run(tmp_path / "run")
    predict(run, "genera")
    run.files.delete(run.committed_files()["a-2030"])
    commit_slide(run, "a-2030", count=COUNTS["a-2030"], well=WELL, depth_m=2030.0, seed=9)
    run.rebuild_summaries()
    html = write_report(run, tmp_path / "report.html").read_text("utf-8")
    assert "run on 3 of 4 slides" in html
    assert "Of the others, 1 was reprocessed after it was classified" in html
    assert ">not classified yet<" in html


def test_a_well_of_barren_slides_has_a_chart(tmp_path: Path) -> None:
    run = write_small_run(tmp_path / "run")
    predict(run, "genera")
    chart = chart_of(run, HOSTILE_WELL)
    assert [sample.is_barren for sample in chart.well_samples.samples] == [True]
    assert ">barren<" in draw_range_chart(chart, name="barren")
