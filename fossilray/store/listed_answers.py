"""The answers that a run has, as they were when somebody listed them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fossilray.store import RunStore
from fossilray.store.answers import AnswerStore, answers_in
from fossilray.store.dataset import arrays_store
from fossilray.store.layout import ANSWER_KINDS, AnswerKind


@dataclass(frozen=True)
class ListedAnswers:
    """Answers of one name, and the file of each slide that has some."""

    answers: AnswerStore
    files: Mapping[str, str]
    """Relative to the folder of the answers, by slide_id."""


def list_answers(store: RunStore, kind: AnswerKind) -> list[ListedAnswers]:
    """All answers of one kind, by name; those of a dataset are in the run that it was made of."""
    home = arrays_store(store)
    opened = (AnswerStore.open(home, kind, name) for name in answers_in(home, kind))
    return [ListedAnswers(answers, answers.committed_files()) for answers in opened]


def choose_predictions(store: RunStore, head: str | None) -> ListedAnswers | None:
    """The predictions of this name, or the newest ones; None if there are none and none are named.

    Raises:
        RunNotFound: there are none of this name.
    """
    home = arrays_store(store)
    if head is not None:
        chosen = AnswerStore.open(home, "predictions", head)
    else:
        opened = [AnswerStore.open(home, "predictions", name) for name in answers_in(home, "predictions")]
        if not opened:
            return None
        chosen = max(opened, key=lambda one: (one.record.created_at, one.name))
    return ListedAnswers(chosen, chosen.committed_files())


def every_answers(store: RunStore) -> Iterator[AnswerStore]:
    """The answers of every kind and name in a run directory."""
    for kind in ANSWER_KINDS:
        for name in answers_in(store, kind):
            yield AnswerStore.open(store, kind, name)
