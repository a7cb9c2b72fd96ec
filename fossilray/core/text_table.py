"""Tables for a terminal that never cut a cell: beside each other where they fit, else one line for each column."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from fossilray.core.text import format_cell, strip_control_characters

if TYPE_CHECKING:
    import pyarrow as pa


PIPED_WIDTH = 100_000
"""Columns of output that goes to a file or another program, which has no width of its own."""


MIN_FOLDED = 20
"""A column whose text is folded to less than this is read more easily below the others than beside them."""


_GAP = 2


def open_console(*, stderr: bool = False) -> Console:
    """A console on a standard stream; without a terminal its lines are as long as what they hold."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else PIPED_WIDTH)


@dataclass(frozen=True)
class Column:
    """One column: its heading, and whether its cells are numbers, which stand to the right and are never folded."""

    name: str
    is_number: bool = False


class TextTable:
    """A table for a rich console.

    Cells are plain text or `Text` with a style; control characters are replaced. Where the cells do not fit beside each
    other, text is folded between words; where that is not enough each row is written as a record, a line for each
    column. What is longer than the console is wide goes on in the next line.
    """

    def __init__(self, *columns: str | Column, title: str | None = None) -> None:
        self._columns = [Column(one) if isinstance(one, str) else one for one in columns]
        self._title = title
        self._rows: list[list[Text]] = []

    def add_row(self, *cells: str | Text) -> None:
        """Add a row with a cell for each column."""
        if len(cells) != len(self._columns):
            raise ValueError(f"{len(cells)} cells for {len(self._columns)} columns")
        self._rows.append([_plain(cell) for cell in cells])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._title is not None:
            yield Text(strip_control_characters(self._title), style="bold", overflow="fold")
        widths = self._widths(options.max_width)
        if widths is None:
            yield from self._records(options.max_width)
        else:
            yield self._beside(widths)

    def _widths(self, available: int) -> list[int] | None:
        """The width of each column in a table that fits, or None if there is no such table."""
        cells = [
            [Text(strip_control_characters(column.name)), *(row[number] for row in self._rows)]
            for number, column in enumerate(self._columns)
        ]
        natural = [max(cell_len(cell.plain) for cell in column) for column in cells]
        least = [
            whole if column.is_number else max(_longest_word(cell.plain) for cell in own)
            for column, own, whole in zip(self._columns, cells, natural, strict=True)
        ]
        least = [max(low, min(whole, MIN_FOLDED)) for low, whole in zip(least, natural, strict=True)]
        spare = available - _GAP * (len(self._columns) - 1) - sum(least)
        if spare < 0:
            return None
        wanted = [whole - low for whole, low in zip(natural, least, strict=True)]
        share = min(1.0, spare / max(sum(wanted), 1))
        return [low + int(want * share) for low, want in zip(least, wanted, strict=True)]

    def _beside(self, widths: Sequence[int]) -> Table:
        has_names = any(column.name for column in self._columns)
        table = Table(
            header_style="bold",
            show_edge=False,
            pad_edge=False,
            show_header=has_names,
            box=None,
            padding=(0, 2, 0, 0),
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

    def _records(self, available: int) -> Iterator[Table | Rule | Text]:
        names = [strip_control_characters(column.name) for column in self._columns]
        widest = min(max(map(cell_len, names), default=0), available // 2)
        for number, row in enumerate(self._rows, start=1):
            yield Rule(Text(f"{number:,}"), align="left", characters="-", style="dim")
            for name, cell in zip(names, row, strict=True):
                fits = cell_len(name) <= widest and _longest_word(cell.plain) <= available - widest - _GAP
                if fits:
                    record = Table.grid(padding=(0, _GAP, 0, 0))
                    record.add_column(style="bold", width=widest)
                    record.add_column(overflow="fold")
                    record.add_row(name, cell)
                    yield record
                else:  # one below the other
                    yield Text(name, style="bold", overflow="fold")
                    yield cell


def print_table(table: pa.Table, *, console: Console, most_rows: int = 200) -> None:
    """Print a result as a table; a long one is cut, and says how much is missing."""
    import pyarrow as pa

    def is_number(kind: pa.DataType) -> bool:
        return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))

    shown = TextTable(*(Column(field.name, is_number=is_number(field.type)) for field in table.schema))
    for row in table.slice(0, most_rows).to_pylist():
        shown.add_row(
            *(Text(format_cell(value), style="dim" if value is None else "") for value in row.values())
        )
    console.print(shown)
    if table.num_rows > most_rows:
        console.print(f"… and {table.num_rows - most_rows:,} more rows; --format csv gives them all")
    else:
        console.print(f"{table.num_rows:,} row{'' if table.num_rows == 1 else 's'}", style="dim")


def facts_table() -> Table:
    """A grid for names and values, which folds what is long and cuts nothing."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", overflow="fold")
    facts.add_column(overflow="fold")
    return facts


def _plain(cell: str | Text) -> Text:
    text = cell if isinstance(cell, Text) else Text(cell)
    return Text(strip_control_characters(text.plain), style=text.style, overflow="fold")


def _longest_word(text: str) -> int:
    return max(map(cell_len, text.split()), default=0)
