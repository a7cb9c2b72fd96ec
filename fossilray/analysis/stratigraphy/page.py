"""The charts, tables and page of a well, written into a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fossilray.analysis.stratigraphy.chart import WellChart
from fossilray.analysis.stratigraphy.diversity import rarefy, round_counts
from fossilray.analysis.stratigraphy.match import MatchedWells, describe_match, draw_match
from fossilray.analysis.stratigraphy.print_style import INK, QUIET, print_style, to_bytes
from fossilray.analysis.stratigraphy.range_chart import GROUP_COLOURS, draw_chart
from fossilray.analysis.stratigraphy.tables import match_table, well_tables
from fossilray.core.text import strip_control_characters
from fossilray.core.whole_files import write_whole
from fossilray.render.html import svg_uri, template_environment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "chart.html"


def write_chart(charted: WellChart, out: Path, *, matched: MatchedWells | None = None) -> Path:
    """Write charts as SVG and PNG, tables as CSV and one page into a folder; the page.

    Raises:
        UsageError: the folder cannot be written.
    """
    figures = {
        "percent": draw_chart(charted, measure="percent"),
        "counts": draw_chart(charted, measure="counts"),
    }
    if charted.full:
        figures["rarefaction"] = draw_rarefaction(charted)
    if matched is not None:
        figures["correlation"] = draw_match(matched)
    files = well_tables(charted)
    if matched is not None:
        files["correlation.csv"] = match_table(matched)
    for name, figure in figures.items():
        files[f"{name}.svg"] = to_bytes(figure, "svg", name=name)
        files[f"{name}.png"] = to_bytes(figure, "png", name=name)
    files[PAGE] = _render(charted, matched, files).encode()
    for name, content in files.items():
        write_whole(out / name, content)
    return out / PAGE


def draw_rarefaction(charted: WellChart) -> Figure:
    """How many taxa fewer objects would have shown, a line for each sample; dark ones lie deep."""
    from matplotlib.figure import Figure

    with print_style():
        figure = Figure(figsize=(6.4, 3.6), facecolor="white", layout="constrained")
        panel = figure.subplots()
        for place, row in enumerate(charted.full):
            total = round(float(charted.estimate.objects[row]))
            counts = round_counts(charted.estimate.shares[row], total)
            efforts = np.unique(np.geomspace(1, total, 60).astype(np.int64))
            depth = place / max(len(charted.full) - 1, 1)
            panel.plot(
                efforts,
                rarefy(counts, efforts),
                color=GROUP_COLOURS[0],
                alpha=0.25 + 0.7 * depth,
                linewidth=1,
            )
        if charted.effort:
            panel.axvline(charted.effort, color=QUIET, linewidth=0.8, dashes=(3, 3))
        panel.set_xlabel("objects")
        panel.set_ylabel("taxa expected")
        panel.set_title(
            "Rarefaction (Hurlbert 1971); pale: shallow, dark: deep", fontsize=8, loc="left", color=INK
        )
        return figure


def describe_findings(charted: WellChart, matched: MatchedWells | None = None) -> Iterator[str]:
    """What a reader must know before the chart, in sentences."""
    found = charted.found
    objects = sum(sample.objects for sample in found.samples)
    yield (
        f"{len(found.samples)} samples of well {strip_control_characters(charted.well)}, {objects:,} objects called by "
        f"{found.predictions.answers.name}, {len(charted.taxa)} taxa"
    )
    if charted.confusion is not None:
        yield (
            f"counts are corrected for the classifier's confusion on {charted.confusion.crops:,} validation crops, "
            f"{100 * charted.confusion.right_share:.1f} % of them called right"
        )
    elif charted.options.is_corrected:
        yield (
            "counts are the classifier's own and intervals those of the lot alone, for nobody knows its confusion: "
            "train the head again, or give --confusion"
        )
    else:
        yield "counts are the classifier's own and intervals those of the lot alone, as asked for"
    yield from _tell_samples(charted)
    for taxon, labels in charted.rolled.merged:
        yield f"{taxon} stands for {', '.join(labels)}"
    if charted.rolled.unknown:
        yield f"not in the taxonomy, kept as they are: {', '.join(charted.rolled.unknown)}"
    if charted.zonation is None:
        yield f"no zones: they take 4 samples of {charted.options.fewest} objects and two taxa"
    else:
        how = "as asked for" if charted.options.zones else "by the broken-stick model"
        yield f"{charted.zonation.number} zone{'s' if charted.zonation.number > 1 else ''} {how}"
    if matched is not None:
        yield f"{strip_control_characters(matched.second.well)}: {describe_match(matched)}"


def _tell_samples(charted: WellChart) -> Iterator[str]:
    samples = charted.found.samples
    if charted.found.without_depth:
        named = charted.found.without_depth
        number = "1 slide" if len(named) == 1 else f"{len(named)} slides"
        yield f"left out for lack of a measured depth: {number}, {_few(named)}"
    if twice := [sample for sample in samples if sample.slides > 1]:
        named_depths = _few([f"{sample.depth_m:g} m" for sample in twice])
        yield f"more than one slide, counted together, at {named_depths}"
    if unasked := sum(sample.slides - sample.asked for sample in samples):
        yield f"without predictions that fit: {unasked} of the slides; start `fossilray classify run` again"
    for word, marked in (
        ("barren", [one for one in samples if one.is_barren]),
        ("lossy", [one for one in samples if one.is_lossy]),
    ):
        if marked:
            number = "1 sample is" if len(marked) == 1 else f"{len(marked)} samples are"
            yield f"{number} {word}: {_few([f'{one.depth_m:g} m' for one in marked])}"
    if without := sum(sample.without for sample in samples):
        yield f"{without:,} objects have no name, because their pixels could not be read"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _render(charted: WellChart, matched: MatchedWells | None, files: Mapping[str, bytes]) -> str:
    environment = template_environment()
    return environment.get_template("chart.html.j2").render(
        charted=charted,
        well=strip_control_characters(charted.well),
        findings=[strip_control_characters(sentence) for sentence in describe_findings(charted, matched)],
        pictures={
            name.removesuffix(".svg"): svg_uri(content)
            for name, content in files.items()
            if name.endswith(".svg")
        },
        samples=[_cells(line) for line in files["samples.csv"].decode().splitlines()],
        files=[name for name in files if name.endswith((".csv", ".svg", ".png"))],
    )


def _cells(line: str) -> list[str]:
    import csv

    return [strip_control_characters(cell) for cell in next(csv.reader([line]))][1:]
