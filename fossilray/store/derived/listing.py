"""The answers that a run has, as they were when somebody listed them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from fossilray.core.errors import DamagedFile
from fossilray.core.parallel import map_in_parts
from fossilray.core.records import SlideSummary
from fossilray.store import RunStore
from fossilray.store.dataset.dataset_store import arrays_store
from fossilray.store.derived.derived_store import AnswerStore, answers_in
from fossilray.store.files.base import READ_THREADS
from fossilray.store.run.layout import ANSWER_KINDS, AnswerKind


@dataclass(frozen=True)
class ListedAnswers:
    """Answers of one name, and the file of each slide that has some."""

    answers: AnswerStore
    files: Mapping[str, str]
    """Relative to the folder of the answers, by slide_id."""
    outdated: Mapping[str, str] = field(default_factory=dict)
    """Files that `keep_fitting` left out."""


def list_answers(store: RunStore, kind: AnswerKind) -> list[ListedAnswers]:
    """All answers of one kind, by name; those of a dataset are in the run that it was made of."""
    home = arrays_store(store)
    return [ListedAnswers(answers, answers.committed_files()) for answers in _readable(home, kind)]


def choose_predictions(store: RunStore, head: str | None) -> ListedAnswers | None:
    """The predictions of this name, or the newest ones; None if there are none and none are named.

    Raises:
        RunNotFound: there are none of this name.
    """
    home = arrays_store(store)
    if head is not None:
        chosen = AnswerStore.open(home, "predictions", head)
    else:
        opened = list(_readable(home, "predictions"))
        if not opened:
            return None
        chosen = max(opened, key=lambda one: (one.record.created_at, one.name))
    return ListedAnswers(chosen, chosen.committed_files())


def choose_fitting(store: RunStore, head: str | None, slides: Iterable[SlideSummary]) -> ListedAnswers | None:
    """The predictions of a name, or the newest, that fit these slides as they are committed; None as above.

    Raises:
        RunNotFound: there are none of this name.
        StoreError: a slide's predictions are damaged.
    """
    chosen = choose_predictions(store, head)
    return None if chosen is None else keep_fitting(chosen, {one.slide_id: one.attempt for one in slides})


def keep_fitting(listed: ListedAnswers, attempts: Mapping[str, str]) -> ListedAnswers:
    """The answers about these slides, without those about objects of another attempt than is committed now.

    attempts: the attempt that is committed, by slide_id. Reads each file's footer; damaged files are left out and
    noted.
    """
    paths = {slide_id: path for slide_id, path in listed.files.items() if slide_id in attempts}

    def source_attempt(path: str) -> str | None:
        try:
            return listed.answers.footer(path).source_attempt
        except DamagedFile as error:
            listed.answers.left_out.add(error)
            return None

    made_of = map_in_parts(source_attempt, list(paths.values()), threads=READ_THREADS)
    fitting: dict[str, str] = {}
    outdated: dict[str, str] = {}
    for (slide_id, path), attempt in zip(paths.items(), made_of, strict=True):
        if attempt is None:
            continue
        kept = fitting if attempt == attempts[slide_id] else outdated
        kept[slide_id] = path
    return ListedAnswers(listed.answers, fitting, outdated)


def every_answers(
    store: RunStore, *, leave_out: Callable[[str], bool] = lambda folder: False
) -> Iterator[AnswerStore]:
    """The answers of every kind and name in a run directory, but for folders that are to be left out."""
    for kind in ANSWER_KINDS:
        if not leave_out(kind):
            yield from _readable(store, kind, leave_out=leave_out)


def _readable(
    store: RunStore, kind: AnswerKind, *, leave_out: Callable[[str], bool] = lambda folder: False
) -> Iterator[AnswerStore]:
    """The answers of a kind by name; those whose record is damaged are left out and noted."""
    for name in answers_in(store, kind):
        if leave_out(f"{kind}/{name}"):
            continue
        try:
            yield AnswerStore.open(store, kind, name)
        except DamagedFile as error:
            store.left_out.add(error)
