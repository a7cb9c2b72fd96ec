"""Output of commands: consoles, single lines, progress, and the damaged files that were left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from fossilray.core.config.choices import ResultFormat
from fossilray.core.errors import UsageError
from fossilray.core.text import strip_control_characters
from fossilray.core.text_table import bar_width, open_console

if TYPE_CHECKING:
    import pyarrow as pa

    from fossilray.store.run.left_out import LeftOut

_MAX_LEFT_OUT = 20
_opened: list[LeftOut] = []
"""The left-out files of each run directory that the command has opened."""

out = open_console()
err = open_console(stderr=True)


def print_line(line: str) -> None:
    """Print one line on standard output, without markup, colours or folding; control characters are replaced."""
    out.print(strip_control_characters(line), markup=False, highlight=False, soft_wrap=True)


def warn(line: str) -> None:
    """Print one line on standard error, as `print_line` does."""
    err.print(strip_control_characters(line), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def working(label: str) -> Iterator[Callable[[str], None]]:
    """Show on a terminal's standard error what is being done; call the value with another label to replace it."""
    with err.status(f"{label} …") as status:
        yield lambda text: status.update(f"{text} …")


@contextmanager
def progress_bar(label: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """Show a progress bar on a terminal's standard error.

    Call the value without arguments to advance by one, or with the number done and the total.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(label),
        BarColumn(bar_width=bar_width(err, label)),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("", total=total)

        def update(done: int | None = None, new_total: int | None = None) -> None:
            if done is None:
                progress.advance(task)
            else:
                progress.update(task, completed=done, total=new_total)

        yield update


def report_later(left_out: LeftOut) -> None:
    """Name these damaged files when the command ends."""
    _opened.append(left_out)


@contextmanager
def left_out_reported() -> Iterator[None]:
    """At the end of the block, name on standard error the damaged files that its command left out."""
    _opened.clear()
    try:
        yield
    finally:
        messages = list(dict.fromkeys(text for left_out in _opened for text in left_out.messages))
        for message in messages[:_MAX_LEFT_OUT]:
            line = Text("left out: ", style="yellow") + Text(strip_control_characters(message))
            err.print(line, soft_wrap=True)
        if len(messages) > _MAX_LEFT_OUT:
            err.print(f"left out: {len(messages) - _MAX_LEFT_OUT:,} more; `fossilray verify` lists them")


def choose_table_format(form: ResultFormat | None, out_file: Path | None) -> ResultFormat:
    """Return the format that `--format` names, or else that of the suffix of `--out`, or else a table.

    Raises:
        UsageError: the suffix names no format.
    """
    if form is not None or out_file is None:
        return form or "table"
    suffixes: dict[str, ResultFormat] = {".csv": "csv", ".json": "json", ".parquet": "parquet"}
    if out_file.suffix.lower() not in suffixes:
        raise UsageError(
            f"--out {out_file} is neither .csv nor .json nor .parquet; rename it, or give --format"
        )
    return suffixes[out_file.suffix.lower()]


def write_rows(
    table: pa.Table, form: ResultFormat, out_file: Path | None, *, shown: Sequence[str] | None = None
) -> None:
    """Print a table, or write it in a format to a file or to standard output.

    shown: columns that a table on the terminal has; None: all.
    """
    from fossilray.render.tables import print_table, write_table

    if form == "table" and out_file is None:
        columns = [name for name in shown or table.column_names if name in table.column_names]
        print_table(table.select(columns) if shown else table, console=out)
    else:
        write_table(table, form="csv" if form == "table" else form, out=out_file)
