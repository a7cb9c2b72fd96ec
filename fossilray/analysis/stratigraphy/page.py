"""Files of a well's chart: figures, tables and a page, written into a folder."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fossilray.analysis.stratigraphy.chart import WellChart
from fossilray.analysis.stratigraphy.determined import describe_determinations
from fossilray.analysis.stratigraphy.diversity import rarefy, round_counts
from fossilray.analysis.stratigraphy.expert.comparison import ExpertComparison, describe_comparison
from fossilray.analysis.stratigraphy.expert.files import draw_comparison, expert_tables
from fossilray.analysis.stratigraphy.match import MatchedWells, describe_match, draw_match
from fossilray.analysis.stratigraphy.palynofacies import describe_palynofacies
from fossilray.analysis.stratigraphy.print_style import INK, QUIET, print_style, to_bytes
from fossilray.analysis.stratigraphy.range_chart import GROUP_COLOURS, draw_chart
from fossilray.analysis.stratigraphy.tables import match_table, well_tables
from fossilray.analysis.stratigraphy.ternary import draw_ternary
from fossilray.analysis.stratigraphy.zones import MIN_SAMPLES
from fossilray.core.atomic_files import write_atomically
from fossilray.core.text import list_some, strip_control_characters
from fossilray.render.html import svg_uri, template_environment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "chart.html"


def write_chart(
    chart: WellChart,
    out: Path,
    *,
    matched: MatchedWells | None = None,
    compared: ExpertComparison | None = None,
) -> Path:
    """Write figures as SVG and PNG, tables as CSV and a page into a folder, and return the path of the page.

    Raises:
        UsageError: the folder cannot be written.
    """
    figures = {
        "percent": draw_chart(chart, measure="percent"),
        "counts": draw_chart(chart, measure="counts"),
    }
    if chart.concentrations is not None and np.isfinite(chart.concentrations.values).any():
        figures["concentration"] = draw_chart(chart, measure="concentration")
    if chart.well_sampled:
        figures["rarefaction"] = draw_rarefaction(chart)
    if chart.palynofacies.facies is not None:
        depths = [sample.interval for sample in chart.well_samples.samples]
        figures["palynofacies"] = draw_ternary(chart.palynofacies.facies.shares, depths)
    if matched is not None:
        figures["correlation"] = draw_match(matched)
    files = well_tables(chart)
    if matched is not None:
        files["correlation.csv"] = match_table(matched)
    if compared is not None:
        figures["expert"] = draw_comparison(compared)
        files |= expert_tables(compared)
    for name, figure in figures.items():
        files[f"{name}.svg"] = to_bytes(figure, "svg", name=name)
        files[f"{name}.png"] = to_bytes(figure, "png", name=name)
    files[PAGE] = _render(chart, matched, compared, files).encode()
    for name, content in files.items():
        write_atomically(out / name, content)
    return out / PAGE


def draw_rarefaction(chart: WellChart) -> Figure:
    """Draw a rarefaction curve for each well-sampled sample, darker with depth."""
    from matplotlib.figure import Figure

    with print_style():
        figure = Figure(figsize=(6.4, 3.6), facecolor="white", layout="constrained")
        panel = figure.subplots()
        for position, row in enumerate(chart.well_sampled):
            total = round(float(chart.estimate.objects[row]))
            counts = round_counts(chart.estimate.shares[row], total)
            sizes = np.unique(np.geomspace(1, total, 60).astype(np.int64))
            relative_depth = position / max(len(chart.well_sampled) - 1, 1)
            panel.plot(
                sizes,
                rarefy(counts, sizes),
                color=GROUP_COLOURS[0],
                alpha=0.25 + 0.7 * relative_depth,
                linewidth=1,
            )
        if chart.rarefaction_size:
            panel.axvline(chart.rarefaction_size, color=QUIET, linewidth=0.8, dashes=(3, 3))
        panel.set_xlabel("Number of objects")
        panel.set_ylabel("Expected number of taxa")
        panel.set_title(
            "Rarefaction curves (Hurlbert 1971), darker with depth", fontsize=8, loc="left", color=INK
        )
        return figure


def describe_findings(chart: WellChart, matched: MatchedWells | None = None) -> Iterator[str]:
    """Describe the data of a chart in sentences: samples, correction, merged taxa, zones, correlation."""
    samples = chart.well_samples.samples
    predictions, determined = chart.well_samples.predictions, chart.well_samples.determined
    labelled = sum(sample.labelled for sample in samples)
    classified = sum(sample.objects for sample in samples) - labelled
    yield f"{len(samples)} samples of well {strip_control_characters(chart.well)}, " + ", ".join(
        [
            *([f"{classified:,} objects classified by {predictions.results.name}"] if predictions else []),
            *([f"{labelled:,} objects labelled by experts"] if determined else []),
            f"{len(chart.taxa)} taxa",
        ]
    )
    yield from describe_basis(chart)
    yield from _describe_samples(chart)
    yield from _describe_ranges(chart)
    yield from _describe_concentrations(chart)
    yield from describe_palynofacies(chart.palynofacies, len(samples), level=chart.options.level)
    for taxon, labels in chart.grouping.merged:
        yield f"{taxon} includes {', '.join(labels)}"
    if chart.grouping.unknown:
        yield f"not in the taxonomy, kept under their own names: {', '.join(chart.grouping.unknown)}"
    if chart.zonation is None:
        yield f"no zones: {MIN_SAMPLES} samples of {chart.options.min_objects} objects and two taxa are needed"
    else:
        origin = "(--zones)" if chart.options.zones else "by the broken-stick model"
        yield f"{chart.zonation.number} zone{'s' if chart.zonation.number > 1 else ''} {origin}"
    if matched is not None:
        yield f"{strip_control_characters(matched.second.well)}: {describe_match(matched)}"


def describe_basis(chart: WellChart) -> Iterator[str]:
    """Describe in sentences what names the objects of a chart: labels, and predictions with their correction."""
    determined, predictions = chart.well_samples.determined, chart.well_samples.predictions
    if determined is not None:
        yield from describe_determinations(determined)
    if predictions is None:
        yield (
            "there are no predictions: the assemblage is what was labelled, and intervals hold sampling error only; "
            "objects that `fossilray suggest` chose are no random sample of it"
        )
    elif chart.confusion is not None:
        weight = chart.estimate.correction_weight or 0.0
        crops = f"{chart.confusion.crops:,} validation crops, accuracy {100 * chart.confusion.accuracy:.1f} %"
        yield (
            f"counts are corrected by the classifier's confusion matrix ({crops}), by {100 * weight:.0f} % of the full "
            "correction, as far as these crops support it"
            if weight
            else f"counts are not corrected, because the classifier's confusion matrix ({crops}) is too uncertain for "
            "that or of other crops than these; intervals include the classification error"
        )
    elif chart.options.is_corrected:
        yield (
            "counts are not corrected and intervals hold sampling error only, because the classifier has no confusion "
            "matrix: train the head again, or give --confusion"
        )
    else:
        yield "counts are not corrected and intervals hold sampling error only (--raw-counts)"


def _describe_ranges(chart: WellChart) -> Iterator[str]:
    """Describe the types of samples, and which first occurrences they make doubtful."""
    samples = chart.well_samples.samples
    kinds = Counter(sample.sample_type for sample in samples)
    if set(kinds) != {None}:
        yield "samples by type: " + ", ".join(
            f"{count} {kind or 'of no stated type'}" for kind, count in sorted(kinds.items(), key=str)
        )
    doubtful = [
        (taxon, range_)
        for taxon, range_ in zip(chart.taxa, chart.ranges, strict=True)
        if range_.is_first_doubtful and range_.first is not None
    ]
    alone = [
        f"{taxon} ({samples[range_.first].interval})"
        for taxon, range_ in doubtful
        if range_.firm_first is None and range_.first is not None
    ]
    if alone:
        yield (
            f"first occurrences from cuttings only, which caving may have made too deep: {list_some(alone, most=12)}"
        )
    lower = [
        f"{taxon} ({samples[range_.firm_first].interval}; in cuttings down to {samples[range_.first].interval})"
        for taxon, range_ in doubtful
        if range_.firm_first is not None and range_.first is not None
    ]
    if lower:
        yield f"first occurrences in a sample that does not cave: {list_some(lower, most=12)}"


def _describe_concentrations(chart: WellChart) -> Iterator[str]:
    concentrations = chart.concentrations
    if concentrations is None:
        return
    markers = sorted({sample.spike.marker for sample in chart.well_samples.samples if sample.spike})
    if markers:
        yield f"marker grains, which are no part of the percentages: {list_some(markers)}"
    for unit in sorted({*concentrations.units} - {""}):
        totals = [
            float(value)
            for value, of_sample in zip(concentrations.values[:, -1], concentrations.units, strict=True)
            if of_sample == unit and np.isfinite(value)
        ]
        if totals:
            yield (
                f"concentrations of {len(totals)} sample{'s' if len(totals) > 1 else ''}: {min(totals):,.0f} to "
                f"{max(totals):,.0f} grains per {unit} in all"
            )
    yield from concentrations.missing


def _describe_samples(chart: WellChart) -> Iterator[str]:
    samples = chart.well_samples.samples
    if undated := chart.well_samples.without_depth:
        number = "1 slide" if len(undated) == 1 else f"{len(undated)} slides"
        yield f"left out, without a measured depth: {number}, {list_some(undated)}"
    if pooled := [sample for sample in samples if sample.slides > 1]:
        depths = list_some([sample.interval for sample in pooled])
        yield f"slides of equal depth are pooled into one sample at {depths}"
    has_predictions = chart.well_samples.predictions is not None
    if has_predictions and (unclassified := sum(sample.slides - sample.classified for sample in samples)):
        yield f"slides without current predictions: {unclassified}; start `fossilray classify run` again"
    for verb, marked in (
        ("barren", [sample for sample in samples if sample.is_barren]),
        ("partly unreadable", [sample for sample in samples if sample.is_lossy]),
    ):
        if marked:
            number = "1 sample is" if len(marked) == 1 else f"{len(marked)} samples are"
            yield f"{number} {verb}: {list_some([sample.interval for sample in marked])}"
    if unclassified := sum(sample.unclassified for sample in samples):
        yield f"{unclassified:,} objects are not classified, because their pixels could not be read"


def _render(
    chart: WellChart,
    matched: MatchedWells | None,
    compared: ExpertComparison | None,
    files: Mapping[str, bytes],
) -> str:
    of_expert = [] if compared is None else describe_comparison(compared)
    return (
        template_environment()
        .get_template("chart.html.j2")
        .render(
            chart=chart,
            well=strip_control_characters(chart.well),
            findings=[strip_control_characters(sentence) for sentence in describe_findings(chart, matched)],
            of_expert=[strip_control_characters(sentence) for sentence in of_expert],
            pictures={
                name.removesuffix(".svg"): svg_uri(content)
                for name, content in files.items()
                if name.endswith(".svg")
            },
            samples=_sample_table(files["samples.csv"]),
            files=[name for name in files if name.endswith((".csv", ".svg", ".png"))],
        )
    )


def _sample_table(content: bytes) -> list[list[str]]:
    """Return the rows of samples.csv without the column of the well, under headings for people."""
    rows = [
        [strip_control_characters(cell) for cell in row[1:]]
        for row in csv.reader(io.StringIO(content.decode()))
    ]
    rows[0] = [_HEADINGS.get(name, name.replace("_", " ").capitalize()) for name in rows[0]]
    return rows


_HEADINGS = {
    "measured_depth_m": "Measured depth, m",
    "top_depth_m": "Top, m",
    "base_depth_m": "Base, m",
    "sample_type": "Type",
    "slides_asked": "Slides classified",
    "objects_without_genus": "Objects not classified",
    "objects_counted": "Objects in taxa",
    "labelled": "Of these labelled",
    "labelled_apart": "Labelled, no taxon",
    "lost_percent": "Unreadable, %",
    "shannon": "Shannon H′",
    "simpson": "Simpson 1 − D",
    "evenness": "Pielou J′",
    "fisher_alpha": "Fisher α",
}
