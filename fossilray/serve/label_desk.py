"""The current labels of a run's objects while people label: those of the label set, and the acts since."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fossilray.core.errors import FossilrayError, UsageError
from fossilray.core.records import utc_now
from fossilray.labels.agreement import Naming, agree
from fossilray.labels.current import attempts_of, labels_of_run
from fossilray.labels.label import MISSED, Box, Label, ObjectKey
from fossilray.labels.label_set import LabelSet
from fossilray.labels.matching import RunSlide, slides_of
from fossilray.labels.occurrence import Occurrence
from fossilray.serve.act import Act, RecordedAct
from fossilray.serve.act_journal import ActJournal, read_journal
from fossilray.store import RunStore

_log = logging.getLogger(__name__)

BoxOf = Callable[[str, int], Box | None]
"""Gives the box of an object by slide_id and object_id; None if the run lacks it."""

Listener = Callable[[int, RecordedAct], None]
"""Takes the number of an act, from 1 since the start of the server, and the act."""


@dataclass(frozen=True)
class ActOutcome:
    """What became of the acts of one request."""

    accepted: tuple[str, ...]
    """Ids of acts that are safe on the disk, those that were known already included."""
    refused: Mapping[str, str]
    """Ids of acts that cannot be recorded, with the reason."""


class LabelDesk:
    """Takes acts on the objects of one run, and turns them into rounds of a label set.

    chosen_by: the mark of labels of these objects, by slide_id and object_id: they were drawn for an audit.
    """

    def __init__(
        self,
        store: RunStore,
        folder: Path,
        *,
        box_of: BoxOf,
        chosen_by: Mapping[tuple[str, int], str] | None = None,
    ) -> None:
        self._store, self._box_of, self._chosen_by = store, box_of, chosen_by or {}
        self._set = LabelSet.open_or_create(folder)
        self._journal = ActJournal(folder)
        self._guard, self._committing = threading.Lock(), threading.Lock()
        self._in_rounds: set[str] = set()
        """Journals whose acts are in a round of this process; one of them may still wait for its new name."""
        self._run_digest = store.read_run().digest
        self._slides: dict[str, RunSlide] = slides_of(store)
        self.recovered = self._recover()
        """Acts that a killed server had acknowledged and that became rounds now."""
        self._known = set(self._journal.known_ids())
        self._current: dict[ObjectKey, dict[str, Label]] = {}
        merged = labels_of_run(folder, store).merged
        attempts = attempts_of(store)
        for key, labels in merged.by_object.items():
            if attempts.get(key[0]) == key[2] or key[1] == MISSED:
                self._current[key] = {label.who: label for label in labels}
        self._number = 0
        self._listeners: dict[object, Listener] = {}

    @property
    def folder(self) -> Path:
        return self._set.folder

    def record(self, acts: Sequence[Act], *, who: str) -> ActOutcome:
        """Write acts through to the disk, then let everybody see them.

        Raises:
            StoreError: the disk refuses them; none of them counts.
        """
        refused: dict[str, str] = {}
        with self._guard:
            new: list[tuple[RecordedAct, Label]] = []
            given: dict[ObjectKey, Label] = {}
            taken: set[str] = set()
            for act in acts:
                if act.id in self._known or act.id in taken:
                    continue
                try:
                    label = self._label(act, who, given)
                except UsageError as error:
                    refused[act.id] = str(error)
                    continue
                taken.add(act.id)
                given[label.key] = label
                new.append((RecordedAct.of(act, label, run=self._store.url), label))
            if new:
                self._journal.append([recorded for recorded, _ in new])
            for recorded, label in new:
                self._known.add(recorded.id)
                self._apply(label)
                self._number += 1
                for listener in self._listeners.values():
                    listener(self._number, recorded)
        return ActOutcome(tuple(act.id for act in acts if act.id not in refused), refused)

    def labels_of(self, key: ObjectKey) -> tuple[Label, ...]:
        """Return the current label of each annotator of an object, the newest last."""
        with self._guard:
            return tuple(self._current.get(key, {}).values())

    def labelled(self) -> dict[ObjectKey, tuple[Label, ...]]:
        """Return the current labels of all objects of the run, missed ones included."""
        with self._guard:
            return {key: tuple(labels.values()) for key, labels in self._current.items()}

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return the number of labelled objects by name or kind, and how many of them are unsure or in conflict."""
        named: Counter[str] = Counter()
        doubtful: Counter[str] = Counter()
        for labels in self.labelled().values():
            newest = labels[-1].occurrence
            name = newest.name or newest.shown
            named[name] += 1
            is_conflict = agree([label.occurrence for label in labels], Naming()).is_conflict
            doubtful[name] += is_conflict or newest.is_unsure
        return {name: (number, doubtful[name]) for name, number in named.items()}

    def conflicts(self) -> list[ObjectKey]:
        """Return the objects whose annotators contradict each other."""
        return sorted(
            key
            for key, labels in self.labelled().items()
            if len(labels) > 1 and agree([label.occurrence for label in labels], Naming()).is_conflict
        )

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call a listener with every act from now on, in any thread; what is returned ends that."""
        key = object()
        with self._guard:
            self._listeners[key] = listener

        def end() -> None:
            with self._guard:
                self._listeners.pop(key, None)

        return end

    @property
    def newest_act(self) -> int:
        """Number of the newest act since the start."""
        return self._number

    def commit(self) -> int:
        """Turn the acts since the last round into a round of the label set and return their number.

        Raises:
            FossilrayError, OSError: the label set takes no round; the acts stay in their journal, for the next call.
        """
        with self._committing:
            committed = 0
            for path in self._journal.take():
                acts = read_journal(path)
                self._add_round(path, acts)
                committed += len(acts)
            return committed

    def commit_if_possible(self) -> None:
        """Do the same; where it fails, the acts stay in their journal for the next time or the next start."""
        try:
            self.commit()
        except (FossilrayError, OSError) as error:
            _log.warning("the last labels stay in %s until they can become a round: %s", self.folder, error)

    def _recover(self) -> int:
        committed = {record.source for record in self._set.rounds()}
        recovered = 0
        for path in self._journal.abandoned():
            if path.name in committed:
                self._journal.finish(path)
                continue
            acts = read_journal(path)
            self._add_round(path, acts)
            recovered += len(acts)
        return recovered

    def _add_round(self, path: Path, acts: Sequence[RecordedAct]) -> None:
        if acts and path.name not in self._in_rounds:
            self._set.add(
                [act.label() for act in acts],
                source=path.name,
                source_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                run=acts[0].run,
                run_digest=acts[0].run_digest,
            )
            self._in_rounds.add(path.name)
        self._journal.finish(path)

    def _label(self, act: Act, who: str, given: Mapping[ObjectKey, Label]) -> Label:
        """Return the label that an act states.

        given: labels of the same request, by object.

        Raises:
            UsageError: the run does not hold the object, or holds another attempt of its slide.
        """
        slide = self._slides.get(act.slide_id)
        if slide is None:
            raise UsageError(f"the run holds no slide {act.slide_id!r:.100}")
        if slide.attempt != act.attempt:
            raise UsageError(f"{act.slide_id} was processed again since the page was opened; load it again")
        box = act.box
        if act.object_id is not None:
            box = self._box_of(act.slide_id, act.object_id)
        if box is None:
            raise UsageError(f"{act.slide_id} has no object {act.object_id}")
        label = Label(
            act.slide_id,
            act.object_id,
            act.attempt,
            box,
            who,
            Occurrence("", "") if act.states is None else act.states.occurrence(),
            slide.scan,
            utc_now(),
            self._run_digest,
            chosen_by=self._chosen_by.get((act.slide_id, act.object_id), "")
            if act.object_id is not None
            else "",
        )
        if act.states is not None:
            return label
        earlier = given.get(label.key) or self._current.get(label.key, {}).get(who)
        if earlier is None or earlier.is_withdrawn:
            raise UsageError(f"{who} has no label of {label.shown}, so there is none to withdraw")
        return replace(label, occurrence=earlier.occurrence, is_withdrawn=True)

    def _apply(self, label: Label) -> None:
        by_annotator = self._current.setdefault(label.key, {})
        by_annotator.pop(label.who, None)
        if not label.is_withdrawn:
            by_annotator[label.who] = label
        if not by_annotator:
            del self._current[label.key]
