"""Garbage collection: deletes what crashed attempts left in a run directory, and never what a commit names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Literal

from fossilray.core.errors import AgeTooRecent, StoreError, StoreUnreachable
from fossilray.core.parallel import map_in_chunks
from fossilray.core.records import FileEntry
from fossilray.core.text import format_bytes, strip_control_characters
from fossilray.store.files.base import READ_THREADS
from fossilray.store.maintenance.derived import delete_outdated
from fossilray.store.maintenance.orphans import (
    ArrayGroup,
    is_linked,
    list_array_groups,
    list_pending,
    may_still_commit,
)
from fossilray.store.maintenance.run_check import require_run
from fossilray.store.run.layout import ARRAYS, OBJECTS, objects_path, slide_of
from fossilray.store.run.objects_file import read_footer
from fossilray.store.run.run_store import RunStore

if TYPE_CHECKING:
    from rich.console import Group

_MOST_LISTED = 20

_ArraysState = Literal["committed", "young", "in use", "unclear", "orphan"]


@dataclass(frozen=True)
class GarbageReport:
    """Deleted files (with `dry_run`: files that would be deleted), and counts of kept files by reason."""

    url: str
    older_than: timedelta
    dry_run: bool
    orphans: tuple[ArrayGroup, ...]
    """Arrays that no commit names, deleted."""
    pending: tuple[FileEntry, ...]
    """Objects files that waited for a driver long gone, deleted; their arrays go the next time."""
    outdated: tuple[str, ...]
    """Files of derived results about objects that were processed again since, deleted."""
    writes: int
    """Unfinished writes given up: multipart uploads, temporary files. Not counted in a dry run."""
    young: int
    """Arrays that no commit names yet and that are not old enough."""
    in_use: int
    """Old arrays kept because their attempt has time left, or a pending file names them."""
    unclear: int
    """Arrays kept because their slide's commit cannot be read; `fossilray verify` reports the details."""
    foreign: tuple[str, ...] = ()
    """Folders among the arrays that fossilray did not make, or that hold something else; left alone."""
    links: tuple[str, ...] = ()
    """Links in the run directory. What holds one or lies behind one is left alone."""

    @property
    def bytes(self) -> int:
        """Size of the deleted arrays."""
        return sum(group.bytes for group in self.orphans)


def collect_garbage(
    store: RunStore,
    *,
    older_than: timedelta,
    deadline_minutes: float,
    dry_run: bool = False,
    now: datetime | None = None,
) -> GarbageReport:
    """Delete arrays, pending files, outdated derived results and half-written files that no process will commit.

    The age of arrays is that of their youngest file. deadline_minutes: the longest an attempt may take
    (`workers.deadline_minutes`). now: another clock than the store's own. No link is followed.

    Raises:
        RunNotFound: the folder holds no run.
        UsageError: it is a compacted dataset, or a run of another version of fossilray.
        AgeTooRecent: `older_than` is under twice an attempt's deadline.
        StoreError: the store cannot be read.
    """
    least = timedelta(minutes=2 * deadline_minutes)
    if older_than < least:
        raise AgeTooRecent(
            f"an age of {_hours(older_than)} is under twice an attempt's deadline (workers.deadline_minutes = "
            f"{deadline_minutes:g}), so its files may be in use; delete only files that are "
            f"at least {_hours(least)} old"
        )
    require_run(store)
    if not dry_run:
        store.tidy()
    now = now or store.files.clock()
    horizon = now - older_than
    links = _list_links(store)
    among_arrays: list[str] = []
    foreign: list[str] = []
    with_arrays = [] if ARRAYS in links else store.files.names(ARRAYS)
    pending = list_pending(store)
    # After the arrays: a slide that is committed by then is not taken for an uncommitted one.
    commits = _list_commits(store)
    # Without a readable catalog each slide is looked for in a listing of its own.
    wells = {row.slide_id: row.well for row in store.readable_catalog() or ()}
    orphans: list[ArrayGroup] = []
    seen: Counter[_ArraysState] = Counter()
    for groups, files in map_in_chunks(partial(_list_arrays, store), with_arrays, threads=READ_THREADS):
        among_arrays += files
        if len(groups) == 1 and groups[0].slide_id in commits:
            continue  # those of the commit, for every commit has some
        for group in groups:
            if not group.is_ours:
                foreign.append(group.path)
                continue
            paths = commits.get(group.slide_id) or _where_committed(store, group.slide_id, wells)
            state = _classify_arrays(store, group, paths, horizon=horizon, now=now, pending=pending)
            seen[state] += 1
            if state == "orphan":
                orphans.append(group)
                if not dry_run:
                    store.files.delete(group.path)
    waited = [
        entry
        for entry in (() if _has_driver(store, horizon) else _older(pending.values(), horizon))
        if not is_linked(entry.path, links)
    ]
    if not dry_run:
        for entry in waited:
            store.files.delete(entry.path)
    return GarbageReport(
        url=store.url,
        older_than=older_than,
        dry_run=dry_run,
        orphans=tuple(orphans),
        pending=tuple(waited),
        outdated=tuple(delete_outdated(store, before=horizon, dry_run=dry_run, links=links)),
        writes=0 if dry_run else store.files.abort_uploads(horizon),
        young=seen["young"],
        in_use=seen["in use"],
        unclear=seen["unclear"],
        links=tuple(sorted(links + among_arrays)),
        foreign=tuple(foreign),
    )


