"""Clearing of failures, so that their slides are tried again, and withdrawal of damaged slides."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from fossilray.core.errors import StoreError, UsageError
from fossilray.core.records import Failure
from fossilray.store.derived.listing import iter_derived
from fossilray.store.maintenance.slide_check import FindingKind, VerifyFinding
from fossilray.store.run.attempts import REJECTED_AT
from fossilray.store.run.layout import DERIVED_KINDS, withdrawn_path
from fossilray.store.run.run_store import RunStore


def retry_failures(
    store: RunStore, *, slide_ids: Collection[str] = (), error: str | None = None
) -> list[Failure]:
    """Clear the failures of chosen slides or of one class of error, or all, and return them.

    The next job tries these slides again, and counts losses of workers from zero; the records stay in attempts/.

    Raises:
        UsageError: no failure matches the choice.
        RunNotFound: the folder holds no run.
    """
    store.read_run()
    failures = [failure for failure in store.attempts.failures() if failure.stage != REJECTED_AT]
    missing = sorted(set(slide_ids) - {failure.slide_id for failure in failures})
    if missing:
        raise UsageError(
            f"{store.url} holds no failure of {', '.join(missing[:5])}; `fossilray failures` lists those that there are"
        )
    # A class of error selects slides by their last failure; their earlier failures are cleared as well.
    last = {failure.slide_id: failure.error for failure in failures}
    if error is not None and error not in last.values():
        classes = ", ".join(sorted(set(last.values()))) or "none"
        raise UsageError(f"no slide of {store.url} is held back by {error}; classes there: {classes}")
    chosen = [
        failure
        for failure in failures
        if (not slide_ids or failure.slide_id in slide_ids) and error in (None, last[failure.slide_id])
    ]
    store.attempts.clear_failures(chosen)
    return chosen


RESTORED_BY_PROCESSING: frozenset[FindingKind] = frozenset(
    {
        "checksum",
        "crops",
        "embeddings",
        "footer",
        "misplaced",
        "missing",
        "objects",
        "rows",
        "shape",
        "size",
    }
)
"""Damage that processing the slide again repairs; other damage needs a decision of the user."""


ALWAYS_ALLOWED = 10


LARGEST_SHARE = 0.1
"""Fraction of the slides above which the damage has a common cause, to be found before slides are processed again."""


def withdraw_slides(store: RunStore, findings: Iterable[VerifyFinding]) -> tuple[str, ...]:
    """Move the objects files of damaged slides from objects/ to withdrawn/, and return their slide_ids.

    They count as not committed from then on: the next job processes them again, and their arrays become orphans. Their
    summaries and derived results are deleted, because these do not match the new objects.
    A slide that is committed in two wells is left alone.

    Raises:
        StoreError: so many slides are damaged that the store is incomplete; or a slide cannot be moved, which stays
            committed.
    """
    findings = list(findings)
    twice = {finding.slide_id for finding in findings if finding.kind == "twice"}
    damaged = {finding.slide_id for finding in findings if finding.kind in RESTORED_BY_PROCESSING} - twice
    commits = store.committed_files()
    if len(damaged) > max(ALWAYS_ALLOWED, LARGEST_SHARE * len(commits)):
        raise StoreError(
            f"{len(damaged):,} of {len(commits):,} slides of {store.url} are damaged, which looks like a part of the "
            "store that is missing or not mounted; bring it back, or move objects files out of objects/ by hand"
        )
    moved = []
    derived = [(results, results.committed_files()) for results in iter_derived(store)] if damaged else []
    # First, so that a crash leaves slides without a summary, which readers take from the footers.
    store.drop_summaries(damaged & commits.keys())
    for slide_id in sorted(damaged & commits.keys()):
        for results, files in derived:
            if slide_id in files:
                results.files.delete(files[slide_id])
        # In this order a crash leaves a surplus copy, which no process reads, and never a missing one.
        store.files.write(withdrawn_path(slide_id), store.files.read(commits[slide_id]))
        store.files.delete(commits[slide_id])
        moved.append(slide_id)
    return tuple(moved)


def delete_damaged_derived(store: RunStore, findings: Iterable[VerifyFinding]) -> tuple[str, ...]:
    """Delete derived results that are damaged, or of slides that were processed again since, and return their paths.

    The next run of the command that made them makes them again.
    """
    damaged = {finding.path for finding in findings if finding.kind in ("outdated", "derived")}
    paths = sorted(path for path in damaged if path.partition("/")[0] in DERIVED_KINDS)
    for path in paths:
        store.files.delete(path)
    return tuple(paths)
