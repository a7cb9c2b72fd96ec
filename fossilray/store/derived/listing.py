"""The derived results that a run has, as they were when another process listed them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from fossilray.core.config.choices import NO_PREDICTIONS
from fossilray.core.errors import DamagedFile
from fossilray.core.parallel import map_in_chunks
from fossilray.core.records import SlideSummary
from fossilray.store.derived.derived_store import DerivedStore, derived_names
from fossilray.store.files.base import READ_THREADS
from fossilray.store.run.layout import DERIVED_KINDS, DerivedKind
from fossilray.store.run.run_store import RunStore


@dataclass(frozen=True)
class DerivedListing:
    """Derived results of one name, and the file of each slide that has some."""

    results: DerivedStore
    files: Mapping[str, str]
    """Relative to the folder of the derived results, by slide_id."""
    outdated: Mapping[str, str] = field(default_factory=dict)
    """Files that `keep_fitting` left out."""


def list_derived(store: RunStore, kind: DerivedKind) -> list[DerivedListing]:
    """Return all derived results of one kind, by name; those of a dataset are in the run that it was made of."""
    home = store.source_run
    return [DerivedListing(results, results.committed_files()) for results in _readable(home, kind)]


def latest_predictions(store: RunStore, head: str | None) -> DerivedListing | None:
    """The predictions of this name, or the newest ones; None if there are none, or `head` is `none`.

    Raises:
        RunNotFound: there are none of this name.
    """
    if head == NO_PREDICTIONS:
        return None
    home = store.source_run
    if head is not None:
        chosen = DerivedStore.open(home, "predictions", head)
    else:
        opened = list(_readable(home, "predictions"))
        if not opened:
            return None
        chosen = max(opened, key=lambda results: (results.record.created_at, results.name))
    return DerivedListing(chosen, chosen.committed_files())


def current_predictions(
    store: RunStore, head: str | None, slides: Iterable[SlideSummary]
) -> DerivedListing | None:
    """The predictions of a name, or the newest, that fit these slides as they are committed; None as above.

    Raises:
        RunNotFound: there are none of this name.
        StoreError: a slide's predictions are damaged.
    """
    chosen = latest_predictions(store, head)
    if chosen is None:
        return None
    return keep_current(chosen, {summary.slide_id: summary.attempt for summary in slides})


def keep_current(listed: DerivedListing, attempts: Mapping[str, str]) -> DerivedListing:
    """The derived results about these slides, without those about objects of another attempt than is committed now.

    attempts: the attempt that is committed, by slide_id. Reads each file's footer; damaged files are left out and
    noted.
    """
    paths = {slide_id: path for slide_id, path in listed.files.items() if slide_id in attempts}

    def source_attempt(path: str) -> str | None:
        try:
            return listed.results.footer(path).source_attempt
        except DamagedFile as error:
            listed.results.left_out.add(error)
            return None

    made_of = map_in_chunks(source_attempt, list(paths.values()), threads=READ_THREADS)
    fitting: dict[str, str] = {}
    outdated: dict[str, str] = {}
    for (slide_id, path), attempt in zip(paths.items(), made_of, strict=True):
        if attempt is None:
            continue
        kept = fitting if attempt == attempts[slide_id] else outdated
        kept[slide_id] = path
    return DerivedListing(listed.results, fitting, outdated)


def iter_derived(
    store: RunStore, *, leave_out: Callable[[str], bool] = lambda folder: False
) -> Iterator[DerivedStore]:
    """The derived results of every kind and name in a run directory, but for folders that are to be left out."""
    for kind in DERIVED_KINDS:
        if not leave_out(kind):
            yield from _readable(store, kind, leave_out=leave_out)


def _readable(
    store: RunStore, kind: DerivedKind, *, leave_out: Callable[[str], bool] = lambda folder: False
) -> Iterator[DerivedStore]:
    """The derived results of a kind by name; those whose record is damaged are left out and noted."""
    for name in derived_names(store, kind):
        if leave_out(f"{kind}/{name}"):
            continue
        try:
            yield DerivedStore.open(store, kind, name)
        except DamagedFile as error:
            store.left_out.add(error)
