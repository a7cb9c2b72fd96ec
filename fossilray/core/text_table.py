"""Tables for a terminal, without a cell cut off: columns side by side where they fit, else a line per column."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from fossilray.core.text import strip_control_characters

PIPED_WIDTH = 10_000_000
"""Width of output to a file or another program, which has none of its own: no line is folded."""

MIN_FOLDED = 20
"""Narrower columns of folded text are harder to read than records."""

_GAP = 2
_RULE_WIDTH = 80


def open_console(*, stderr: bool = False) -> Console:
    """Open a console on a standard stream. Without a terminal, its lines are as long as their content."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else PIPED_WIDTH)


@dataclass(frozen=True)
class TextColumn:
    """A column: its heading, and whether its cells are numbers, which are right-aligned and never folded."""

    name: str
    is_number: bool = False


class TextTable:
    """A table for a rich console.

    Cells are plain text, or `Text` with a style; control characters are replaced. Columns that do not fit the width
    of the console are folded between words. Where that is not enough, each row is written as a record: one line per
    column. A word that is longer than the console is wide continues on the next line.
    """

    def __init__(self, *columns: str | TextColumn, title: str | None = None) -> None:
        self._columns = [
            column if isinstance(column, TextColumn) else TextColumn(column) for column in columns
        ]
        self._title = title
        self._rows: list[list[Text]] = []

    def add_row(self, *cells: str | Text) -> None:
        """Add a row, with a cell for each column."""
        if len(cells) != len(self._columns):
            raise ValueError(f"{len(cells)} cells for {len(self._columns)} columns")
        self._rows.append([_plain(cell) for cell in cells])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._title is not None:
            yield Text(strip_control_characters(self._title), style="bold", overflow="fold")
        widths = self._widths(options.max_width)
        if widths is None:
            yield from self._records(console, options.max_width)
        else:
            yield self._side_by_side(widths)

    def _widths(self, available: int) -> list[int] | None:
        """Return the width of each column, or None where the columns do not fit side by side."""
        cells = [
            [strip_control_characters(column.name), *(row[number].plain for row in self._rows)]
            for number, column in enumerate(self._columns)
        ]
        natural = [max(map(text_width, texts)) for texts in cells]
        narrowest = [
            width if column.is_number else max(*map(_longest_word, texts), min(width, MIN_FOLDED))
            for column, texts, width in zip(self._columns, cells, natural, strict=True)
        ]
        spare = available - _GAP * (len(self._columns) - 1) - sum(narrowest)
        if spare < 0:
            return None
        wanted = [width - narrow for width, narrow in zip(natural, narrowest, strict=True)]
        share = min(1.0, spare / max(sum(wanted), 1))
        return [narrow + int(want * share) for narrow, want in zip(narrowest, wanted, strict=True)]

    def _side_by_side(self, widths: Sequence[int]) -> Table:
        table = Table(
            header_style="bold",
            show_edge=False,
            pad_edge=False,
            show_header=any(column.name for column in self._columns),
            box=None,
            padding=(0, _GAP, 0, 0),
        )
        for column, width in zip(self._columns, widths, strict=True):
            table.add_column(
                Text(strip_control_characters(column.name)),
                justify="right" if column.is_number else "left",
                width=max(width, 1),
                overflow="fold",
            )
        for row in self._rows:
            table.add_row(*row)
        return table

    def _records(self, console: Console, available: int) -> Iterator[Segment]:
        """Yield each row as a record: a rule with its number, then names and cells in two columns.

        A name or a word that is too long for its column gets lines of its own, over the whole width.
        """
        names = [Text(strip_control_characters(column.name), style="bold") for column in self._columns]
        name_width = min(max((text_width(name.plain) for name in names), default=0), available // 2)
        cell_width = available - name_width - _GAP
        for number, row in enumerate(self._rows, start=1):
            rule = f"{number:,} ".ljust(min(available, _RULE_WIDTH), "-")
            yield from _folded(Text(rule, style="dim"), console, available)
            for name, cell in zip(names, row, strict=True):
                if text_width(name.plain) <= name_width and _longest_word(cell.plain) <= cell_width:
                    indent = " " * (name_width + _GAP)
                    yield Segment(name.plain, console.get_style("bold"))
                    yield Segment(indent[text_width(name.plain) :])
                    yield from _folded(cell, console, cell_width, indent=indent)
                else:
                    yield from _folded(name, console, available)
                    yield from _folded(cell, console, available)


def _folded(cell: Text, console: Console, width: int, *, indent: str = "") -> Iterator[Segment]:
    """Yield the text in lines of at most this width; all lines but the first are indented."""
    lines = [cell] if text_width(cell.plain) <= width else cell.wrap(console, width, overflow="fold")
    for number, line in enumerate(lines):
        if number and indent:
            yield Segment(indent)
        yield Segment(line.plain.rstrip(), console.get_style(cell.style))
        yield Segment.line()


def bar_width(console: Console, label: str) -> int:
    """Return the width of a progress bar that leaves room for its label, two numbers of six digits and a duration."""
    return max(1, min(36, console.width - text_width(label) - 24))


def name_value_grid() -> Table:
    """Return a grid for names and values that folds long values and cuts nothing off."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", overflow="fold")
    grid.add_column(overflow="fold")
    return grid


def text_width(text: str) -> int:
    """The number of terminal columns of a text."""
    return len(text) if text.isascii() else cell_len(text)


def _plain(cell: str | Text) -> Text:
    text = cell if isinstance(cell, Text) else Text(cell)
    return Text(strip_control_characters(text.plain), style=text.style, overflow="fold")


def _longest_word(text: str) -> int:
    return max(map(text_width, text.split()), default=0)
