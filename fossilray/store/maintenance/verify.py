"""Verification that a run directory holds each committed slide once and whole."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from fossilray.core.copies import find_copies
from fossilray.core.errors import RunNotFound, StoreError, StoreUnreachable
from fossilray.core.parallel import map_in_chunks
from fossilray.core.records import Attempt, SlideSummary
from fossilray.core.text import counted, format_bytes, strip_control_characters
from fossilray.store.files.base import READ_THREADS
from fossilray.store.maintenance.derived import check_derived, list_derived_files
from fossilray.store.maintenance.orphans import ArrayGroup, list_array_groups, list_pending, may_still_commit
from fossilray.store.maintenance.run_check import (
    GatheredSummaries,
    compare_catalog,
    list_commits,
    require_run,
)
from fossilray.store.maintenance.side_files import check_side_files
from fossilray.store.maintenance.slide_check import FindingKind, SlideCheck, VerifyFinding, verify_slide
from fossilray.store.run.layout import ARRAYS, OBJECTS, RUN_JSON
from fossilray.store.run.run_store import RunStore
from fossilray.store.run.slide_states import SlideCounts, read_states

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from fossilray.core.text_table import TextTable

__all__ = ["FindingKind", "VerifyFinding", "VerifyReport", "render_verified", "verify_run"]

UNREAD_IN_A_ROW = 20
"""Number of consecutive unreadable slides after which the store counts as faulty."""

HARMLESS: frozenset[FindingKind] = frozenset({"summaries", "copy"})
"""Kinds of findings that are not damage."""

_MOST_LISTED = 50


@dataclass(frozen=True)
class VerifyReport:
    """The result of verifying a run directory."""

    url: str
    slides: int
    """Number of committed slides."""
    objects: int
    arrays_bytes: int
    """Size of the arrays that commits name."""
    deep: bool
    findings: tuple[VerifyFinding, ...]
    """Damage and contradictions, by slide_id."""
    orphans: tuple[ArrayGroup, ...]
    """Arrays that no commit names and no active attempt writes; `fossilray gc` deletes them."""
    counts: SlideCounts
    half_attempts: tuple[Attempt, ...]
    """Attempts at uncommitted slides that neither committed nor failed."""
    pending: int
    """Objects files that wait for the only writer (`store.single_writer`)."""
    derived_files: int
    """Number of files of derived results, each compared with its slide."""
    rebuilt: int | None
    """Slides whose summaries were written again; None where that was not requested, or not possible."""
    seconds: float

    @property
    def sound(self) -> bool:
        """Whether every committed slide and its derived results are whole; summaries out of date are no damage."""
        return all(finding.kind in HARMLESS for finding in self.findings)


def verify_run(
    store: RunStore,
    *,
    deep: bool = False,
    rebuild: bool = False,
    display: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """Compare all files of a run directory with each other; nothing is written but slides/, with `rebuild`.

    deep: read and decode every array and every row. display: takes the numbers of checked and of all slides.
    Safe while a job runs: slides that are committed meanwhile may be left out.

    Raises:
        RunNotFound: the folder holds no run.
        UsageError: it is a compacted dataset, or a run of another version of fossilray.
        StoreError: the store cannot be reached, or many slides in a row cannot be read.
    """
    began_s = time.monotonic()
    run_digest, findings = _read_run(store)
    # In this order: arrays whose slide is committed between the two listings are then no orphans.
    with_arrays = store.files.names(ARRAYS)
    pending = list_pending(store)
    # Before the commits as well: the slides of derived results that are listed now were committed before.
    results, damaged = list_derived_files(store)
    commits, stray = list_commits(store)
    findings += stray + damaged
    findings += compare_catalog(store, commits)
    summaries = GatheredSummaries(store)
    findings += summaries.lost(commits)
    uncommitted = [slide_id for slide_id in with_arrays if slide_id not in commits]
    count = _Counter(len(commits) + len(uncommitted), display)
    loose: list[ArrayGroup] = []
    seen: dict[str, SlideSummary | None] = {}
    for checked in _check_all(store, sorted(commits.values()), run_digest=run_digest, deep=deep):
        findings += checked.findings
        loose += checked.others
        count.add(checked)
        seen[checked.slide_id] = checked.summary
        if checked.summary is not None:
            summaries.compare(checked.summary)
    findings += _copies(seen)
    findings += check_derived(results, seen, deep=deep)
    findings += check_side_files(store.attempts, deep=deep)
    for groups in map_in_chunks(partial(list_array_groups, store), uncommitted, threads=READ_THREADS):
        loose += groups
        count.add(None)
    now = datetime.now(UTC)
    orphans = [
        group for group in loose if group.path not in pending and not may_still_commit(store, group, now)
    ]
    can_rebuild = not any(finding.kind in ("footer", "unread") for finding in findings)
    rebuilt = store.rebuild_summaries() if rebuild and can_rebuild else None
    if rebuilt is None:
        findings += summaries.out_of_date()
    states = read_states(store)
    return VerifyReport(
        url=store.url,
        slides=len(commits),
        objects=count.objects,
        arrays_bytes=count.arrays_bytes,
        deep=deep,
        findings=tuple(sorted(findings, key=lambda finding: (finding.slide_id, finding.path))),
        orphans=tuple(orphans),
        counts=states.counts,
        half_attempts=states.open_attempts,
        pending=len(pending),
        derived_files=len(results),
        rebuilt=rebuilt,
        seconds=time.monotonic() - began_s,
    )


def _copies(summaries: Mapping[str, SlideSummary | None]) -> list[VerifyFinding]:
    """Return a finding for each slide that is the same scan as another one."""
    copies = find_copies(
        summary
        for slide_id, summary in summaries.items()
        if summary is not None and summary.slide_id == slide_id
    )
    return [
        VerifyFinding(copy, "", "copy", f"{copy} is the same scan as {original}; its objects count twice")
        for copy, original in copies.items()
    ]


def render_verified(report: VerifyReport) -> Group:
    """Format a report for a rich console: a headline, counts and the first findings."""
    from rich.console import Group
    from rich.text import Text

    from fossilray.core.text_table import name_value_grid

    details = name_value_grid()
    for name, value in _details(report):
        details.add_row(name, Text(strip_control_characters(value)))
    parts: list[Text | Table | TextTable] = [_headline(report), details]
    if report.findings:
        shown = report.findings[:_MOST_LISTED]
        parts.append(_list_findings(shown))
        if len(report.findings) > len(shown):
            parts.append(Text(f"… and {len(report.findings) - len(shown):,} more"))
    return Group(*parts)


def _read_run(store: RunStore) -> tuple[str | None, list[VerifyFinding]]:
    """Return the digest of the run's record, or None and a finding if the record is damaged."""
    try:
        return require_run(store).digest, []
    except RunNotFound as error:
        if OBJECTS not in store.files.names(""):
            raise
        return None, [VerifyFinding("", RUN_JSON, "record", f"{error}; bring it back from a copy")]
    except StoreUnreachable:
        raise
    except StoreError as error:
        return None, [VerifyFinding("", RUN_JSON, "record", str(error))]


