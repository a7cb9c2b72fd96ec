"""Give slides that failed another chance: what held them back is forgiven, not forgotten."""

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
    """Let the next job try again what failed; the failures forgiven, those of chosen slides or of one class.

    Without a choice every failure is forgiven. Losses of workers count anew; the records stay in attempts/.

    Raises:
        UsageError: nothing that fits the choice has failed.
        RunNotFound: there is no run at this place.
    """
    store.read_run()
    standing = [failure for failure in store.attempts.failures() if failure.stage != REJECTED_AT]
    missing = sorted(set(slide_ids) - {failure.slide_id for failure in standing})
    if missing:
        raise UsageError(
            f"{store.url} holds no failure of {', '.join(missing[:5])}; `fossilray failures` lists those that there are"
        )
    # A class is chosen by what befell a slide last; what befell it before must not hold it back either.
    last = {failure.slide_id: failure.error for failure in standing}
    if error is not None and error not in last.values():
        classes = ", ".join(sorted(set(last.values()))) or "none"
        raise UsageError(f"no slide of {store.url} is held back by {error}; classes there: {classes}")
    chosen = [
        failure
        for failure in standing
        if (not slide_ids or failure.slide_id in slide_ids) and error in (None, last[failure.slide_id])
    ]
    store.attempts.clear_failures(chosen)
    return chosen


MADE_ANEW: frozenset[FindingKind] = frozenset(
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
"""Damage that is gone once its slide is made anew; the rest is for people to judge."""


ALWAYS_ALLOWED = 10


LARGEST_SHARE = 0.1
"""More damage than this has a common cause, and nothing should be made anew before that is known."""


def withdraw_slides(store: RunStore, findings: Iterable[VerifyFinding]) -> tuple[str, ...]:
    """Move the objects files of damaged slides from objects/ to withdrawn/; the slides, by slide_id.

    They count as not committed from then on: the next start makes them anew, and their arrays become orphans.
    What later jobs said about their crops is deleted, for it would not fit the objects made anew.
    A slide that is committed in two wells is left alone.

    Raises:
        StoreError: so many are damaged that it is the store; or it refuses, and what was not moved is committed.
    """
    findings = list(findings)
    twice = {finding.slide_id for finding in findings if finding.kind == "twice"}
    damaged = {finding.slide_id for finding in findings if finding.kind in MADE_ANEW} - twice
    commits = store.committed_files()
    if len(damaged) > max(ALWAYS_ALLOWED, LARGEST_SHARE * len(commits)):
        raise StoreError(
            f"{len(damaged):,} of {len(commits):,} slides of {store.url} are damaged, which looks like a part of the "
            "store that is missing or not mounted; bring it back, or move objects files out of objects/ by hand"
        )
    moved = []
    answered = [(answers, answers.committed_files()) for answers in iter_derived(store)] if damaged else []
    # First, so that a crash leaves slides without a summary, which readers take from the footers.
    store.drop_summaries(damaged & commits.keys())
    for slide_id in sorted(damaged & commits.keys()):
        for answers, files in answered:
            if slide_id in files:
                answers.files.delete(files[slide_id])
        # In this order a crash leaves a copy too many, which nobody reads, and never one too few.
        store.files.write(withdrawn_path(slide_id), store.files.read(commits[slide_id]))
        store.files.delete(commits[slide_id])
        moved.append(slide_id)
    return tuple(moved)


def delete_answers(store: RunStore, findings: Iterable[VerifyFinding]) -> tuple[str, ...]:
    """Delete answers that are damaged, or about objects made anew since; their paths.

    The next start of the command that gave them gives them anew.
    """
    told = {finding.path for finding in findings if finding.kind in ("outdated", "answers")}
    paths = sorted(path for path in told if path.partition("/")[0] in DERIVED_KINDS)
    for path in paths:
        store.files.delete(path)
    return tuple(paths)
