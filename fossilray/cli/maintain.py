"""Commands that look after a run: its failures, its integrity, its garbage, and a compacted copy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fossilray.cli.options import (
    ConfigOption,
    DryRunOption,
    RunArgument,
    RunOnlyArgument,
    SetOption,
    SlidesOption,
    TableFileOption,
    TableFormatOption,
    open_store,
    settings,
)
from fossilray.cli.output import choose_table_format, out, print_line, progress_bar, write_rows
from fossilray.core.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from fossilray.store import RunStore
    from fossilray.store.maintenance.slide_check import VerifyFinding

_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def failures(
    run: RunArgument,
    where: Annotated[
        str,
        typer.Option(
            help="SQL condition on the columns of `failures`, e.g. \"error = 'WorkerDied'\" or \"state = 'failed'\"."
        ),
    ] = "true",
    form: TableFormatOption = None,
    out_file: TableFileOption = None,
    traceback: Annotated[
        bool,
        typer.Option("--traceback", help="Print the traceback of each unexpected exception, once."),
    ] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """List failed attempts at slides that are not committed: state of the slide, stage, class, reason, time.

    Other formats than the table, and --out, also give the attempt, the host and all other columns of `failures`.
    """
    from fossilray.render.tables import print_table
    from fossilray.store.query.connection import run_query
    from fossilray.store.run.slide_states import read_states

    form = choose_table_format(form, out_file)
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
        print_line(f"{counts.committed:,} of {counts.total:,} slides committed{rest}")
    else:
        write_rows(table, form, out_file)


_TRACEBACKS = """
SELECT error, place AS code_line, count(DISTINCT slide_id) AS slides, min(slide_id) AS slide_id,
  arg_max(traceback, failed_at) AS text
FROM failures WHERE traceback IS NOT NULL AND (
{where}
) GROUP BY ALL ORDER BY slides DESC, error, code_line
"""


def _print_tracebacks(kinds: Sequence[dict[str, Any]]) -> None:
    """Print one traceback of each class and code line, with the number of slides that failed with it."""
    if not kinds:
        print_line("no failed attempt at an uncommitted slide recorded a traceback")
    for kind in kinds:
        at = f" at {kind['code_line']}" if kind["code_line"] else ""
        slides = f"{kind['slides']} slides, such as" if kind["slides"] > 1 else "slide"
        for line in [f"{kind['error']}{at}: {slides} {kind['slide_id']}", *kind["text"].splitlines(), ""]:
            print_line(line)


def retry(
    run: RunOnlyArgument,
    slide: SlidesOption = None,
    error: Annotated[
        str | None, typer.Option("--error", help="Class of the last failure to retry, e.g. WorkerDied.")
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Let the next `process` retry failed and quarantined slides: all, chosen ones, or those of one class of error."""
    from fossilray.store.maintenance.retry import retry_failures

    cleared = retry_failures(open_store(run, config, set_), slide_ids=slide or (), error=error)
    slides = len({failure.slide_id for failure in cleared})
    print_line(
        f"{slides} slides ({len(cleared)} failures) will be tried again; run the same `fossilray process` command again"
    )


RunOrFolderArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="Run directory, compacted dataset, index or label set: a local path or s3://…"
    ),
]
DeepOption = Annotated[
    bool, typer.Option("--deep", help="Check every checksum, decode every crop and read every row.")
]
RebuildOption = Annotated[
    bool, typer.Option("--rebuild", help="Write slides/ again from the footers of the committed slides.")
]
WithdrawOption = Annotated[
    bool,
    typer.Option(
        "--withdraw",
        help="Move damaged slides to withdrawn/, so that the next `process` processes them again; delete damaged "
        "embeddings and predictions of later jobs.",
    ),
]


def verify(
    run: RunOrFolderArgument,
    deep: DeepOption = False,
    rebuild: RebuildOption = False,
    withdraw: WithdrawOption = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Verify that every committed slide is there once, undamaged; exit with code 1 otherwise.

    For a compacted dataset, an index or a label set: verify that every file is as it was written.
    """
    from fossilray.cli.verify import check_folder, folder_kind, render_report
    from fossilray.store.files.open import open_files
    from fossilray.store.maintenance.verify import render_verified, verify_run

    files = open_files(run, settings(config, set_).store)
    if kind := folder_kind(files):
        if rebuild or withdraw:
            raise UsageError(
                f"{run} is {kind.description}; --rebuild and --withdraw apply to run directories"
            )
        checked = check_folder(files, kind, deep=deep)
        out.print(render_report(checked))
        raise typer.Exit(0 if checked.sound else 1)
    store = open_store(run, config, set_)
    with progress_bar("slides") as update:
        report = verify_run(store, deep=deep, rebuild=rebuild, display=update)
    out.print(render_verified(report))
    if withdraw and not report.sound:
        _withdraw(store, report.findings)
    raise typer.Exit(0 if report.sound else 1)


def _withdraw(store: RunStore, findings: Sequence[VerifyFinding]) -> None:
    from fossilray.store.maintenance.retry import delete_damaged_derived, withdraw_slides

    withdrawn = withdraw_slides(store, findings)
    deleted = delete_damaged_derived(store, findings)
    print_line(
        f"{len(withdrawn)} slides withdrawn; run the command that made the run again to process them again"
    )
    if deleted:
        print_line(
            f"{len(deleted)} files of embeddings or predictions deleted; run the commands that made them again"
        )


def gc(
    run: RunOnlyArgument,
    older_than: Annotated[
        str, typer.Option("--older-than", help="Minimum age of what is deleted: 90m, 12h or 3d.")
    ],
    dry_run: DryRunOption = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Delete files of attempts that never committed; files that a commit names are never deleted."""
    from fossilray.store.maintenance.garbage import collect_garbage, render_garbage

    report = collect_garbage(
        open_store(run, config, set_),
        older_than=_age(older_than),
        deadline_minutes=settings(config, set_).workers.deadline_minutes,
        dry_run=dry_run,
    )
    out.print(render_garbage(report))


def compact(
    run: RunOnlyArgument,
    to: Annotated[
        str,
        typer.Option("--to", help="Create the dataset here: a folder or s3://…"),
    ],
    slides_per_file: Annotated[
        int, typer.Option(min=1, help="Maximum number of slides of a well in one file.")
    ] = 200,
    with_embeddings: Annotated[
        bool, typer.Option("--with-embeddings", help="Write the embeddings beside the objects, as Parquet.")
    ] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Compact a run's many small files into a dataset for queries, compared with the run before it is published.

    Embeddings and predictions of later jobs stay in the run, where the dataset's views read them.
    """
    from fossilray.store.dataset.compact import compact_run, render_compacted

    with progress_bar("slides") as update:
        report = compact_run(
            open_store(run, config, set_),
            to,
            access=settings(config, set_).store,
            slides_per_file=slides_per_file,
            embeddings=with_embeddings,
            display=update,
        )
    out.print(render_compacted(report))


def _age(text: str) -> timedelta:
    match = _AGE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"--older-than {text!r} is not an age; write for example 90m, 12h or 3d")
    return timedelta(**{_UNITS[match[2]]: float(match[1])})