class _Counter:
    """Counts of the slides checked so far, reported to `display`."""

    def __init__(self, total: int, display: Callable[[int, int], None] | None) -> None:
        self.objects = self.arrays_bytes = 0
        self._done, self._total = 0, total
        self._display = display

    def add(self, checked: SlideCheck | None) -> None:
        if checked is not None:
            self.arrays_bytes += checked.array_bytes
            self.objects += checked.summary.objects if checked.summary else 0
        self._done += 1
        if self._display is not None:
            self._display(self._done, self._total)


def _check_all(
    store: RunStore, paths: Sequence[str], *, run_digest: str | None, deep: bool
) -> Iterator[SlideCheck]:
    """Yield the check of each committed slide, in the order of `paths`."""
    # A shallow check waits for the store, a deep one computes and holds one file of up to some 100 MB.
    threads = READ_THREADS if not deep else max(4, min(READ_THREADS, os.cpu_count() or 1))
    unread = 0
    check = partial(verify_slide, store, run_digest=run_digest, deep=deep)
    for checked in map_in_chunks(check, paths, threads=threads):
        unread = unread + 1 if any(finding.kind == "unread" for finding in checked.findings) else 0
        if unread == UNREAD_IN_A_ROW:
            raise StoreError(f"{unread} slides in a row cannot be read: {checked.findings[-1].message}")
        yield checked


def _headline(report: VerifyReport) -> Text:
    from rich.text import Text

    if not report.sound:
        damage = [finding for finding in report.findings if finding.kind not in HARMLESS]
        hurt = len({finding.slide_id for finding in damage if finding.slide_id})
        return Text(
            f"damaged: {counted(len(damage), 'finding')}, {counted(hurt, 'slide')} concerned",
            style="bold red",
        )
    depth = "every row and array decoded" if report.deep else "sizes, counts and footers compared"
    return Text(f"sound: {depth}", style="bold green")


def _details(report: VerifyReport) -> Iterable[tuple[str, str]]:
    yield "run", report.url
    yield "committed", f"{report.slides:,} of {report.counts.total:,} slides, {report.objects:,} objects"
    rest = report.counts.describe_rest()
    if rest:
        yield "the rest", f"{', '.join(rest)}; `fossilray status` lists them"
    if report.half_attempts:
        yield "begun", f"{len(report.half_attempts):,} attempts without an end on record"
    yield "arrays", format_bytes(report.arrays_bytes)
    if report.derived_files:
        yield "derived", f"{report.derived_files:,} slides' predictions and embeddings"
    if report.orphans:
        left = format_bytes(sum(group.bytes for group in report.orphans))
        yield (
            "orphans",
            f"{len(report.orphans):,} arrays that no commit names ({left}); `fossilray gc` deletes them",
        )
    if report.pending:
        yield "pending", f"{report.pending:,} slides wait for their driver to commit them"
    if report.rebuilt is not None:
        yield "slides/", f"written again from the footers of {report.rebuilt:,} slides"
    yield "took", f"{report.seconds:,.1f} s"


def _list_findings(findings: Sequence[VerifyFinding]) -> TextTable:
    from fossilray.core.text_table import TextTable

    table = TextTable("slide", "kind", "finding")
    for finding in findings:
        table.add_row(finding.slide_id or "–", finding.kind, finding.message)
    return table
