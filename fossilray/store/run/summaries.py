"""One row per committed slide, gathered in slides/ so that readers need not open every footer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from fossilray.core.errors import DamagedFile
from fossilray.core.formats.parquet import read_table, require_finite
from fossilray.core.records import SlideSummary
from fossilray.core.schemas import SLIDES_SCHEMA
from fossilray.core.text import list_some
from fossilray.store.files.base import READ_THREADS, Files, read_present
from fossilray.store.files.parquet import to_parquet, to_table
from fossilray.store.run.layout import part_number, part_path
from fossilray.store.run.left_out import LeftOut
from fossilray.store.run.objects_file import read_stored_footer
from fossilray.store.run.roles import summaries_part


def append_summaries(files: Files, rows: Sequence[SlideSummary]) -> None:
    """Write the rows as a new part of slides/; processes that append at the same time write parts of their own."""
    if not rows:
        return
    content = to_parquet(rows, SLIDES_SCHEMA)
    parts = _parts(files)
    number = part_number(parts[-1]) + 1 if parts else 0
    while not files.create(part_path(number), content):
        # Where the response to this process's own create was lost, the part is its own.
        stored = read_present(files, [part_path(number)], unread=lambda _: None)
        if stored.get(part_path(number)) == content:
            return
        number += 1


def summaries_table(
    files: Files, committed_files: Callable[[], Mapping[str, str]], left_out: LeftOut
) -> tuple[pa.Table, frozenset[str]]:
    """Read SLIDES_SCHEMA, one row per committed slide by slide_id: from slides/, else from the slide's footer.

    committed_files: lists the objects file of each slide, by slide_id. left_out: takes damaged parts of slides/, whose
    slides are read from their footers, and damaged footers, whose slides have no row.

    Returns:
        The table, and the slides in slides/ whose objects files are gone.
    """
    table = gathered_summaries(files, left_out)
    # Listed after slides/ was read: a slide that is committed between the two is not counted as lost.
    committed = committed_files()
    missing = _read_missing(files, table, committed, left_out)
    table = pa.concat_tables([table, to_table(missing, SLIDES_SCHEMA)])
    row_of = _last_rows(table)
    rows = [row_of[slide_id] for slide_id in sorted(committed) if slide_id in row_of]
    return table.take(pa.array(rows, pa.int64())), frozenset(row_of.keys() - committed.keys())


def describe_lost(url: str, lost: Collection[str]) -> DamagedFile:
    """The error about committed slides whose objects files are gone."""
    slides = f"{len(lost):,} committed slide{'' if len(lost) == 1 else 's'}"
    return DamagedFile(
        f"{url} has lost the objects file{'' if len(lost) == 1 else 's'} of {slides} ({list_some(sorted(lost))}); move "
        "away any folder or file in its place and start the same command again, which processes the slide again, or "
        "run `fossilray verify RUN --rebuild`, which drops the summary of the slide"
    )


def gathered_summaries(files: Files, left_out: LeftOut | None = None) -> pa.Table:
    """Read SLIDES_SCHEMA, the rows of all parts of slides/; of several rows of a slide the last one counts.

    left_out: takes damaged parts.

    Raises:
        DamagedFile: a part is damaged, and there is no `left_out`.
    """
    tables = _read_parts(files, left_out).values()
    return pa.concat_tables([SLIDES_SCHEMA.empty_table(), *tables])


def append_missing_summaries(files: Files, committed: Mapping[str, str], left_out: LeftOut) -> int:
    """Append the summaries of committed slides that slides/ lacks, and return their number.

    A driver that was killed had not written all of its summaries; until they are appended, every reader opens the
    footers of these slides.
    """
    rows = _read_missing(files, gathered_summaries(files, left_out), committed, left_out)
    append_summaries(files, rows)
    return len(rows)


def rebuild_summaries(files: Files, committed: Mapping[str, str]) -> int:
    """Write slides/ again from the footers of all committed slides, and return their number."""
    old = _parts(files)
    with ThreadPoolExecutor(READ_THREADS) as readers:
        # Not the footers: those of a whole archive, a checksum for every array file, take a gigabyte.
        rows = list(readers.map(lambda path: read_stored_footer(files, path).summary, committed.values()))
    rows.sort(key=lambda row: row.slide_id)
    append_summaries(files, rows)
    # The new part counts above the old ones, so readers agree with it even before these are deleted.
    for part in old:
        files.delete(part)
    return len(rows)


def drop_summaries(files: Files, slide_ids: Collection[str], left_out: LeftOut) -> None:
    """Write slides/ again without these slides. left_out: takes damaged parts, which stay as they are."""
    parts = _read_parts(files, left_out)
    table = pa.concat_tables([SLIDES_SCHEMA.empty_table(), *parts.values()])
    if not pc.any(pc.is_in(table["slide_id"], pa.array(sorted(slide_ids), pa.string()))).as_py():
        return
    kept = [row for slide_id, row in sorted(_last_rows(table).items()) if slide_id not in slide_ids]
    rows = table.take(pa.array(kept, pa.int64())).to_pylist()
    append_summaries(files, [SlideSummary(**row) for row in rows])
    for part in parts:
        files.delete(part)


def _last_rows(table: pa.Table) -> dict[str, int]:
    """The last row of each slide: a slide that was processed again is in several parts."""
    return {slide_id: row for row, slide_id in enumerate(table["slide_id"].to_pylist())}


def _read_missing(
    files: Files, table: pa.Table, committed: Mapping[str, str], left_out: LeftOut
) -> list[SlideSummary]:
    """The summaries of committed slides that the table lacks, from their footers; damaged ones are left out."""

    def read(path: str) -> SlideSummary | None:
        try:
            return read_stored_footer(files, path).summary
        except DamagedFile as error:
            left_out.add(error)
            return None

    gathered = set(table["slide_id"].to_pylist())
    paths = [path for slide_id, path in committed.items() if slide_id not in gathered]
    with ThreadPoolExecutor(READ_THREADS) as readers:
        return [summary for summary in readers.map(read, paths) if summary is not None]


def _read_parts(files: Files, left_out: LeftOut | None) -> dict[str, pa.Table]:
    """The parts that can be read, by path, in their order."""
    tables = {}
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
            tables[part] = table.replace_schema_metadata(None)
    return tables


def _parts(files: Files) -> list[str]:
    # A file of a similar name, in a folder below for example, is not fossilray's.
    paths = [path for path in files.find("slides") if path == part_path(part_number(path))]
    return sorted(paths, key=part_number)
