"""The report of a run: complete, self-contained, safe and bounded."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from support.small_run import COUNTS, HOSTILE_WELL, WELL, commit_slide, start_run, write_small_run

from fossilray.analysis.report import write_report
from fossilray.analysis.report.contact_sheets import arrange_on_grid
from fossilray.analysis.report.figures import DepthSample, Distributions, draw_depth_chart, draw_distributions
from fossilray.analysis.report.statistics import (
    MAX_SAMPLED_SLIDES,
    choose_sample,
    total,
    write_headline,
)
from fossilray.analysis.stratigraphy.assemblages import chart_labels
from fossilray.core.errors import RunNotFound, UsageError
from fossilray.core.records import UNASSIGNED_WELL
from fossilray.store import RunStore

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.unclosed: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.unclosed.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.unclosed.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.unclosed and self.unclosed[-1] != "style":
            self.text += data


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return write_small_run(tmp_path_factory.mktemp("runs") / "run <b>1</b>")


@pytest.fixture(scope="module")
def html(store: RunStore, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("page") / "new" / "report.html"
    assert write_report(store, out) == out
    return out.read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_has_every_section(html: str) -> None:
    page = Page(html)
    assert page.unclosed == []
    sections = [value for tag, name, value in page.attributes if tag == "section" and name == "id"]
    assert sections == [
        "depth",
        "measures",
        "crops",
        "similarity",
        "slides",
        "losses",
        "queries",
        "provenance",
    ]


def test_the_page_loads_nothing_from_the_network(html: str) -> None:
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "xlink:href", "srcset", "data", "poster"):
            assert value.startswith(("data:image/jpeg;base64,", "#")), (tag, name, value[:60])
    assert set(re.findall(r"url\((.)", html)) <= {"#"}
    assert "@import" not in html


def test_hostile_names_stay_text(html: str) -> None:
    page = Page(html)
    assert HOSTILE_WELL in page.text
    assert "<img src=x onerror=alert(1)>" in page.text
    assert "<b>this</b>" in page.text
    assert "<script" not in html
    assert "b" not in page.tags or "<b>1</b>" not in html


def test_the_page_states_counts_losses_and_failures(html: str) -> None:
    text = " ".join(Page(html).text.split())
    assert f"{sum(COUNTS.values())} objects" in text
    assert "4 slides of 2 wells" in text
    assert "96 tiles planned, 16 blank, 76 read, 4 unreadable" in text
    assert "1 × NotASlide, 1 × WorkerDied" in text
    assert "quarantined" in text
    assert "ab" * 32 in text
    for title in ("Random", "Largest", "Sharpest", "Darkest", "Most confident", "Least confident"):
        assert title in text


def test_each_contact_sheet_and_each_slide_has_its_pictures(html: str) -> None:
    page = Page(html)
    pictures = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    with_objects = [slide_id for slide_id, count in COUNTS.items() if count]
    assert len(pictures) == 6 * 24 + 1 + len(with_objects) + len(COUNTS)


def test_ids_in_the_page_are_unique(html: str) -> None:
    ids = [value for _, name, value in Page(html).attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_a_run_with_nothing_committed_has_a_page(tmp_path: Path) -> None:
    page = write_report(start_run(tmp_path / "run"), tmp_path / "report.html").read_text(encoding="utf-8")
    assert "No slide is committed yet" in Page(page).text
    assert Page(page).unclosed == []


def test_a_run_whose_slides_hold_no_object_has_a_page(tmp_path: Path) -> None:
    store = start_run(tmp_path / "run")
    commit_slide(store, "a-2030", count=0, well=UNASSIGNED_WELL, depth_m=None, seed=0)
    page = Page(write_report(store, tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "holds 0 objects." in page.text
    assert "crops" not in [value for _, name, value in page.attributes if name == "id"]


def test_a_run_without_embeddings_has_a_page_without_the_map(tmp_path: Path) -> None:
    store = write_small_run(tmp_path / "run", counts={"a-2030": 14}, embeddings=False)
    page = Page(write_report(store, tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "Similarity map" not in page.text
    assert "Contact sheets" in page.text


def test_a_run_larger_than_the_page_is_sampled_and_the_page_states_it(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fossilray.analysis.report.page.MAX_LISTED_SLIDES", 2)
    monkeypatch.setattr("fossilray.analysis.report.statistics.MAX_SAMPLED_SLIDES", 2)
    text = Page(write_report(store, tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "are from 2 of them" in text
    assert "2 of 4 slides, spread evenly" in text
    assert f"{sum(COUNTS.values())} objects" in text


def test_the_sample_of_a_large_archive_is_bounded_and_reaches_every_charted_well(store: RunStore) -> None:
    (summary, *_) = store.summaries()
    slides = [
        replace(
            summary,
            slide_id=f"slide-{i}",
            well=f"well-{i % 30}" if i % 3 else WELL,
            measured_depth_m=float(i),
        )
        for i in range(5000)
    ]
    sample = choose_sample(slides)
    assert len(sample) == MAX_SAMPLED_SLIDES == len({slide.slide_id for slide in sample})
    depths = [slide.measured_depth_m for slide in sample if slide.well == WELL]
    assert min(depths) < 100  # type: ignore[type-var, operator]
    assert max(depths) > 4900  # type: ignore[type-var, operator]


def test_the_headline_names_the_slide_of_highest_density(store: RunStore) -> None:
    (summary, *_) = store.summaries()
    slides = [
        replace(summary, slide_id=str(i), objects=count, measured_depth_m=2000.0 + i)
        for i, count in enumerate((10, 12, 90))
    ]
    (first, second) = write_headline(slides, np.array([20.0, 30, 40, 50]))
    assert first.startswith("3 slides of 1 well, 18 mm² of scan, hold 112 objects: 6.22 per mm²")
    assert second == f"The highest density is that of {WELL} at 2,002 m, 15 per mm², 7.5 times the median."


def test_lost_share_is_of_the_tiles_in_the_foreground(store: RunStore) -> None:
    assert total(store.summaries()).lost_share == pytest.approx(4 / 80)


def test_photographs_of_one_name_are_told_apart_in_a_chart(store: RunStore) -> None:
    slide = next(iter(store.summaries()))
    paths = {"2030m__1.jpg": "/p/2030m/1.jpg", "2040m__1.jpg": "/p/2040m/1.jpg", "a": "/p/a.mrxs"}
    slides = [replace(slide, slide_id=slide_id, path=path) for slide_id, path in paths.items()]
    assert list(chart_labels(slides).values()) == ["2030m__1.jpg", "2040m__1.jpg", "a"]


def test_the_depth_axis_of_a_chart_has_the_depths_of_its_samples() -> None:
    samples = [
        DepthSample("a", 2030.0, 120, 6.0, np.array([1, 2, 3, 4, 5, 6]), None, (200, 150, 90)),
        DepthSample("b", 2050.5, 60, 0.0, None, None, None),
    ]
    svg = draw_depth_chart(samples, densest_per_mm2=20.0, name="one")
    assert svg.startswith("<svg")
    assert "2,030" in svg
    assert "2,050.5" in svg
    assert svg == draw_depth_chart(samples, densest_per_mm2=20.0, name="one")


def test_a_chart_takes_its_colours_from_the_page_and_escapes_names() -> None:
    samples = [DepthSample("<script>&$x$", None, 5, 1.0, None, None, None)]
    svg = draw_depth_chart(samples, densest_per_mm2=5.0, name="two")
    assert "var(--ink)" in svg
    assert "<script" not in svg
    assert "&lt;script&gt;&amp;$x$" in svg


@pytest.mark.parametrize("count", [0, 1, 300])
def test_distributions_are_drawn_of_any_number_of_objects(count: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.gamma(2.0, 1.0, (4, count))
    values[1, : count // 2] = np.nan
    svg = draw_distributions(Distributions(*values))
    assert svg.endswith("</svg>\n")


def test_neighbours_on_the_similarity_map_are_similar() -> None:
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 4, 400)
    vectors = (np.eye(4, 16)[kinds] + rng.normal(0, 0.05, (400, 16))).astype(np.float32)
    chosen = arrange_on_grid(vectors, columns=12, rows=8)
    assert len(set(chosen.tolist())) == 96
    shown = kinds[chosen].reshape(8, 12)
    is_equal = np.concatenate([(shown[:, 1:] == shown[:, :-1]).ravel(), (shown[1:] == shown[:-1]).ravel()])
    assert is_equal.mean() > 0.75  # at random a quarter


def test_a_report_that_cannot_be_written_fails_with_its_path(store: RunStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="cannot write"):
        write_report(store, tmp_path / "file" / "report.html")


def test_a_report_of_a_folder_without_a_run_fails(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound):
        write_report(RunStore.open(str(tmp_path)), tmp_path / "report.html")
