"""Commands that build an index over runs and search it for similar objects."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fossilray.cli.options import (
    BackboneOption,
    ClusterOption,
    ConfigOption,
    CropsOption,
    EmbeddingsOption,
    ObjectsOption,
    ObjectsRunOption,
    PredictionsOption,
    RunsArgument,
    SetOption,
    TableFileOption,
    TableFormatOption,
    WhereOption,
    WorkersOption,
    outside_runs,
    settings,
)
from fossilray.cli.output import choose_table_format, out, print_line, progress_bar, warn, write_rows
from fossilray.cli.running import print_result, stop_on_sigterm
from fossilray.core.errors import UsageError
from fossilray.core.text import counted

if TYPE_CHECKING:
    from fossilray.analysis.search.queries import Queries
    from fossilray.analysis.search.search import SearchIndex

_ON_TERMINAL = (
    "query", "rank", "similarity", "well", "slide_id", "object_id", "slide_id_2", "object_id_2", "genus",
)  # fmt: skip

IndexArgument = Annotated[
    str,
    typer.Argument(metavar="INDEX", help="Index, which `fossilray index build` made: a local path or s3://…"),
]
ProbesOption = Annotated[
    int,
    typer.Option(
        "--probes",
        min=1,
        help="Number of the index's lists to search for each object; more is slower and finds more.",
    ),
]
ImagesOption = Annotated[
    list[Path] | None, typer.Option("--image", help="Image file of one fossil; may be repeated.")
]
_LimitOption = Annotated[
    int, typer.Option("--limit", min=1, help="Maximum number of objects, for each image or object.")
]
CandidatesOption = Annotated[
    int | None,
    typer.Option(
        "--candidates",
        min=1,
        help="Number of candidates re-ranked by exact similarity; default: four for each hit, at least 200.",
    ),
]
SheetOption = Annotated[
    Path | None,
    typer.Option(
        "--sheet", callback=outside_runs, help="Contact sheet to write: a page (.html) or a picture (.png)."
    ),
]


def build(
    runs: RunsArgument,
    to: Annotated[str, typer.Option("--to", help="Create or extend the index here: a folder or s3://…")],
    embeddings: EmbeddingsOption = None,
    quantizer: Annotated[
        str,
        typer.Option(
            help="Quantizer of the embeddings: pca64-8bit, pca96-6bit, pca128-4bit, pca176-4bit; auto compares them."
        ),
    ] = "auto",
    lists: Annotated[
        int | None, typer.Option(help="Number of lists in the index; default: by the number of objects.")
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(help="Number of embeddings to fit lists and axes on; default: 400,000 or 64 a list."),
    ] = None,
    shard_objects: Annotated[
        int, typer.Option(help="Maximum number of objects in a shard, which a worker holds in memory.")
    ] = 8_000_000,
    config: ConfigOption = None,
    set_: SetOption = None,
    workers: WorkersOption = None,
    address: ClusterOption = "local",
) -> None:
    """Index the embeddings of runs for similarity search; run it again to add what was committed since."""
    from fossilray.analysis.search.plan import IndexSettings
    from fossilray.jobs.index import build_index
    from fossilray.jobs.progress import choose_display

    result = build_index(
        runs,
        to,
        settings(config, set_, workers),
        IndexSettings(
            embeddings=embeddings,
            quantizer=quantizer,
            lists=lists,
            sample=sample,
            shard_objects=shard_objects,
        ),
        address=address,
        display=choose_display(out),
        stop=stop_on_sigterm(),
    )
    print_result(result, to, things="vectors indexed")
    raise typer.Exit(result.strict_exit_code)


def index_status(index: IndexArgument, config: ConfigOption = None, set_: SetOption = None) -> None:
    """Show what an index holds, how it was built, and what its runs hold that it lacks."""
    from fossilray.analysis.search.search import SearchIndex
    from fossilray.core.text import format_bytes
    from fossilray.store.query.vectors import VectorBackbone

    opened = SearchIndex.open(index, settings(config, set_).store)
    record, shards = opened.record, opened.shards
    backbone = VectorBackbone.of(record.backbone)
    entries, size = sum(shard.entries for shard in shards), sum(shard.size_bytes for shard in shards)
    lines = [
        f"{entries:,} vectors of {counted(len(opened.slides), 'slide')} in {counted(len(shards), 'shard')}, "
        f"{format_bytes(size)} ({size / max(entries, 1):.1f} bytes a vector)",
        f"of {backbone}, dimension {backbone.dimension}; {record.coder}, {record.lists:,} lists, "
        f"fitted on {record.taught_on:,} vectors, {record.created_at}",
        *(f"tried: {trial.coder}, {trial.bytes} bytes, recall {trial.recall:.3f}" for trial in record.trials),
        *(f"run: {url}" for url in opened.runs()),
        str(opened.freshness) or "up to date: it holds all that its runs hold",
    ]
    for line in lines:
        print_line(line)
    raise typer.Exit(3 if opened.freshness.to_build else 0)


def duplicates(
    index: IndexArgument,
    threshold: Annotated[float, typer.Option(help="Minimum cosine similarity of two objects.")] = 0.98,
    same_slide: Annotated[
        bool, typer.Option("--same-slide", help="Compare objects of the same slide too.")
    ] = False,
    probes: ProbesOption = 8,
    form: TableFormatOption = None,
    out_file: TableFileOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """List pairs of objects that look the same on two slides: one fossil in two scans, or a slide scanned twice."""
    from fossilray.analysis.search.duplicates import find_duplicates, pairs_table
    from fossilray.analysis.search.search import SearchIndex

    form = choose_table_format(form, out_file)
    opened = SearchIndex.open(index, settings(config, set_).store)
    _warn_if_outdated(opened)
    with progress_bar("comparing", len(opened.slides)) as advance:
        pairs = find_duplicates(
            opened, threshold=threshold, same_slide=same_slide, probes=probes, on_slide=advance
        )
    write_rows(pairs_table(opened, pairs), form, out_file, shown=_ON_TERMINAL)
    warn(f"{counted(len(pairs), 'pair')} with a cosine similarity of at least {threshold:g}")


def similar(
    index: IndexArgument,
    image: ImagesOption = None,
    object_: ObjectsOption = None,
    crops: CropsOption = None,
    run: ObjectsRunOption = None,
    where: WhereOption = None,
    predictions: PredictionsOption = None,
    limit: _LimitOption = 50,
    backbone: BackboneOption = "bundled",
    probes: ProbesOption = 64,
    candidates: CandidatesOption = None,
    sheet: SheetOption = None,
    form: TableFormatOption = None,
    out_file: TableFileOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Find the objects of an index that look most like a fossil: an image, an object, or each of a folder of crops."""
    from fossilray.analysis.search.filters import describe_hits, filter_where
    from fossilray.analysis.search.queries import exclude_self
    from fossilray.analysis.search.search import SearchIndex
    from fossilray.analysis.search.sheet import collect_results, write_search_sheet
    from fossilray.render.contact_sheet import require_sheet_suffix

    if sum(map(bool, (image, object_, crops))) != 1:
        raise UsageError("name what to search for by one of --image FILE, --object SLIDE:ID and --crops DIR")
    if sheet is not None:
        require_sheet_suffix(sheet, option="--sheet")
    form = choose_table_format(form, out_file)
    opened = SearchIndex.open(index, settings(config, set_).store)
    _warn_if_outdated(opened)
    queries = _queries(opened, image, object_, crops, run=run, backbone=backbone)
    search_filter = filter_where(opened, where, head=predictions)
    spare = any(self_hit is not None for self_hit in queries.self_hits)
    hits = opened.search(
        queries.vectors,
        count=limit + spare,
        probes=probes,
        candidates=candidates,
        search_filter=search_filter,
    )
    table = describe_hits(opened, exclude_self(queries, hits, count=limit), queries.names, head=predictions)
    if sheet is not None:
        scope = f"{limit} of {sum(slide.objects for slide in opened.slides):,} objects in {opened.index.url}"
        write_search_sheet(
            opened,
            collect_results(opened, queries, table),
            sheet,
            note=f"{scope}{f', where {where}' if where else ''}; backbone {opened.record.backbone['name']}.",
        )
        warn(f"sheet: {sheet}")
    if sheet is None or out_file is not None or form != "table":
        write_rows(table, form, out_file, shown=_ON_TERMINAL)


def _queries(
    index: SearchIndex,
    image: list[Path] | None,
    objects: list[str] | None,
    crops: Path | None,
    *,
    run: str | None,
    backbone: str,
) -> Queries:
    from fossilray.analysis.search.queries import images_below, queries_from_images, queries_from_objects
    from fossilray.core.slide_names import parse_object_name

    if objects:
        return queries_from_objects(
            index, [index.find_object(*parse_object_name(name), run=run) for name in objects]
        )
    paths = list(dict.fromkeys(image or [])) or images_below(crops or Path())
    names = [str(path if crops is None else path.relative_to(crops)) for path in paths]
    return queries_from_images(index, paths, names=names, backbone=backbone)


def _warn_if_outdated(index: SearchIndex) -> None:
    """Name on standard error what the search cannot find."""
    if str(index.freshness):
        warn(f"note: {index.freshness}")
