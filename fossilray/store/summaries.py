"""One row per committed slide, gathered in slides/ so that readers need not open every footer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa

from fossilray.errors import StoreError
from fossilray.records import SLIDES_SCHEMA, SlideSummary
from fossilray.store.access import one_sentence
from fossilray.store.files import Files, read_present
from fossilray.store.layout import part_number, part_path
from fossilray.store.rows import as_schema, from_parquet, to_parquet, to_table

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
        if read_present(files, [part_path(number)]).get(part_path(number)) == content:
            return
        number += 1


def summaries_table(files: Files, committed: Mapping[str, str], read_summaries: ReadSummaries) -> pa.Table:
    """SLIDES_SCHEMA, one row per committed slide by slide_id: from slides/, else from its own footer.

    committed: the objects file of each slide, by slide_id.
    """
    table = gathered_summaries(files)
    rest = _read_missing(table, committed, read_summaries)
    table = pa.concat_tables([table, to_table(rest, SLIDES_SCHEMA)])
    # A slide that is in several parts counts as the last of them says.
    row_of = {slide_id: row for row, slide_id in enumerate(table["slide_id"].to_pylist())}
    return table.take(pa.array([row_of[slide_id] for slide_id in sorted(committed)], pa.int64()))


def gathered_summaries(files: Files) -> pa.Table:
    """SLIDES_SCHEMA, the rows of all parts of slides/; of several rows of a slide the last one counts.

    Raises:
        StoreError: a part is damaged.
    """
    return pa.concat_tables([SLIDES_SCHEMA.empty_table(), *_read_parts(files)])


def gather_missing(files: Files, committed: Mapping[str, str], read_summaries: ReadSummaries) -> int:
    """Append the summaries of committed slides that slides/ lacks; how many those were.

    A driver that was killed takes those along that it had not written yet; until they are gathered, every reader
    opens their footers.
    """
    rows = _read_missing(gathered_summaries(files), committed, read_summaries)
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


def _read_parts(files: Files) -> list[pa.Table]:
    tables = []
    for part, content in read_present(files, _parts(files)).items():
        try:
            tables.append(as_schema(from_parquet(content), SLIDES_SCHEMA))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise StoreError(
                f"{files.url}/{part} does not hold summaries of this version ({one_sentence(error)}); write slides/ "
                "anew with `fossilray verify RUN --rebuild`"
            ) from None
    return tables


def _parts(files: Files) -> list[str]:
    # Nothing else of a name like theirs, in a folder below perhaps, which a person put there.
    found = (path for path in files.find("slides") if path == part_path(part_number(path)))
    return sorted(found, key=part_number)
