"""Commands for those who look after a run: what failed, is it whole, what can go, and its compact copy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fossilray.cli.options import ConfigOption, RunArgument, SetOption, err, open_store, out, settings
from fossilray.cli.results import OutOption
from fossilray.core.config.choices import ResultFormat
from fossilray.core.errors import ConfigError, UsageError
from fossilray.core.text import strip_control_characters

if TYPE_CHECKING:
    from rich.progress import Progress

_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def failures(
    run: RunArgument,
    where: Annotated[
        str,
        typer.Option(
            help="SQL condition on failures, e.g. \"error = 'TooManyUnreadableTiles'\" or \"state = 'failed'\"."
        ),
    ] = "true",
    form: Annotated[ResultFormat, typer.Option("--format", help="How to print them.")] = "table",
    out_file: OutOption = None,
    traceback: Annotated[
        bool,
        typer.Option("--traceback", help="Print the traceback of each exception that no rule expects, once."),
    ] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """List failed attempts at slides that are not committed: state of the slide, stage, class, reason, host, time."""
    from fossilray.core.text_table import print_table
    from fossilray.render.tables import write_table
    from fossilray.store.query.connection import run_query
    from fossilray.store.run.slide_states import read_states

    on_terminal = form == "table" and out_file is None
    columns = "slide_id, state, stage, error, message, failed_at" if on_terminal else "*"
    sql = f"SELECT {columns} FROM failures WHERE (\n{where}\n) ORDER BY slide_id, failed_at"
    store = open_store(run, config, set_)
    if traceback:
        _print_tracebacks(run_query(store, _TRACEBACKS.format(where=where)).to_pylist())
        return
    table = run_query(store, sql)
    if on_terminal:
        if table.num_rows:
            print_table(table, console=out)
        counts = read_states(store).counts
        rest = "".join(f", {part}" for part in counts.describe_rest())
        out.print(f"{counts.committed:,} of {counts.total:,} slides committed{rest}", highlight=False)
    else:
        write_table(table, form="csv" if form == "table" else form, out=out_file)


_TRACEBACKS = """
SELECT error, place, count(DISTINCT slide_id) AS slides, min(slide_id) AS slide_id,
  arg_max(traceback, failed_at) AS text
FROM failures WHERE traceback IS NOT NULL AND (
{where}
) GROUP BY error, place ORDER BY slides DESC, error, place
"""


def _print_tracebacks(kinds: Sequence[dict[str, Any]]) -> None:
    """One traceback of each class and place, with the number of slides that it was the end of."""
    if not kinds:
        out.print("no failed attempt at an uncommitted slide left a traceback")
    for kind in kinds:
        at = f" at {kind['place']}" if kind["place"] else ""
        slides = f"{kind['slides']} slides, such as" if kind["slides"] > 1 else "slide"
        lines = [f"{kind['error']}{at}: {slides} {kind['slide_id']}", *kind["text"].splitlines(), ""]
        for line in lines:
            out.print(strip_control_characters(line), markup=False, highlight=False, soft_wrap=True)


def retry(
    run: RunArgument,
    slide: Annotated[list[str] | None, typer.Option("--slide", help="slide_id; may be repeated.")] = None,
    error: Annotated[
        str | None, typer.Option("--error", help="Class of the last failure, e.g. WorkerDied.")
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Let failed and quarantined slides be tried again by the next `process`: all, chosen ones, or one class."""
    from fossilray.store.maintenance.retry import retry_failures

    forgiven = retry_failures(open_store(run, config, set_), slide_ids=slide or (), error=error)
    slides = len({failure.slide_id for failure in forgiven})
    out.print(
        f"{slides} slides ({len(forgiven)} failures) will be tried again; start the same process command"
    )


def verify(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="Run directory, compacted dataset, index or label set: a local path or s3://…",
        ),
    ],
    deep: Annotated[
        bool, typer.Option("--deep", help="Check every checksum, decode every crop, read every row.")
    ] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Write slides/ anew from the footers of the committed slides.")
    ] = False,
    withdraw: Annotated[
        bool,
        typer.Option(
            "--withdraw",
            help="Move damaged slides to withdrawn/, so that the next `process` makes them anew; delete damaged "
            "answers.",
        ),
    ] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Check that every committed slide is there once, whole; exit code 1 if any is not.

    Of a compacted dataset, an index or a label set: that every file is what was written.
    """
    from fossilray.cli.verify import check_place, place_at, render_place
    from fossilray.store.files.open import open_files
    from fossilray.store.maintenance.retry import delete_answers, withdraw_slides
    from fossilray.store.maintenance.verify import render_verified, verify_run

    files = open_files(run, settings(config, set_).store)
    if place := place_at(files):
        if rebuild or withdraw:
            raise UsageError(f"{run} is a {place}; --rebuild and --withdraw are for run directories")
        found = check_place(files, place, deep=deep)
        out.print(render_place(found))
        raise typer.Exit(0 if found.sound else 1)
    store = open_store(run, config, set_)
    with _bar("slides") as bar:
        task = bar.add_task("", total=None)
        report = verify_run(
            store,
            deep=deep,
            rebuild=rebuild,
            display=lambda done, total: bar.update(task, completed=done, total=total),
        )
    out.print(render_verified(report))
    if withdraw and not report.sound:
        gone = withdraw_slides(store, report.findings)
        answers = delete_answers(store, report.findings)
        out.print(
            f"{len(gone)} slides withdrawn; start the command that made the run again, and it makes them anew",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        if answers:
            out.print(
                f"{len(answers)} files of answers deleted; start the commands that gave them again",
                highlight=False,
            )
    raise typer.Exit(0 if report.sound else 1)


def gc(
    run: RunArgument,
    older_than: Annotated[
        str, typer.Option("--older-than", help="Least age of what is deleted: 90m, 12h or 3d.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Delete what attempts that never committed left behind; never anything that a commit names."""
    from fossilray.store.maintenance.garbage import collect_garbage, render_garbage

    report = collect_garbage(
        open_store(run, config, set_),
        older_than=_age(older_than),
        deadline_minutes=settings(config, set_).workers.deadline_minutes,
        dry_run=dry_run,
    )
    out.print(render_garbage(report))


def compact(
    run: RunArgument,
    to: Annotated[str, typer.Option("--to", metavar="DATASET", help="Where to: a local path or s3://…")],
    slides_per_file: Annotated[int, typer.Option(min=1, help="Most slides of a well in one file.")] = 200,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Lay the embeddings beside the objects, as Parquet.")
    ] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Gather a run's many small files into a dataset for queries, checked against the run before it is announced.

    Embeddings and predictions of later jobs stay in the run, where the dataset's views read them.
    """
    from fossilray.store.dataset.compact import compact_run, render_compacted

    with _bar("slides") as bar:
        task = bar.add_task("", total=None)
        report = compact_run(
            open_store(run, config, set_),
            to,
            access=settings(config, set_).store,
            slides_per_file=slides_per_file,
            embeddings=embeddings,
            display=lambda done, total: bar.update(task, completed=done, total=total),
        )
    out.print(render_compacted(report))


def _bar(what: str) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn(what),
        BarColumn(bar_width=36),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
    )


def _age(text: str) -> timedelta:
    match = _AGE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"--older-than {text!r} is no age; write for example 90m, 12h or 3d")
    return timedelta(**{_UNITS[match[2]]: float(match[1])})
