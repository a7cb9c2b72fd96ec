"""Answers about objects that were made anew since, found to be deleted: they fit nothing that is committed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial

from fossilray.core.errors import StoreError, StoreUnreachable
from fossilray.core.parallel import map_in_chunks
from fossilray.core.records import FileEntry
from fossilray.store import RunStore
from fossilray.store.derived.derived_store import DerivedStore
from fossilray.store.derived.listing import iter_derived
from fossilray.store.files.base import READ_THREADS
from fossilray.store.maintenance.orphans import is_behind
from fossilray.store.run.layout import OBJECTS, slide_of
from fossilray.store.run.objects_file import read_footer


def delete_outdated(
    store: RunStore, *, before: datetime, dry_run: bool, links: Sequence[str] = ()
) -> list[str]:
    """Delete the files of answers of that age about objects that are not committed now; their paths.

    links: of the run directory; what lies behind one of them is left alone.

    Answers whose footer, or whose slide's footer, cannot be read are kept: `fossilray verify` says more.
    """
    # Listed before the commits, so that a slide that is committed meanwhile has no answers in the list.
    opened = iter_derived(store, leave_out=lambda folder: is_behind(folder, links))
    listed = [(answers, _files(answers)) for answers in opened]
    if not listed:
        return []
    commits = {slide_of(entry.path): entry for entry in store.files.entries(OBJECTS)}
    gone: list[str] = []
    for answers, files in listed:
        above = f"{answers.record.kind}/{answers.name}"
        old = [
            entry
            for entry in files
            if entry.modified < before and not is_behind(f"{above}/{entry.path}", links)
        ]
        judge = partial(_is_outdated, store, answers, commits)
        for entry, outdated in zip(old, map_in_chunks(judge, old, threads=READ_THREADS), strict=True):
            if outdated:
                gone.append(f"{above}/{entry.path}")
                if not dry_run:
                    answers.files.delete(entry.path)
    return gone


def delete_older_than_objects(store: RunStore, answers: DerivedStore) -> list[str]:
    """Delete those answers that are older than their slide's objects and of another attempt; the slide_ids.

    A slide that was withdrawn, by hand or by `verify`, and made anew is asked about anew. Only what the times of
    two listings make suspect is read, so a start over a whole archive costs no request for each slide.
    """
    files = _files(answers)
    if not files:
        return []
    commits = {slide_of(entry.path): entry for entry in store.files.entries(OBJECTS)}
    suspect = [
        entry
        for entry in files
        if slide_of(entry.path) in commits and entry.modified <= commits[slide_of(entry.path)].modified
    ]
    judge = partial(_is_outdated, store, answers, commits)
    verdicts = map_in_chunks(judge, suspect, threads=READ_THREADS)
    outdated = [entry for entry, is_so in zip(suspect, verdicts, strict=True) if is_so]
    for entry in outdated:
        answers.files.delete(entry.path)
    return [slide_of(entry.path) for entry in outdated]


def _files(answers: DerivedStore) -> Sequence[FileEntry]:
    wells = [name for name in answers.files.names("") if name.startswith("well=")]
    return [
        entry for well in wells for entry in answers.files.entries(well) if entry.path.endswith(".parquet")
    ]


def _is_outdated(
    store: RunStore, answers: DerivedStore, commits: Mapping[str, FileEntry], entry: FileEntry
) -> bool:
    """Whether a file is about other objects than those committed; asked of both footers."""
    committed = commits.get(slide_of(entry.path))
    try:
        # Asked of every file, for one that has no such footer is nothing that fossilray wrote.
        source_attempt = answers.footer(entry.path).source_attempt
        if committed is None:
            return True
        made_by = read_footer(
            lambda size: store.files.read_tail(committed.path, size), name=committed.path
        ).summary.attempt
        return source_attempt != made_by
    except StoreUnreachable:
        raise
    except (StoreError, FileNotFoundError):
        return False
