"""Spelling of the names that an import brings: a vocabulary that is enforced, and one spelling for one name."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fossilray.core.errors import UsageError
from fossilray.core.text import list_some, strip_control_characters
from fossilray.labels.label_set import LabelSet, is_label_set
from fossilray.labels.occurrence import Occurrence, genus_and_species
from fossilray.labels.sources import ParsedLabel
from fossilray.labels.taxonomy import RANKS, Taxonomy, read_taxonomy, taxon_key


@dataclass(frozen=True)
class Spelling:
    """Names to accept and to replace in an import."""

    vocabulary: Taxonomy | None = None
    """The only names that are accepted, with their synonyms; None: all."""
    same: Mapping[str, str] = field(default_factory=dict)
    """Names by the names that they replace; a name that stands for itself is kept beside its other spellings."""


def read_spelling(vocabulary: Path | None, same: Sequence[str]) -> Spelling:
    """Return what `--vocabulary` and `--same` state.

    Raises:
        UsageError: the file is no taxonomy, or a text of `same` is not `name=name`.
    """
    pairs = {}
    for text in same:
        old, mark, new = (part.strip() for part in text.partition("="))
        if not (old and mark and new):
            raise UsageError(f"--same is {text!r:.60}, expected two names as in 'leiotriletes=Leiotriletes'")
        pairs[old] = new
    return Spelling(None if vocabulary is None else read_taxonomy(vocabulary), pairs)


def check_spelling(
    source: Path, labels: Sequence[ParsedLabel], into: Path, spelling: Spelling
) -> list[ParsedLabel]:
    """Return the labels with names replaced by `spelling.same`.

    Raises:
        UsageError: a name is not in the vocabulary, or differs only in case, blanks or underscores from another one of
            the source or of the label set `into`. Names take the spelling of the vocabulary.
    """
    same = dict(spelling.same)
    if spelling.vocabulary is not None:
        known = {taxon_key(name): name for name in _names_of(spelling.vocabulary)}
        for label in labels:
            taxon = label.occurrence.taxon
            same.setdefault(taxon, known.get(taxon_key(taxon), taxon))
    spelled = [replace(label, occurrence=_respelled(label.occurrence, same)) for label in labels]
    if spelling.vocabulary is not None:
        _refuse_unknown(source, spelled, spelling.vocabulary)
    _refuse_two_spellings(source, spelled, into, spelling)
    return spelled


def spellings_of(names: Iterable[str]) -> list[list[tuple[str, int]]]:
    """Return names that differ only in case, blanks or underscores, with their numbers, the most frequent first."""
    by_key: dict[str, Counter[str]] = {}
    for name in names:
        by_key.setdefault(taxon_key(name), Counter())[name] += 1
    return [
        sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        for _, counts in sorted(by_key.items())
        if len(counts) > 1
    ]


def _respelled(occurrence: Occurrence, same: Mapping[str, str]) -> Occurrence:
    new = same.get(occurrence.taxon, occurrence.taxon)
    if new == occurrence.taxon:
        return occurrence
    written = occurrence.written.replace(occurrence.taxon, new)
    # A qualifier inside the name divides it: the definite part follows from the text, which keeps its order.
    if occurrence.taxon not in occurrence.written:
        old_words, new_words = occurrence.taxon.split(), new.split()
        for old_word, new_word in zip(old_words, new_words, strict=False):
            written = written.replace(old_word, new_word)
    return replace(occurrence, written=written, taxon=new)


def _refuse_unknown(source: Path, labels: Sequence[ParsedLabel], vocabulary: Taxonomy) -> None:
    unknown: dict[str, list[ParsedLabel]] = {}
    for label in labels:
        taxon = label.occurrence.taxon
        if taxon and not _is_in(vocabulary, taxon):
            unknown.setdefault(taxon, []).append(label)
    if not unknown:
        return
    known = _names_of(vocabulary)
    by_key = {taxon_key(name): name for name in known}
    listed = []
    for name, given in unknown.items():
        near = difflib.get_close_matches(taxon_key(name), list(by_key), n=1, cutoff=0.75)
        hint = f", is it {by_key[near[0]]}?" if near else ""
        listed.append(
            strip_control_characters(f"{name} ({len(given)} times, first {given[0].position}{hint})")
        )
    raise UsageError(
        f"{source} has {len(unknown)} names that the vocabulary does not have: "
        f"{list_some(listed, most=20, separator='; ')}; correct them, add them to the vocabulary, or replace them with "
        "--same 'old=new'; nothing was imported"
    )


def _is_in(vocabulary: Taxonomy, taxon: str) -> bool:
    """Whether the vocabulary has a taxon, or the genus of an informal species such as `Deflandrea sp. A`."""
    genus, species = genus_and_species(taxon)
    is_informal = species.startswith(f"{genus} sp. ")
    return vocabulary.find(taxon) is not None or (is_informal and vocabulary.find(genus) is not None)


def _names_of(vocabulary: Taxonomy) -> list[str]:
    names = [getattr(row, rank) for row in vocabulary.rows for rank in RANKS]
    return list(dict.fromkeys(filter(None, names)))


def _refuse_two_spellings(
    source: Path, labels: Sequence[ParsedLabel], into: Path, spelling: Spelling
) -> None:
    """Refuse two spellings of one name, unless `same` keeps both."""
    names = [label.occurrence.taxon for label in labels if label.occurrence.taxon]
    kept = {old for old, new in spelling.same.items() if old == new}
    incoming = set(names)
    before: list[str] = []
    if is_label_set(into):
        merged = LabelSet.open(into).labels()
        before = [
            label.occurrence.taxon
            for given in merged.by_object.values()
            for label in given
            if label.occurrence.taxon
        ]
    for spelled in spellings_of([*before, *names]):
        in_set = [name for name, _ in spelled if name in before]
        common = in_set[0] if in_set else spelled[0][0]
        others = [name for name, _ in spelled if name in incoming and name != common and name not in kept]
        if not others:
            continue
        counts = ", ".join(f"{name} ({number})" for name, number in spelled)
        raise UsageError(
            f"{source} and {into} spell one name in two ways: {strip_control_characters(counts)}; which one is meant? "
            f"Give --same '{others[0]}={common}' to import it as {common}, or --same '{others[0]}={others[0]}' to keep "
            "both; nothing was imported"
        )
