"""Output of commands: consoles, single lines, progress, and the damaged files that were left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.text import Text

from fossilray.core.text import strip_control_characters
from fossilray.core.text_table import open_console

if TYPE_CHECKING:
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

    columns = (TextColumn(label), BarColumn(bar_width=36), MofNCompleteColumn(), TimeRemainingColumn())
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
