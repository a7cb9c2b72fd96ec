"""The command that draws a well from what a classifier said of its objects."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fossilray.cli.options import ConfigOption, RunArgument, SetOption, open_store, out, outside_runs
from fossilray.core.config.choices import TaxonOrder, TaxonRank
from fossilray.core.errors import UsageError


def chart(
    run: RunArgument,
    well: Annotated[str, typer.Option(help="Name of the well, as the catalog has it.")],
    out_dir: Annotated[
        Path, typer.Option("--out", callback=outside_runs, help="Folder for page, pictures and tables.")
    ] = Path("chart"),
    head: Annotated[
        str | None,
        typer.Option(help="Name of the predictions of `fossilray classify run`; default: the newest."),
    ] = None,
    taxonomy: Annotated[
        Path | None,
        typer.Option(
            help="CSV or YAML with species, genus, group and synonyms, by which labels are one taxon."
        ),
    ] = None,
    rank: Annotated[TaxonRank, typer.Option(help="To which --taxonomy rolls counts up.")] = "genus",
    leave_out: Annotated[
        list[str] | None,
        typer.Option(help="Label, taxon or group that is not counted, e.g. debris; may be repeated."),
    ] = None,
    order: Annotated[TaxonOrder, typer.Option(help="Of the taxa from left to right.")] = "last-occurrence",
    depths: Annotated[
        Path | None,
        typer.Option(help="CSV of slide_id and measured_depth_m, which go before the catalog's depths."),
    ] = None,
    confusion: Annotated[
        Path | None,
        typer.Option(
            help="Head, or CSV of true class by called class in crops, instead of the confusion that the head stated."
        ),
    ] = None,
    correction: Annotated[
        bool,
        typer.Option(
            "--correction/--raw-counts",
            help="Correct counts for the classifier's confusions; or take its own counts, with intervals of the "
            "sampling error alone.",
        ),
    ] = True,
    level: Annotated[float, typer.Option(min=0.5, max=0.999, help="Of the intervals.")] = 0.95,
    fewest: Annotated[
        int,
        typer.Option(
            min=1, help="Samples of fewer objects are drawn unfilled, and have no say in zones or matches."
        ),
    ] = 50,
    zones: Annotated[
        int | None,
        typer.Option(min=1, help="Number of zones; default: as many as beat the broken-stick model."),
    ] = None,
    match: Annotated[
        str | None, typer.Option(help="Another well of the run, to correlate this one with.")
    ] = None,
    match_distance: Annotated[
        float,
        typer.Option(min=0.001, max=2.0, help="Squared chord distance below which assemblages are alike."),
    ] = 0.15,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Draw a well's range chart: taxa against depth with intervals, diversity, zones, a match with another well."""
    from fossilray.analysis.stratigraphy.chart import ChartOptions, compute_chart
    from fossilray.analysis.stratigraphy.confusion import read_confusion
    from fossilray.analysis.stratigraphy.match import match_wells
    from fossilray.analysis.stratigraphy.page import describe_findings, write_chart
    from fossilray.analysis.stratigraphy.samples import read_depths
    from fossilray.analysis.stratigraphy.taxonomy import read_taxonomy

    if confusion is not None and not correction:
        raise UsageError("--confusion and --raw-counts contradict each other; give one of them")
    options = ChartOptions(
        taxonomy=None if taxonomy is None else read_taxonomy(taxonomy),
        rank=rank,
        leave_out=tuple(leave_out or ()),
        order=order,
        confusion=None if confusion is None else read_confusion(confusion),
        is_corrected=correction,
        level=level,
        min_objects=fewest,
        zones=zones,
        seed=seed,
        depths={} if depths is None else read_depths(depths),
        head=head,
    )
    store = open_store(run, config, set_)
    charted = compute_chart(store, well, options)
    matched = None
    if match is not None:
        matched = match_wells(
            charted, compute_chart(store, match, options), match_distance=match_distance, seed=seed
        )
    page = write_chart(charted, out_dir, matched=matched)
    for sentence in describe_findings(charted, matched):
        out.print(sentence, markup=False, highlight=False, soft_wrap=True)
    out.print(f"page: {page}", markup=False, highlight=False, soft_wrap=True)
