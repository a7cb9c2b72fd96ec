"""The command line: one command per question a user asks of a run."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fossilray import __version__
from fossilray.config import RunConfig, default_yaml, load_config
from fossilray.errors import ConfigError, FossilrayError, UsageError

if TYPE_CHECKING:
    from fossilray.job import JobResult
    from fossilray.store import RunStore

app = typer.Typer(
    name="fossilray",
    help="From scanned palynology slides to a census of microfossils.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)
out = Console()
err = Console(stderr=True)

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Run directory: a local path or s3://…")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="YAML file; `fossilray config` prints the defaults.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="One field, e.g. detector.confidence=0.3; may be repeated.")
]


SlideForm = Literal["mrxs", "tiff"]
TableForm = Literal["table", "csv", "json", "parquet"]
ExportForm = Literal["geojson", "coco", "csv"]


def main() -> None:
    """Run a command; a FossilrayError is one sentence on stderr and exit code 2 (usage) or 1."""
    try:
        app()
    except FossilrayError as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        err.print("stopped; slides in flight were not committed, the same command goes on from here")
        sys.exit(130)


@app.command()
def process(
    slides: Annotated[
        str | None,
        typer.Argument(
            help="Folder, glob, one slide, or a catalog (.csv, .parquet); default: slides.source."
        ),
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", help="Run directory: a local path or s3://…; default: store.run.")
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    workers: Annotated[
        int | None, typer.Option(help="Workers; default: as many as the machine holds.")
    ] = None,
    address: Annotated[
        str, typer.Option(help="Ray cluster: `local` starts a private one, `auto` joins a running one.")
    ] = "local",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Open every slide, print the plan, write nothing.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try slides again that failed or were quarantined earlier.")
    ] = False,
    single_writer: Annotated[
        bool,
        typer.Option("--single-writer", help="Promise that this driver alone commits (store.single_writer)."),
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 when any slide failed.")] = False,
) -> None:
    """Detect, crop and embed every object of the slides into a run directory; the same command resumes."""
    from fossilray.dry_run import plan_run, render_plan
    from fossilray.job import run_job
    from fossilray.progress import choose_display

    settings = _settings(config, set_, workers)
    if single_writer:
        settings = settings.model_copy(
            update={"store": settings.store.model_copy(update={"single_writer": True})}
        )
    source, run = slides or settings.slides.source, run or settings.store.run
    if source is None or run is None:
        missing = (
            "slides: name them, or set slides.source"
            if source is None
            else "run directory: give --run, or set store.run"
        )
        raise ConfigError(f"no {missing} in the configuration")
    if dry_run:
        out.print(render_plan(plan_run(source, run, settings)))
        return
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    result = run_job(
        source,
        run,
        settings,
        address=address,
        display=choose_display(out),
        retry_failed=retry_failed,
        stop=stop,
    )
    _print_result(result, run)
    raise typer.Exit(3 if strict and result.failures else result.exit_code)


@app.command()
def catalog(
    slides: Annotated[str, typer.Argument(help="Folder, glob or one slide.")],
    out_file: Annotated[Path, typer.Option("--out", help="CSV to write; edit it by hand, then process it.")],
) -> None:
    """List every slide with its facts; what looks like one and is none goes to OUT.refused.csv with the reason."""
    from fossilray.catalog import find_slides, write_catalog, write_refused

    found = find_slides(slides)
    write_catalog(found, out_file)
    if found.refused:
        write_refused(found, out_file.with_suffix(".refused.csv"))
    out.print(f"{len(found.rows)} slides -> {out_file}", markup=False, highlight=False, soft_wrap=True)
    for refused in found.refused:
        out.print(
            f"  refused {refused.path}: {refused.reason}", markup=False, highlight=False, soft_wrap=True
        )
    if not found.rows:
        raise typer.Exit(3)


@app.command()
def status(run: RunArgument, config: ConfigOption = None, set_: SetOption = None) -> None:
    """What is committed, in flight and failed, at what rate; read from the run directory alone."""
    from fossilray.status import describe, render

    out.print(render(describe(_store(run, config, set_))))


@app.command()
def report(
    run: RunArgument,
    out_file: Annotated[Path, typer.Option("--out", help="HTML file to write.")] = Path("report.html"),
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Write one self-contained HTML page: figures, pictures, contact sheets, depths, losses, provenance."""
    from fossilray.report import write_report

    out.print(f"report: {write_report(_store(run, config, set_), out_file)}", highlight=False, soft_wrap=True)


