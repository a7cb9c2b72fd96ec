"""Commands that process slides, list them, or trace one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fossilray.cli.estimate import print_short_estimate
from fossilray.cli.options import (
    ClusterOption,
    ConfigOption,
    DryRunOption,
    MppOption,
    PlanesOption,
    RunToWriteOption,
    SetOption,
    SingleWriterOption,
    StrictOption,
    WorkersOption,
    outside_runs,
    settings,
)
from fossilray.cli.output import out, print_line
from fossilray.cli.running import print_result, stop_on_sigterm
from fossilray.core.errors import ConfigError
from fossilray.core.text import counted


def process_slides(
    slides: Annotated[
        str | None,
        typer.Argument(
            help="Folder, glob, one slide, or a catalog (.csv, .xlsx, .ods, .parquet), local or s3://…; default: "
            "slides.source."
        ),
    ] = None,
    run: RunToWriteOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    workers: WorkersOption = None,
    address: ClusterOption = "local",
    dry_run: DryRunOption = False,
    single_writer: SingleWriterOption = False,
    strict: StrictOption = False,
    mpp: MppOption = None,
    strict_doubts: Annotated[
        str | None,
        typer.Option(
            metavar="CODES",
            help="Refuse slides with these doubts instead of marking them, e.g. mpp-implausible,slide-type; "
            "replaces slides.strict_doubts.",
        ),
    ] = None,
    planes: PlanesOption = None,
) -> None:
    """Detect, crop and embed every object of the slides into a run directory; the same command resumes.

    With --dry-run, every slide is opened and none is read.
    """
    from fossilray.jobs.process import run_job
    from fossilray.jobs.progress import choose_display
    from fossilray.processing.planning.dry_run import plan_run, render_plan

    given = _resolution(mpp)
    given += [] if strict_doubts is None else [f"slides.strict_doubts=[{strict_doubts}]"]
    given += [] if planes is None else [f"slides.planes={planes}"]
    chosen = settings(config, [*(set_ or []), *given], workers)
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
    print_result(result, run, is_run=True)
    raise typer.Exit(result.strict_exit_code if strict else result.exit_code)


def catalog(
    slides: Annotated[str, typer.Argument(help="Folder, glob or one slide, local or s3://….")],
    out_file: Annotated[
        Path,
        typer.Option(
            "--out",
            callback=outside_runs,
            help="Output file (.csv, .xlsx, .ods, .parquet); edit it by hand, then process it.",
        ),
    ],
    name_pattern: Annotated[
        str | None,
        typer.Option(
            help="Regular expression with the named groups well and depth (also unit, top and base, sample_type), for "
            "file names; default: slides.name_pattern."
        ),
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    mpp: MppOption = None,
) -> None:
    """List every slide with its metadata in a table; files that cannot be used go to OUT.refused.csv with a reason."""
    from fossilray.slides.catalog import (
        check_catalog_name,
        describe_missing_mpp,
        describe_missing_sites,
        fill_in_mpp,
        find_slides,
        write_catalog,
        write_refused,
    )
    from fossilray.store.run.doubts import count_doubts

    check_catalog_name(out_file)
    chosen = settings(config, [*(set_ or []), *_resolution(mpp)])
    slides_found = find_slides(
        slides,
        access=chosen.slides.access or chosen.store,
        name_pattern=name_pattern or chosen.slides.name_pattern,
        unique_scans=chosen.slides.unique_scans,
    )
    slides_found = fill_in_mpp(slides_found, mpp)
    write_catalog(slides_found, out_file)
    if slides_found.refused:
        write_refused(slides_found, out_file.with_suffix(".refused.csv"))
    print_line(f"{counted(len(slides_found.rows), 'slide')} -> {out_file}")
    for missing in (describe_missing_sites(slides_found.rows), describe_missing_mpp(slides_found.rows)):
        if missing is not None:
            print_line(missing)
    for note in slides_found.notes:
        print_line(note)
    for doubt in count_doubts({row.slide_id: row.doubts or () for row in slides_found.rows}):
        print_line(f"  doubt {doubt}")
    for refused in slides_found.refused:
        print_line(f"  refused {refused.path}: {refused.reason}")
    if not slides_found.rows:
        raise typer.Exit(3)


def _resolution(mpp: float | None) -> list[str]:
    return [] if mpp is None else [f"slides.mpp={mpp}"]


def trace(
    slide: Annotated[str, typer.Argument(help="One slide, local or s3://….")],
    out_file: Annotated[
        Path,
        typer.Option(
            "--out",
            callback=outside_runs,
            help="Output file (.json), a Chrome trace: open it in ui.perfetto.dev or chrome://tracing.",
        ),
    ] = Path("trace.json"),
    config: ConfigOption = None,
    set_: SetOption = None,
    planes: PlanesOption = None,
) -> None:
    """Process one slide on this machine without committing it, and write a trace of its threads."""
    from fossilray.processing.trace import trace_slide

    given = [] if planes is None else [f"slides.planes={planes}"]
    traced = trace_slide(slide, settings(config, [*(set_ or []), *given]), out_file)
    usage = traced.usage
    took = (
        f" in {usage.seconds:,.1f} s, {usage.network_busy_s / usage.seconds:.0%} at networks" if usage else ""
    )
    ended = f"failed: {traced.failure.message}" if traced.failure else "done"
    objects = f", {traced.summary.objects:,} objects" if traced.summary else ""
    print_line(f"{traced.slide_id} {ended}{took}{objects} -> {traced.path}")
    if traced.failure is not None:
        raise typer.Exit(3)
