"""Objects of a run as occurrences of taxa: by labels where there are any, else by predictions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fossilray.analysis.export.selection import ObjectSelection
from fossilray.core.errors import UsageError
from fossilray.core.records import SlideSummary
from fossilray.labels.current import labelled_taxa
from fossilray.store import RunStore


@dataclass(frozen=True)
class TaxonName:
    """A name with what qualifies it."""

    taxon: str
    qualifier: str = ""
    """cf., aff., ?, sp., indet."""
    situation: str = ""
    """in place, reworked, caved, contaminant."""


@dataclass(frozen=True)
class ObjectOccurrence:
    """An object and its name."""

    slide: SlideSummary
    row: Mapping[str, Any]
    """Its row of `objects`."""
    name: TaxonName | None
    """None without a label and a prediction."""
    source: str
    """`label` or `prediction`; empty without a name."""
    identified_by: str
    """The annotator, or the name of the predictions."""
    identified_at: str = ""
    remark: str = ""


class OccurrenceSource:
    """The occurrences of a run, slide by slide.

    Args:
        labels: label set whose names go before predictions; None: predictions alone.
        head: name of the predictions; None: the newest; `none`: labels alone.

    Raises:
        UsageError: there are neither labels nor predictions, or the run lacks a slide.
    """

    def __init__(
        self,
        store: RunStore,
        *,
        labels: Path | None = None,
        head: str | None = None,
        where: str | None = None,
        slides: Collection[str] = (),
    ) -> None:
        self.selection = ObjectSelection(store, where=where, slides=slides, head=head)
        self._labels = {} if labels is None else labelled_taxa(labels, store)
        if labels is None and self.selection.predictions is None:
            raise UsageError(
                f"{store.url} has no predictions and no --labels are given, so no object has a name; run `fossilray "
                "classify run`, or give a label set"
            )
        parts = [] if labels is None else [f"labels of {labels.name}"]
        if self.selection.predictions is not None:
            parts.append(f"predictions {self.selection.predictions}")
        self.basis = ", else ".join(parts)
        """What names the objects, for the notes of a file."""

    def of_slide(self, summary: SlideSummary) -> Iterator[ObjectOccurrence]:
        """Yield the selected objects of a slide."""
        for row in self.selection.read(summary).table.to_pylist():
            label = self._labels.get((summary.slide_id, row["object_id"]))
            if label is not None:
                yield ObjectOccurrence(
                    summary,
                    row,
                    TaxonName(label.taxon, label.qualifier, label.situation) if label.taxon else None,
                    "label",
                    label.who,
                    label.at,
                    label.remark,
                )
            elif row.get("genus") is not None:
                yield ObjectOccurrence(
                    summary, row, TaxonName(row["genus"]), "prediction", self.selection.predictions or ""
                )
            else:
                yield ObjectOccurrence(summary, row, None, "", "")