@app.command()
def query(
    run: RunArgument,
    sql: Annotated[str, typer.Argument(help="SQL over the views objects, slides, failures and catalog.")],
    form: Annotated[TableForm, typer.Option("--format", help="How to print the answer.")] = "table",
    out_file: Annotated[Path | None, typer.Option("--out", help="File instead of the terminal.")] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Ask DuckDB."""
    from fossilray.query import run_query
    from fossilray.tables import print_table, write_table

    table = run_query(_store(run, config, set_), sql)
    if form == "table" and out_file is None:
        print_table(table, console=out)
    else:
        write_table(table, form="csv" if form == "table" else form, out=out_file)


@app.command()
def crops(
    run: RunArgument,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for the images.")],
    where: Annotated[str, typer.Option(help='SQL condition on objects, e.g. "width_um > 50".')] = "true",
    limit: Annotated[int | None, typer.Option(help="Most images to write.")] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Write matching crops as image files."""
    from fossilray.export import save_crops

    count = save_crops(_store(run, config, set_), where=where, out=out_dir, limit=limit)
    out.print(f"{count} crops -> {out_dir}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def export(
    run: RunArgument,
    out_path: Annotated[Path, typer.Option("--out", help="File, or folder for one GeoJSON per slide.")],
    form: Annotated[ExportForm, typer.Option("--format", help="GeoJSON opens in QuPath.")] = "geojson",
    where: Annotated[str, typer.Option(help="SQL condition on objects.")] = "true",
    slide: Annotated[str | None, typer.Option(help="One slide_id.")] = None,
    keep_bounds: Annotated[
        bool,
        typer.Option("--keep-bounds", help="OpenSlide's frame; default subtracts the bounds as QuPath does."),
    ] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Write the boxes for other programs."""
    from fossilray.export import export_objects

    count = export_objects(
        _store(run, config, set_),
        out_path,
        form=form,
        where=where,
        slide=slide,
        subtract_bounds=not keep_bounds,
    )
    out.print(f"{count} objects -> {out_path}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def synth(
    out_dir: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the slides and truth.parquet.")],
    slides: Annotated[int, typer.Option(min=1, help="How many slides.")] = 6,
    size: Annotated[int, typer.Option(min=1024, help="Side of each slide in level-0 pixels.")] = 12288,
    form: Annotated[SlideForm, typer.Option("--format", help="File format.")] = "mrxs",
    seed: Annotated[int, typer.Option(help="Equal seeds give equal slides.")] = 1,
) -> None:
    """Write synthetic palynology slides and the truth about every object on them."""
    from fossilray.synthetic.archive import synthesise_archive

    truth = synthesise_archive(out_dir, slides=slides, size_px=size, form=form, seed=seed, console=out)
    out.print(f"{slides} slides and {truth.name} -> {out_dir}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to put it.")] = Path(
        "fossilray-demo"
    ),
    slides: Annotated[int, typer.Option(min=1, help="How many slides to make.")] = 6,
    size: Annotated[int, typer.Option(min=1024, help="Side of each slide in level-0 pixels.")] = 12288,
) -> None:
    """Make a small archive, run the whole job over it, and write the report; offline."""
    from fossilray.demo import run_demo

    run_demo(folder, slides=slides, size_px=size, console=out)


@app.command(name="config")
def print_config() -> None:
    """Print the default configuration as YAML with comments."""
    sys.stdout.write(default_yaml())


@app.command()
def doctor() -> None:
    """Check the installation: Ray, torch, CUDA, OpenSlide, codecs, weights, scratch space."""
    from fossilray.doctor import examine, render

    findings = examine()
    out.print(render(findings))
    if any(finding.verdict == "broken" for finding in findings):
        raise typer.Exit(1)


@app.command()
def version() -> None:
    """Print the version and the licence."""
    out.print(f"fossilray {__version__}, AGPL-3.0-or-later", markup=False, highlight=False, soft_wrap=True)


def _settings(config: Path | None, assignments: list[str] | None, workers: int | None = None) -> RunConfig:
    extra = [] if workers is None else [f"workers.count={workers}"]
    return load_config(config, [*(assignments or []), *extra])


def _store(run: str, config: Path | None, assignments: list[str] | None) -> RunStore:
    from fossilray.store import RunStore

    return RunStore.open(run, _settings(config, assignments).store)


def _print_result(result: JobResult, run: str) -> None:
    tally = result.tally
    out.print(
        f"{tally.already_committed + tally.committed} of {tally.total} slides committed"
        f" ({tally.already_committed} before), {tally.objects:,} new objects, {len(result.failures)} failed"
        f" -> {run}",
        highlight=False,
        soft_wrap=True,
    )
    if result.failures:
        table = Table("slide", "stage", "error", "why", title="Failed slides", title_justify="left")
        for failure in result.failures[:200]:
            table.add_row(
                *(escape(text) for text in (failure.slide_id, failure.stage, failure.error, failure.message))
            )
        out.print(table)
    if result.stopped:
        out.print("stopped before the end; the same command goes on from here", highlight=False)
