"""Checks of derived results against the objects that are committed, and deletion of outdated ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import numpy as np
import pyarrow as pa

from fossilray.core.errors import StoreError, StoreUnreachable
from fossilray.core.parallel import map_in_chunks
from fossilray.core.records import FileEntry, SlideSummary
from fossilray.store.derived.derived_store import DerivedFooter, DerivedStore, derived_names
from fossilray.store.derived.listing import iter_derived
from fossilray.store.files.base import READ_THREADS
from fossilray.store.maintenance.orphans import is_behind
from fossilray.store.maintenance.slide_check import FindingKind, VerifyFinding
from fossilray.store.run.layout import DERIVED_KINDS, OBJECTS, derived_folder, slide_of, well_of
from fossilray.store.run.objects_file import read_footer
from fossilray.store.run.run_store import RunStore


@dataclass(frozen=True)
class DerivedFile:
    """A file of derived results of one slide, from a listing."""

    results: DerivedStore
    path: str
    """Relative to the folder of the derived results."""

    @property
    def whole_path(self) -> str:
        """The path relative to the run directory."""
        return f"{derived_folder(self.results.record.kind, self.results.name)}/{self.path}"


def list_derived_files(store: RunStore) -> tuple[list[DerivedFile], list[VerifyFinding]]:
    """List the files of derived results of every kind and name, and the names whose answers.json is damaged."""
    files: list[DerivedFile] = []
    findings: list[VerifyFinding] = []
    for kind in DERIVED_KINDS:
        for name in derived_names(store, kind):
            try:
                results = DerivedStore.open(store, kind, name)
            except StoreUnreachable:
                raise
            except StoreError as error:
                findings.append(VerifyFinding("", f"{kind}/{name}", "unread", str(error)))
                continue
            wells = [folder for folder in results.files.names("") if folder.startswith("well=")]
            paths = (path for well in wells for path in results.files.find(well))
            files += [DerivedFile(results, path) for path in sorted(paths) if path.endswith(".parquet")]
    return files, findings


def check_derived(
    files: Iterable[DerivedFile],
    commits: Mapping[str, SlideSummary | None],
    *,
    deep: bool,
) -> Iterator[VerifyFinding]:
    """Yield the damage of these files.

    commits: the summary in each committed slide's footer; None where it cannot be read. deep: every row is read.

    Raises:
        StoreUnreachable: the store cannot be reached.
    """
    check = partial(_check_file, commits=commits, deep=deep)
    for findings in map_in_chunks(check, list(files), threads=READ_THREADS):
        yield from findings


def _check_file(
    file: DerivedFile, *, commits: Mapping[str, SlideSummary | None], deep: bool
) -> list[VerifyFinding]:
    slide_id = slide_of(file.path)
    if slide_id not in commits:
        return [_finding(file, "outdated", "is about a slide that is not committed")]
    summary = commits[slide_id]
    if summary is None:
        return []  # the slide has a finding of its own
    try:
        footer = file.results.footer(file.path)
        if footer.source_attempt != summary.attempt:
            return [_finding(file, "outdated", "is about objects that were processed again since")]
        odd = list(_compare_footer(file, footer, summary))
        if deep and not odd:
            odd += _odd_rows(file.results.read_file(file.path))
    except StoreUnreachable:
        raise
    except FileNotFoundError:
        odd = []  # listed and gone: a job makes it again
    except StoreError as error:
        odd = [f"cannot be read ({error})"]
    return [_finding(file, "derived", what) for what in odd]


def _compare_footer(file: DerivedFile, footer: DerivedFooter, summary: SlideSummary) -> Iterator[str]:
    if well_of(file.path) != summary.well:
        yield f"lies under another well than its slide's, {summary.well}"
    if footer.rows != summary.objects:
        yield f"has {footer.rows:,} rows for {summary.objects:,} objects"


def _odd_rows(table: pa.Table) -> Iterator[str]:
    """Contradictions in the rows of one slide's derived results."""
    if not np.array_equal(table["object_id"].to_numpy(), np.arange(table.num_rows)):
        yield "has rows whose object_id is not their index"
    if "embedding" in table.column_names:
        values = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        if not np.isfinite(values).all():
            yield "holds embeddings that are not finite"
        return
    for name in ("score", "score_2", "score_3"):
        # A little more than 1 is the rounding of a sum.
        value = table[name].drop_null().to_numpy()
        if not ((value >= 0) & (value <= 1.0001)).all():
            yield f"holds a {name} outside 0 to 1"
    if (table["genus"].is_valid().to_numpy() != table["score"].is_valid().to_numpy()).any():
        yield "holds a genus without a score, or a score without a genus"