def render_garbage(report: GarbageReport) -> Group:
    """Render the report for a rich console."""
    from rich.console import Group
    from rich.text import Text

    lines = [Text(strip_control_characters(line)) for line in _lines(report)]
    lines += [
        Text(strip_control_characters(f"  {group.path}  {format_bytes(group.bytes)}"), style="dim")
        for group in report.orphans[:_MOST_LISTED]
    ]
    if len(report.orphans) > _MOST_LISTED:
        lines.append(Text(f"  … and {len(report.orphans) - _MOST_LISTED:,} more", style="dim"))
    if report.foreign:
        lines.append(
            Text(
                f"{len(report.foreign):,} folders among the arrays hold what fossilray did not make; left alone"
            )
        )
        lines += [Text(strip_control_characters(f"  {path}")) for path in report.foreign[:_MOST_LISTED]]
    if report.links:
        lines.append(
            Text(
                f"{len(report.links):,} links in the run directory; their targets were left alone: replace each "
                "link by its target, or remove it by hand"
            )
        )
        lines += [Text(strip_control_characters(f"  {path}")) for path in report.links[:_MOST_LISTED]]
    return Group(*lines)


def _list_links(store: RunStore) -> list[str]:
    """Return the links in a run directory, except links among the arrays of a slide."""
    links = [link for name in store.files.names("") if name != ARRAYS for link in store.files.links(name)]
    # No slide has the name "-", so this lists only the folder itself if it is a link.
    return links + ([ARRAYS] if ARRAYS in store.files.links(f"{ARRAYS}/-") else [])


def _list_arrays(store: RunStore, slide_id: str) -> tuple[list[ArrayGroup], list[str]]:
    """Return the arrays of a slide that neither hold a link nor are behind one, and the links."""
    links = store.files.links(f"{ARRAYS}/{slide_id}")
    if f"{ARRAYS}/{slide_id}" in links:
        return [], links
    groups = list_array_groups(store, slide_id)
    return [group for group in groups if not is_linked(group.path, links)], links


def _classify_arrays(
    store: RunStore,
    group: ArrayGroup,
    paths: Sequence[str],
    *,
    horizon: datetime,
    now: datetime,
    pending: Mapping[str, FileEntry],
) -> _ArraysState:
    """Return the state of these arrays right before they are deleted, so that a late commit counts.

    paths: of the slide's objects file, whether it exists or not; a damaged run may hold two.
    """
    try:
        if any(_committed_arrays(store, path) == group.path for path in paths):
            return "committed"
    except StoreUnreachable:
        raise
    except StoreError:
        return "unclear"
    if group.written_at >= horizon:
        return "young"
    # A driver may have read a pending file into its memory and commit it after the file is deleted here.
    if group.path in pending or may_still_commit(store, group, now):
        return "in use"
    return "orphan"


def _committed_arrays(store: RunStore, path: str) -> str | None:
    try:
        return read_footer(lambda size: store.files.read_tail(path, size), name=path).arrays.path
    except FileNotFoundError:
        return None


def _list_commits(store: RunStore) -> dict[str, list[str]]:
    commits: dict[str, list[str]] = {}
    for path in store.files.find(OBJECTS):
        commits.setdefault(slide_of(path), []).append(path)
    return commits


def _where_committed(store: RunStore, slide_id: str, wells: Mapping[str, str | None]) -> list[str]:
    if slide_id in wells:
        return [objects_path(slide_id, wells[slide_id])]
    return _list_commits(store).get(slide_id, [])


def _has_driver(store: RunStore, since: datetime) -> bool:
    """Return whether a driver that has not ended wrote a heartbeat since then."""
    known = len(store.left_out.messages)
    heartbeats = store.attempts.heartbeats()
    # A driver whose heartbeat is damaged may run.
    return len(store.left_out.messages) > known or any(
        not heartbeat.ended and datetime.fromisoformat(heartbeat.beat_at) >= since for heartbeat in heartbeats
    )


def _older(entries: Iterable[FileEntry], horizon: datetime) -> list[FileEntry]:
    return [entry for entry in entries if entry.modified < horizon]


def _lines(report: GarbageReport) -> Iterator[str]:
    act = "would delete" if report.dry_run else "deleted"
    yield (
        f"{act} {len(report.orphans):,} arrays that no commit names ({format_bytes(report.bytes)}), older than "
        f"{_hours(report.older_than)}"
    )
    if report.pending:
        yield f"{act} {len(report.pending):,} pending files whose driver is gone; the next gc deletes their arrays"
    if report.outdated:
        yield (
            f"{act} {len(report.outdated):,} files of embeddings and predictions of slides that were processed again "
            "since; start `fossilray embed` and `classify run` again"
        )
    if report.writes:
        yield f"gave up {report.writes:,} unfinished writes"
    if report.young:
        yield f"kept {report.young:,} arrays that are not old enough"
    if report.in_use:
        yield f"kept {report.in_use:,} arrays that another process may still commit"
    if report.unclear:
        yield f"kept {report.unclear:,} arrays of slides whose commit cannot be read; see `fossilray verify`"


def _hours(age: timedelta) -> str:
    return f"{age.total_seconds() / 3600:g} h"
