"""One row per committed slide, gathered in slides/ so that readers need not open every footer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import pyarrow as pa

from fossilray.core.errors import DamagedFile
from fossilray.core.formats.parquet import read_table, require_finite
from fossilray.core.records import SlideSummary
from fossilray.core.schemas import SLIDES_SCHEMA
from fossilray.store.files.base import Files, read_present
from fossilray.store.files.parquet import to_parquet, to_table
from fossilray.store.run.layout import part_number, part_path
from fossilray.store.run.left_out import LeftOut
from fossilray.store.run.roles import summaries_part

_MOST_NAMED = 5

ReadSummaries = Callable[[Sequence[str]], list[SlideSummary]]
"""What the footers of some objects files say, given their paths."""


def append_summaries(files: Files, rows: Sequence[SlideSummary]) -> None:
    """Write the rows as a new part of slides/; of several who append at once each gets a part of its own."""
    if not rows:
        return
    content = to_parquet(rows, SLIDES_SCHEMA)
    parts = _parts(files)
    number = part_number(parts[-1]) + 1 if parts else 0
    while not files.create(part_path(number), content):
        # It is there already if our own answer was lost.
        there = read_present(files, [part_path(number)], unread=lambda _: None)
        if there.get(part_path(number)) == content:
            return
        number += 1


def summaries_table(
    files: Files,
    committed_files: Callable[[], Mapping[str, str]],
    read_summaries: ReadSummaries,
    left_out: LeftOut,
) -> tuple[pa.Table, frozenset[str]]:
    """SLIDES_SCHEMA, one row per committed slide by slide_id: from slides/, else from its own footer.

    Beside it the slides that were committed once, as slides/ says, and whose objects files are gone.
    committed_files: lists the objects file of each slide, by slide_id. left_out: takes damaged parts of slides/, for
    which the footers stand in, and damaged footers, whose slides have no row.
    """
    table = gathered_summaries(files, left_out)
    # Listed after slides/ was read: a slide that is committed between the two is not taken for a lost one.
    committed = committed_files()
    rest = _read_missing(table, committed, read_summaries)
    table = pa.concat_tables([table, to_table(rest, SLIDES_SCHEMA)])
    # A slide that is in several parts counts as the last of them says.
    row_of = {slide_id: row for row, slide_id in enumerate(table["slide_id"].to_pylist())}
    rows = [row_of[slide_id] for slide_id in sorted(committed) if slide_id in row_of]
    return table.take(pa.array(rows, pa.int64())), frozenset(row_of.keys() - committed.keys())


def describe_lost(url: str, lost: Collection[str]) -> DamagedFile:
    """What is said of committed slides whose objects files are gone."""
    named = ", ".join(sorted(lost)[:_MOST_NAMED]) + (", …" if len(lost) > _MOST_NAMED else "")
    many = f"{len(lost):,} committed slide{'' if len(lost) == 1 else 's'}"
    return DamagedFile(
        f"{url} has lost the objects file{'' if len(lost) == 1 else 's'} of {many} ({named}); move away what lies in "
        "its place, if anything does, and start the same command again, which makes the slide anew, or let "
        "`fossilray verify RUN --rebuild` forget that it was committed"
    )


def gathered_summaries(files: Files, left_out: LeftOut | None = None) -> pa.Table:
    """SLIDES_SCHEMA, the rows of all parts of slides/; of several rows of a slide the last one counts.

    left_out: takes damaged parts.

    Raises:
        DamagedFile: a part is damaged, and there is no `left_out`.
    """
    tables = [table.replace_schema_metadata(None) for table in _read_parts(files, left_out)]
    return pa.concat_tables([SLIDES_SCHEMA.empty_table(), *tables])


def gather_missing(
    files: Files, committed: Mapping[str, str], read_summaries: ReadSummaries, left_out: LeftOut
) -> int:
    """Append the summaries of committed slides that slides/ lacks; how many those were.

    A driver that was killed takes those along that it had not written yet; until they are gathered, every reader
    opens their footers.
    """
    rows = _read_missing(gathered_summaries(files, left_out), committed, read_summaries)
    append_summaries(files, rows)
    return len(rows)


def rebuild_summaries(files: Files, committed: Mapping[str, str], read_summaries: ReadSummaries) -> int:
    """Write slides/ anew from the footers of all committed slides; how many there are."""
    old = _parts(files)
    rows = sorted(read_summaries(list(committed.values())), key=lambda row: row.slide_id)
    append_summaries(files, rows)
    # The new part counts above the old ones, so readers agree with it even before these are gone.
    for part in old:
        files.delete(part)
    return len(rows)


def _read_missing(
    table: pa.Table, committed: Mapping[str, str], read_summaries: ReadSummaries
) -> list[SlideSummary]:
    gathered = set(table["slide_id"].to_pylist())
    return read_summaries([path for slide_id, path in committed.items() if slide_id not in gathered])


def _read_parts(files: Files, left_out: LeftOut | None) -> list[pa.Table]:
    tables = []
    unread = None if left_out is None else left_out.add
    for part, content in read_present(files, _parts(files), unread).items():
        role = summaries_part(f"{files.url}/{part}")
        try:
            table = read_table(content, role, schema=SLIDES_SCHEMA)
            require_finite(table, role)
        except DamagedFile as error:
            if left_out is None:
                raise
            left_out.add(error)
        else:
            tables.append(table)
    return tables


def _parts(files: Files) -> list[str]:
    # Nothing else of a name like theirs, in a folder below perhaps, which a person put there.
    found = (path for path in files.find("slides") if path == part_path(part_number(path)))
    return sorted(found, key=part_number)
