"""The command that shows where one slide's time goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fossilray.cli.estimate import print_short_estimate
from fossilray.cli.options import (
    ClusterOption,
    ConfigOption,
    SetOption,
    SingleWriterOption,
    WorkersOption,
    out,
    outside_runs,
    print_result,
    settings,
    stop_on_sigterm,
)
from fossilray.core.errors import ConfigError
from fossilray.core.text import counted, strip_control_characters


def trace(
    slide: Annotated[str, typer.Argument(help="One slide, on a disk or s3://….")],
    out_file: Annotated[
        Path,
        typer.Option(
            "--out",
            callback=outside_runs,
            help="Chrome trace to write; opens in ui.perfetto.dev and chrome://tracing.",
        ),
    ] = Path("trace.json"),
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Work on one slide here, commit nothing, and write what each thread did and when."""
    from fossilray.processing.trace import trace_slide

    traced = trace_slide(slide, settings(config, set_), out_file)
    usage = traced.usage
    took = f" in {usage.seconds:,.1f} s, {usage.networks_s / usage.seconds:.0%} at networks" if usage else ""
    ended = f"failed: {traced.failure.message}" if traced.failure else "done"
    objects = f", {traced.summary.objects:,} objects" if traced.summary else ""
    out.print(
        strip_control_characters(f"{traced.slide_id} {ended}{took}{objects} -> {traced.path}"),
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if traced.failure is not None:
        raise typer.Exit(3)


SlideForm = Literal["mrxs", "tiff"]


def process(
    slides: Annotated[
        str | None,
        typer.Argument(
            help="Folder, glob, one slide, or a catalog (.csv, .parquet), on a disk or s3://…; default: slides.source."
        ),
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", help="Run directory: a local path or s3://…; default: store.run.")
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    workers: WorkersOption = None,
    address: ClusterOption = "local",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Open every slide, print the plan, write nothing.")
    ] = False,
    single_writer: SingleWriterOption = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 4 when any slide failed.")] = False,
) -> None:
    """Detect, crop and embed every object of the slides into a run directory; the same command resumes."""
    from fossilray.jobs.process import run_job
    from fossilray.jobs.progress import choose_display
    from fossilray.processing.planning.dry_run import plan_run, render_plan

    chosen = settings(config, set_, workers)
    if single_writer:
        chosen = chosen.model_copy(update={"store": chosen.store.model_copy(update={"single_writer": True})})
    source, run = slides or chosen.slides.source, run or chosen.store.run
    if source is None or run is None:
        missing = (
            "slides: name them, or set slides.source"
            if source is None
            else "run directory: give --run, or set store.run"
        )
        raise ConfigError(f"no {missing} in the configuration")
    if dry_run:
        plan = plan_run(source, run, chosen)
        out.print(render_plan(plan))
        print_short_estimate(plan, run, chosen)
        return
    result = run_job(
        source,
        run,
        chosen,
        address=address,
        display=choose_display(out),
        stop=stop_on_sigterm(),
    )
    print_result(result, run)
    raise typer.Exit(result.strict_exit_code if strict else result.exit_code)


def catalog(
    slides: Annotated[str, typer.Argument(help="Folder, glob or one slide, on a disk or s3://….")],
    out_file: Annotated[
        Path,
        typer.Option("--out", callback=outside_runs, help="CSV to write; edit it by hand, then process it."),
    ],
    name_pattern: Annotated[
        str | None,
        typer.Option(
            help="Regular expression with the named groups well and depth (and unit), for names of files; default: "
            "slides.name_pattern."
        ),
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """List every slide with its facts; what looks like one and is none goes to OUT.refused.csv with the reason."""
    from fossilray.slides.catalog import describe_missing_sites, find_slides, write_catalog, write_refused

    chosen = settings(config, set_)
    found = find_slides(
        slides,
        access=chosen.slides.access or chosen.store,
        name_pattern=name_pattern or chosen.slides.name_pattern,
    )
    write_catalog(found, out_file)
    if found.refused:
        write_refused(found, out_file.with_suffix(".refused.csv"))
    out.print(
        f"{counted(len(found.rows), 'slide')} -> {out_file}", markup=False, highlight=False, soft_wrap=True
    )
    missing = describe_missing_sites(found.rows)
    if missing is not None:
        out.print(missing, markup=False, highlight=False, soft_wrap=True)
    for refused in found.refused:
        out.print(
            strip_control_characters(f"  refused {refused.path}: {refused.reason}"),
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if not found.rows:
        raise typer.Exit(3)


def synth(
    out_dir: Annotated[
        Path,
        typer.Argument(metavar="OUT", callback=outside_runs, help="Folder for the slides and truth.parquet."),
    ],
    slides: Annotated[int, typer.Option(min=1, help="How many slides.")] = 6,
    size: Annotated[int, typer.Option(min=1024, help="Side of each slide in level-0 pixels.")] = 12288,
    form: Annotated[SlideForm, typer.Option("--format", help="File format.")] = "mrxs",
    seed: Annotated[int, typer.Option(help="Equal seeds give equal slides.")] = 1,
) -> None:
    """Write synthetic palynology slides and the truth about every object on them."""
    from fossilray.synthetic.archive import synthesise_archive

    truth = synthesise_archive(out_dir, slides=slides, size_px=size, form=form, seed=seed, console=out)
    out.print(f"{slides} slides and {truth.name} -> {out_dir}", markup=False, highlight=False, soft_wrap=True)


def demo(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to put it.")] = Path(
        "fossilray-demo"
    ),
    slides: Annotated[int, typer.Option(min=1, help="How many slides to make.")] = 6,
    size: Annotated[int, typer.Option(min=1024, help="Side of each slide in level-0 pixels.")] = 12288,
) -> None:
    """Make a small archive, run the whole job over it, and write the report; offline."""
    from fossilray.cli.demo import run_demo

    run_demo(folder, slides=slides, size_px=size, console=out)
