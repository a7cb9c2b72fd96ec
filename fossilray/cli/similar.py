"""Commands that build an index over runs and look in it for what looks alike."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fossilray.cli.options import (
    ClusterOption,
    ConfigOption,
    SetOption,
    WorkersOption,
    err,
    out,
    outside_runs,
    print_result,
    settings,
    stop_on_sigterm,
)
from fossilray.core.config.choices import ResultFormat

if TYPE_CHECKING:
    import pyarrow as pa

    from fossilray.analysis.search.search import SearchIndex

IndexArgument = Annotated[
    str, typer.Argument(metavar="INDEX", help="What `fossilray index build` made: a local path or s3://…")
]
FormOption = Annotated[
    ResultFormat | None, typer.Option("--format", help="How to print or write the table; default: by --out.")
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        callback=outside_runs,
        help="File for the table: .csv, .json or .parquet; default: the terminal.",
    ),
]


def build(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Run directories or compacted datasets, local or s3://…"),
    ],
    to: Annotated[str, typer.Option("--to", help="Where the index is, or shall be: a folder or s3://…")],
    embeddings: Annotated[
        str | None,
        typer.Option(help="Name of the embeddings to index, of `fossilray embed`; default: the runs' own."),
    ] = None,
    coder: Annotated[
        str,
        typer.Option(
            help="How vectors are kept: pca64-8bit, pca96-6bit, pca128-4bit, pca176-4bit; auto tries."
        ),
    ] = "auto",
    lists: Annotated[
        int | None, typer.Option(help="Lists of neighbours; default: after the number of objects.")
    ] = None,
    sample: Annotated[
        int | None, typer.Option(help="Vectors to learn lists and axes from; default: 400,000 or 64 a list.")
    ] = None,
    shard_objects: Annotated[
        int, typer.Option("--shard-objects", help="Most objects of a shard, which a worker holds in memory.")
    ] = 8_000_000,
    config: ConfigOption = None,
    set_: SetOption = None,
    workers: WorkersOption = None,
    address: ClusterOption = "local",
) -> None:
    """Index the vectors of runs, so that look-alikes are found; again, to add what was committed since."""
    from fossilray.analysis.search.plan import IndexSettings
    from fossilray.jobs.index import build_index
    from fossilray.jobs.progress import choose_display

    result = build_index(
        runs,
        to,
        settings(config, set_, workers),
        IndexSettings(
            embeddings=embeddings, coder=coder, lists=lists, sample=sample, shard_objects=shard_objects
        ),
        address=address,
        display=choose_display(out),
        stop=stop_on_sigterm(),
    )
    print_result(result, to, things="vectors indexed")
    raise typer.Exit(result.strict_exit_code)


def status(index: IndexArgument, config: ConfigOption = None, set_: SetOption = None) -> None:
    """What an index holds, how it was made, and what its runs hold that it lacks."""
    from fossilray.analysis.search.search import SearchIndex
    from fossilray.core.text import format_bytes
    from fossilray.store.query.vectors import VectorBackbone

    found = SearchIndex.open(index, settings(config, set_).store)
    record, shards = found.record, found.shards
    backbone = VectorBackbone.of(record.backbone)
    entries, size = sum(one.entries for one in shards), sum(one.size_bytes for one in shards)
    lines = [
        f"{entries:,} vectors of {_count(len(found.slides), 'slide')} in {_count(len(shards), 'shard')}, "
        f"{format_bytes(size)} ({size / max(entries, 1):.1f} bytes a vector)",
        f"of {backbone}, {backbone.dimension} numbers; {record.coder}, {record.lists:,} lists,"
        f" taught on {record.taught_on:,} vectors, {record.created_at}",
        *(f"tried: {one.coder}, {one.bytes} bytes, recall {one.recall:.3f}" for one in record.trials),
        *(f"run: {url}" for url in found.runs()),
        str(found.freshness) or "it holds all that its runs hold",
    ]
    for line in lines:
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(3 if found.freshness.to_build else 0)


def duplicates(
    index: IndexArgument,
    threshold: Annotated[float, typer.Option(help="Least cosine between the two.")] = 0.98,
    same_slide: Annotated[
        bool, typer.Option("--same-slide", help="Count neighbours on the same slide too.")
    ] = False,
    probes: Annotated[int, typer.Option(help="Lists looked into for each object.")] = 8,
    form: FormOption = None,
    out_file: OutOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """List objects that look the same on two slides: the same fossil in overlapping scans, a slide scanned twice."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from fossilray.analysis.search.duplicates import find_duplicates, pairs_table
    from fossilray.analysis.search.search import SearchIndex

    found = SearchIndex.open(index, settings(config, set_).store)
    _warn(found)
    columns = (TextColumn("comparing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("", total=len(found.slides))
        pairs = find_duplicates(
            found,
            threshold=threshold,
            same_slide=same_slide,
            probes=probes,
            on_slide=lambda: progress.advance(task),
        )
    _give(pairs_table(found, pairs), form, out_file)
    err.print(
        f"{_count(len(pairs), 'pair')} with a cosine of at least {threshold:g}",
        highlight=False,
    )


def similar(
    index: IndexArgument,
    image: Annotated[
        list[Path] | None, typer.Option("--image", help="Image of one fossil; may be repeated.")
    ] = None,
    object_: Annotated[
        list[str] | None,
        typer.Option("--object", metavar="SLIDE:ID", help="slide_id and object_id; may be repeated."),
    ] = None,
    crops: Annotated[
        Path | None, typer.Option("--crops", help="Folder of images; each is asked about.")
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", help="Whose slide --object means, if several runs have it.")
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(help="SQL condition on objects, e.g. \"width_um > 50 AND well = '6407/6-5'\"."),
    ] = None,
    head: Annotated[
        str | None, typer.Option("--head", help="Predictions whose genus is shown and asked by --where.")
    ] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="Objects to find for each question.")] = 50,
    backbone: Annotated[
        str, typer.Option(help="That describes images; the one that the runs were made with.")
    ] = "bundled",
    probes: Annotated[int, typer.Option(min=1, help="Lists looked into; more find more, slower.")] = 64,
    candidates: Annotated[
        int | None,
        typer.Option(
            min=1, help="Objects compared by their exact vectors; default: four for each hit, at least 200."
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option("--sheet", callback=outside_runs, help="Page (.html) or picture (.png) to draw."),
    ] = None,
    form: FormOption = None,
    out_file: OutOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Find the objects of an archive that look most like a fossil: an image, an object, or a folder of crops."""
    from fossilray.analysis.search.filters import describe_hits, filter_where
    from fossilray.analysis.search.queries import (
        exclude_self,
        images_below,
        queries_from_images,
        queries_from_objects,
    )
    from fossilray.analysis.search.search import SearchIndex
    from fossilray.analysis.search.sheet import append_missing_summaries, write_search_sheet
    from fossilray.core.errors import UsageError
    from fossilray.render.contact_sheet import require_sheet_suffix
    from fossilray.store.query.connection import parse_object_name

    if sum(map(bool, (image, object_, crops))) != 1:
        raise UsageError("say what to look for by one of --image FILE, --object SLIDE:ID and --crops DIR")
    if sheet is not None:
        require_sheet_suffix(sheet, option="--sheet")
    form = _form(form, out_file)
    found = SearchIndex.open(index, settings(config, set_).store)
    _warn(found)
    if object_:
        questions = queries_from_objects(
            found, [found.find_object(*parse_object_name(one), run=run) for one in object_]
        )
    else:
        paths = list(dict.fromkeys(image or [])) or images_below(crops or Path())
        names = [str(path if crops is None else path.relative_to(crops)) for path in paths]
        questions = queries_from_images(found, paths, names=names, backbone=backbone)
    allowed = filter_where(found, where, head=head)
    more = any(one is not None for one in questions.itself)
    hits = found.search(
        questions.vectors, count=k + more, probes=probes, candidates=candidates, allowed=allowed
    )
    answers = exclude_self(questions, hits, count=k)
    table = describe_hits(found, answers, questions.names, head=head)
    if sheet is not None:
        asked = f"{k} of {sum(one.objects for one in found.slides):,} objects in {found.index.url}"
        write_search_sheet(
            found,
            append_missing_summaries(found, questions, table),
            sheet,
            facts=f"{asked}{f', where {where}' if where else ''}; backbone {found.record.backbone['name']}.",
        )
        err.print(f"sheet: {sheet}", markup=False, highlight=False, soft_wrap=True)
    if sheet is None or out_file is not None or form != "table":
        _give(table, form, out_file)


def _warn(found: SearchIndex) -> None:
    """Say on standard error what cannot be found."""
    from fossilray.core.text import strip_control_characters

    if str(found.freshness):
        err.print(
            f"note: {strip_control_characters(str(found.freshness))}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _form(form: ResultFormat | None, out_file: Path | None) -> ResultFormat:
    from fossilray.core.errors import UsageError

    if form is not None or out_file is None:
        return form or "table"
    endings: dict[str, ResultFormat] = {".csv": "csv", ".json": "json", ".parquet": "parquet"}
    if out_file.suffix.lower() not in endings:
        raise UsageError(
            f"--out {out_file} is neither .csv nor .json nor .parquet; rename it, or give --format"
        )
    return endings[out_file.suffix.lower()]


def _give(table: pa.Table, form: ResultFormat | None, out_file: Path | None) -> None:
    from fossilray.core.text_table import print_table
    from fossilray.render.tables import write_table

    form = _form(form, out_file)
    if form == "table" and out_file is None:
        shown = [name for name in _ON_TERMINAL if name in table.column_names]
        print_table(table.select(shown), console=out)
    else:
        write_table(table, form="csv" if form == "table" else form, out=out_file)


_ON_TERMINAL = (
    "query", "rank", "similarity", "well", "slide_id", "object_id", "slide_id_2", "object_id_2", "genus",
)  # fmt: skip


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
