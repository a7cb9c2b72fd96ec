"""Commands about the samples of a run's slides: export, import of corrections, and their history."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fossilray.cli.options import (
    ConfigOption,
    DryRunOption,
    RunArgument,
    RunOnlyArgument,
    SetOption,
    TableFileOption,
    TableFormatOption,
    login,
    open_store,
    outside_runs,
)
from fossilray.cli.output import choose_table_format, out, print_line, write_rows
from fossilray.core.errors import UsageError
from fossilray.core.text_table import TextColumn, TextTable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fossilray.store.samples.rounds import SampleChange, SampleRound, SampleValue

_MAX_LINES = 40


def export_samples(
    run: RunArgument,
    out_file: Annotated[
        Path,
        typer.Option(
            "--out",
            callback=outside_runs,
            help="Output file (.csv, .xlsx, .ods, .parquet); edit it by hand, then import it.",
        ),
    ] = Path("samples.csv"),
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Write the sample of every slide, as it was last corrected, into a table to edit."""
    from fossilray.store.samples.corrections import iter_samples, merge_rounds
    from fossilray.store.samples.importing import as_of_rounds
    from fossilray.store.samples.table import write_samples

    store = open_store(run, config, set_)
    store.read_run()
    rounds = store.sample_rounds.all()
    samples = list(iter_samples(store.read_catalog(), merge_rounds(rounds)))
    write_samples(samples, out_file, as_of=as_of_rounds(rounds))
    print_line(f"{len(samples):,} slides, after {len(rounds)} rounds of corrections -> {out_file}")


def import_samples(
    run: RunOnlyArgument,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Table with the column slide_id and columns of `samples export`, or a catalog: CSV, .xlsx, .ods or "
            "Parquet.",
        ),
    ],
    who: Annotated[
        str | None, typer.Option("--who", help="Name for the history; default: your login name.")
    ] = None,
    dry_run: DryRunOption = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Correct wells, depths and samples of slides: the values of a table that differ become a round of the run."""
    from fossilray.store.samples.importing import import_round

    store = open_store(run, config, set_)
    store.read_run()
    if store.is_dataset:
        raise UsageError(
            f"{store.url} is a compacted dataset, which is only read; import into its run {store.source_run.url}, "
            "whose corrections the dataset shows"
        )
    report = import_round(
        file, store.read_catalog(), store.sample_rounds, who=who or login(), is_kept=not dry_run
    )
    _print_changes(report.changes)
    for note in report.notes:
        print_line(f"note: {note}")
    slides = len({change.slide_id for change in report.changes})
    if not report.changes:
        print_line(f"nothing new in {file}: the {report.slides:,} slides are as the run has them")
    elif report.round is None:
        print_line(f"dry run: {slides:,} of {report.slides:,} slides would be corrected; nothing was written")
    else:
        print_line(
            f"round {report.round.number}: {slides:,} of {report.slides:,} slides corrected in {store.url}"
        )


def history(
    run: RunArgument,
    slide: Annotated[
        str | None, typer.Option("--slide-id", help="Show the corrections of this slide only.")
    ] = None,
    form: TableFormatOption = None,
    out_file: TableFileOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Show the rounds of corrections to samples: when, by whom, and each value before and after."""
    from fossilray.store.samples.rounds import shown_changes

    store = open_store(run, config, set_)
    store.read_run()
    rounds = list(shown_changes(store.sample_rounds.all()))
    form = choose_table_format(form, out_file)
    if form != "table" or out_file is not None:
        write_rows(_history_table(rounds, slide), form, out_file)
        return
    if not rounds:
        print_line(f"no sample of {store.url} was corrected yet; see `fossilray samples export`")
    for round_ in rounds:
        changes = [change for change in round_.changes if slide is None or change.slide_id == slide]
        if changes or slide is None:
            print_line(f"round {round_.number}, {round_.at[:19]} UTC, {round_.who}, from {round_.source}")
            _print_changes(changes)


def _history_table(rounds: Sequence[SampleRound], slide: str | None):  # type: ignore[no-untyped-def]
    import pyarrow as pa

    rows = [
        {
            "round": round_.number,
            "at": round_.at,
            "who": round_.who,
            "source": round_.source,
            "slide_id": change.slide_id,
            "column": change.column,
            "was": _text(change.was),
            "now": _text(change.now),
        }
        for round_ in rounds
        for change in round_.changes
        if slide is None or change.slide_id == slide
    ]
    texts = ("at", "who", "source", "slide_id", "column", "was", "now")
    return pa.Table.from_pylist(
        rows, schema=pa.schema([("round", pa.int64()), *((name, pa.string()) for name in texts)])
    )


def _print_changes(changes: Sequence[SampleChange]) -> None:
    """Print a line for each column with the same values before and after in some slides."""
    groups: dict[tuple[str, str | None, str | None], list[str]] = {}
    for change in changes:
        if change.was != change.now:
            groups.setdefault((change.column, _text(change.was), _text(change.now)), []).append(
                change.slide_id
            )
    if not groups:
        return
    table = TextTable(TextColumn("slides", is_number=True), "slide", "column", "was", "now")
    for (column, was, now), slides in list(groups.items())[:_MAX_LINES]:
        more = f" and {len(slides) - 2:,} more" if len(slides) > 2 else ""
        table.add_row(f"{len(slides):,}", ", ".join(slides[:2]) + more, column, was or "–", now or "–")
    out.print(table)
    if len(groups) > _MAX_LINES:
        print_line(f"and {len(groups) - _MAX_LINES:,} more")


def _text(value: SampleValue) -> str | None:
    return f"{value:.12g}" if isinstance(value, float) else value
