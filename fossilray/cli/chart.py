"""The command that draws a well's range chart from labels of experts and a classifier's predictions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fossilray.cli.options import (
    RANK_HELP,
    ConfigOption,
    DeterminedOption,
    PredictionsOption,
    RunArgument,
    SeedOption,
    SetOption,
    TaxonomyOption,
    UncertainOption,
    open_store,
    outside_runs,
    require_predictions,
)
from fossilray.cli.output import print_line
from fossilray.core.config.choices import TaxonOrder, TaxonRank
from fossilray.core.errors import UsageError
from fossilray.core.records import UNASSIGNED_WELL
from fossilray.core.text import list_some

if TYPE_CHECKING:
    from fossilray.store import RunStore

ChartFolderOption = Annotated[
    Path,
    typer.Option("--out", callback=outside_runs, help="Output folder for the page, pictures and tables."),
]
RankOption = Annotated[TaxonRank, typer.Option("--rank", help=RANK_HELP)]
LeaveOutOption = Annotated[
    list[str] | None,
    typer.Option("--leave-out", help="Label, taxon or group not to count, e.g. debris; may be repeated."),
]
MarineOption = Annotated[
    list[str] | None,
    typer.Option(
        "--marine",
        help="Taxon or group that is marine, e.g. dinocysts, for the marine share; may be repeated.",
    ),
]
TerrestrialOption = Annotated[
    list[str] | None,
    typer.Option(
        "--terrestrial",
        help="Taxon or group that is terrestrial, e.g. pollen, for the marine share; may be repeated.",
    ),
]
OrderOption = Annotated[TaxonOrder, typer.Option("--order", help="Order of the taxa from left to right.")]
DepthsOption = Annotated[
    Path | None,
    typer.Option(
        "--depths",
        help="Table (.csv, .xlsx, .ods, .parquet) of slide_id and measured_depth_m, instead of the catalog's depths.",
    ),
]
CopiesOption = Annotated[
    bool,
    typer.Option("--unique-scans", help="Count slides that are the same scan under several names once."),
]
ConfusionOption = Annotated[
    Path | None,
    typer.Option(
        "--confusion",
        help="Head, or table (.csv, .xlsx, .ods, .parquet) of true class by predicted class in crops, instead of the "
        "confusion matrix of the head "
        "that made the predictions.",
    ),
]
CorrectionOption = Annotated[
    bool,
    typer.Option(
        "--correction/--raw-counts",
        help="Correct counts for the classifier's confusion matrix; or keep its counts, with intervals of the "
        "sampling error alone.",
    ),
]
ConfidenceOption = Annotated[
    float, typer.Option("--confidence-level", min=0.5, max=0.999, help="Confidence level of the intervals.")
]
MinObjectsOption = Annotated[
    int,
    typer.Option(
        "--min-objects",
        min=1,
        help="Samples of fewer objects are drawn hollow and are left out of zones and matches.",
    ),
]
ZonesOption = Annotated[
    int | None,
    typer.Option(
        "--zones", min=1, help="Number of zones; default: those significant by the broken-stick model."
    ),
]
MatchOption = Annotated[
    str | None, typer.Option("--match", help="Another well of the run to correlate this one with.")
]
MatchDistanceOption = Annotated[
    float,
    typer.Option(
        "--match-distance",
        min=0.001,
        max=2.0,
        help="Squared chord distance below which two assemblages match.",
    ),
]

ExpertOption = Annotated[
    Path | None,
    typer.Option(
        "--expert",
        help="Table (.csv, .xlsx, .ods, .parquet) of human counts of the same samples to compare with: slide_id or "
        "measured_depth_m, taxon, count; or a matrix of samples and taxa.",
    ),
]


NO_WELLS = (
    "no slide of the run has a well; `fossilray samples export` writes a table in which you can give them"
)


def chart(
    run: RunArgument,
    well: Annotated[
        str | None,
        typer.Option(help="Name of the well, as the catalog has it.", show_default="the only one"),
    ] = None,
    out_dir: ChartFolderOption = Path("chart"),
    predictions: PredictionsOption = None,
    labels: DeterminedOption = None,
    uncertain: UncertainOption = "leave-out",
    taxonomy: TaxonomyOption = None,
    rank: RankOption = "genus",
    leave_out: LeaveOutOption = None,
    marine: MarineOption = None,
    terrestrial: TerrestrialOption = None,
    order: OrderOption = "last-occurrence",
    depths: DepthsOption = None,
    unique_scans: CopiesOption = False,
    confusion: ConfusionOption = None,
    correction: CorrectionOption = True,
    level: ConfidenceOption = 0.95,
    min_objects: MinObjectsOption = 50,
    zones: ZonesOption = None,
    match: MatchOption = None,
    match_distance: MatchDistanceOption = 0.15,
    expert: ExpertOption = None,
    seed: SeedOption = 0,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Draw a well's range chart: taxa against depth with intervals, diversity, zones, a match with another well."""
    from fossilray.analysis.stratigraphy.chart import ChartOptions, compute_chart
    from fossilray.analysis.stratigraphy.confusion import read_confusion
    from fossilray.analysis.stratigraphy.expert.comparison import compare_with_expert, describe_comparison
    from fossilray.analysis.stratigraphy.expert.counts import read_expert_counts
    from fossilray.analysis.stratigraphy.match import match_wells
    from fossilray.analysis.stratigraphy.page import describe_findings, write_chart
    from fossilray.analysis.stratigraphy.samples import read_depths
    from fossilray.labels.determinations import read_determinations
    from fossilray.labels.taxonomy import read_taxonomy

    if confusion is not None and not correction:
        raise UsageError("--confusion and --raw-counts contradict each other; give one of them")
    if labels is None:
        require_predictions(predictions, because="a range chart without --labels counts predicted genera")
    taxa = None if taxonomy is None else read_taxonomy(taxonomy)
    store = open_store(run, config, set_)
    well = only_well(store) if well is None else well
    options = ChartOptions(
        taxonomy=taxa,
        rank=rank,
        leave_out=tuple(leave_out or ()),
        marine=tuple(marine or ()),
        terrestrial=tuple(terrestrial or ()),
        order=order,
        confusion=None if confusion is None else read_confusion(confusion),
        is_corrected=correction,
        level=level,
        min_objects=min_objects,
        zones=zones,
        seed=seed,
        depths={} if depths is None else read_depths(depths),
        unique_scans=unique_scans,
        head=predictions,
        determinations=None
        if labels is None
        else read_determinations(labels, store, taxonomy=taxa, rank=rank, uncertain=uncertain),
    )
    counts = None if expert is None else read_expert_counts(expert)
    charted, matched = compute_chart(store, well, options), None
    if match is not None:
        other = compute_chart(store, match, options)
        matched = match_wells(charted, other, match_distance=match_distance, seed=seed)
    compared = None if counts is None else compare_with_expert(store, charted, counts)
    page = write_chart(charted, out_dir, matched=matched, compared=compared)
    for sentence in describe_findings(charted, matched):
        print_line(sentence)
    for sentence in () if compared is None else describe_comparison(compared):
        print_line(sentence)
    print_line(f"page: {page}")


def only_well(store: RunStore) -> str:
    """Return the name of the well of a run that has one.

    Raises:
        UsageError: the run has no well, or several; the message names some.
    """
    wells = list(depths_by_well(store))
    if len(wells) == 1:
        return wells[0]
    if not wells:
        raise UsageError(NO_WELLS)
    raise UsageError(f"name one of the {len(wells)} wells by --well: {list_some(wells, most=12)}")


def depths_by_well(store: RunStore) -> dict[str, int]:
    """Return the wells of a run's committed slides by name, with their number of different depths.

    Slides without a well are in none of them.
    """
    grouped = store.summaries_table().group_by("well").aggregate([("measured_depth_m", "count_distinct")])
    counts = zip(
        *(grouped[name].to_pylist() for name in ("well", "measured_depth_m_count_distinct")), strict=True
    )
    return dict(sorted((well, depths) for well, depths in counts if well != UNASSIGNED_WELL))