def _finding(file: DerivedFile, kind: FindingKind, what: str) -> VerifyFinding:
    command = "embed" if file.results.record.kind == "embeddings" else "classify run"
    remedy = (
        f"delete it, or let `fossilray verify RUN --withdraw` do so, and start `fossilray {command}` again"
    )
    return VerifyFinding(slide_of(file.path), file.whole_path, kind, f"{file.whole_path} {what}; {remedy}")


def delete_outdated(
    store: RunStore, *, before: datetime, dry_run: bool, links: Sequence[str] = ()
) -> list[str]:
    """Delete files of derived results of that age whose objects are not committed now, and return their paths.

    links: links in the run directory; files behind them are kept.

    Files whose footer, or whose slide's footer, cannot be read are kept; `fossilray verify` reports the details.
    """
    # Listed before the commits, so that a slide that is committed meanwhile has no derived results in the list.
    opened = iter_derived(store, leave_out=lambda folder: is_behind(folder, links))
    listed = [(results, _files(results)) for results in opened]
    if not listed:
        return []
    commits = {slide_of(entry.path): entry for entry in store.files.entries(OBJECTS)}
    gone: list[str] = []
    for results, files in listed:
        above = f"{results.record.kind}/{results.name}"
        old = [
            entry
            for entry in files
            if entry.modified < before and not is_behind(f"{above}/{entry.path}", links)
        ]
        for entry in _outdated_of(old, store, results, commits):
            gone.append(f"{above}/{entry.path}")
            if not dry_run:
                results.files.delete(entry.path)
    return gone


def delete_older_than_objects(store: RunStore, results: DerivedStore) -> list[str]:
    """Delete derived results that are older than their slide's objects and of another attempt; return the slide_ids.

    They are made again for slides that were withdrawn, by hand or by `verify`, and processed again. Only files that are
    older by two listings are read, so that a job over a whole archive makes no request for each slide.
    """
    files = _files(results)
    if not files:
        return []
    commits = {slide_of(entry.path): entry for entry in store.files.entries(OBJECTS)}
    suspect = [
        entry
        for entry in files
        if slide_of(entry.path) in commits and entry.modified <= commits[slide_of(entry.path)].modified
    ]
    # All are read before the first is deleted.
    outdated = list(_outdated_of(suspect, store, results, commits))
    for entry in outdated:
        results.files.delete(entry.path)
    return [slide_of(entry.path) for entry in outdated]


def _outdated_of(
    entries: Sequence[FileEntry], store: RunStore, results: DerivedStore, commits: Mapping[str, FileEntry]
) -> Iterator[FileEntry]:
    """Yield the files whose objects are not committed now; footers are read by several threads."""
    is_outdated = partial(_is_outdated, store, results, commits)
    for entry, outdated in zip(
        entries, map_in_chunks(is_outdated, entries, threads=READ_THREADS), strict=True
    ):
        if outdated:
            yield entry


def _files(results: DerivedStore) -> Sequence[FileEntry]:
    wells = [name for name in results.files.names("") if name.startswith("well=")]
    return [
        entry for well in wells for entry in results.files.entries(well) if entry.path.endswith(".parquet")
    ]


def _is_outdated(
    store: RunStore, results: DerivedStore, commits: Mapping[str, FileEntry], entry: FileEntry
) -> bool:
    """Return whether a file is about other objects than the committed ones, by the footers of both files."""
    committed = commits.get(slide_of(entry.path))
    try:
        # The footer is read of every file: a file without one was not written by fossilray.
        source_attempt = results.footer(entry.path).source_attempt
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
