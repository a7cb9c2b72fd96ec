"""The check of what is no run: a compacted dataset, an index or a label set; each damaged file is found by name."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fossilray.analysis.search.index_check import check_index
from fossilray.analysis.search.index_store import INDEX_JSON
from fossilray.labels.label_set import LABELS_JSON, ROUNDS, LabelSet
from fossilray.store.dataset.dataset_store import DATASET_JSON, FAILURES_PARQUET, UNFINISHED_JSON
from fossilray.store.files.base import Files
from fossilray.store.maintenance.dataset_check import check_dataset
from fossilray.store.maintenance.slide_check import VerifyFinding

if TYPE_CHECKING:
    from rich.console import Group

Place = Literal["dataset", "index", "label set"]
_MOST_LISTED = 50


@dataclass(frozen=True)
class PlaceReport:
    """What was found in such a place."""

    url: str
    place: Place
    deep: bool
    findings: tuple[VerifyFinding, ...]
    """Damage, by path."""
    seconds: float

    @property
    def sound(self) -> bool:
        """Nothing was found."""
        return not self.findings


def place_at(files: Files) -> Place | None:
    """What lies here by its names, also where the file that marks it is gone; None: a run, or nothing of fossilray's.

    Raises:
        StoreError: the place cannot be listed.
    """
    names = set(files.names(""))
    if DATASET_JSON in names or (FAILURES_PARQUET in names and UNFINISHED_JSON not in names):
        return "dataset"
    if INDEX_JSON in names or {"shards", "data"} <= names:
        return "index"
    return "label set" if LABELS_JSON in names or ROUNDS in names else None


def check_place(files: Files, place: Place, *, deep: bool = False) -> PlaceReport:
    """Compare what lies in such a place with what was written; nothing is changed.

    deep: read everything, checksums too. A label set is small and always read whole.

    Raises:
        StoreUnreachable: the store does not answer.
    """
    began_s = time.monotonic()
    if place == "dataset":
        findings = list(check_dataset(files, deep=deep))
    elif place == "index":
        findings = list(check_index(files, deep=deep))
    else:
        damage = LabelSet(Path(files.root)).damage()
        findings = [VerifyFinding("", path, "labels", message) for path, message in damage]
    findings.sort(key=lambda finding: (finding.path, finding.message))
    return PlaceReport(files.url, place, deep, tuple(findings), time.monotonic() - began_s)


def render_place(report: PlaceReport) -> Group:
    """The verdict and the first findings, for a rich console."""
    from rich.console import Group
    from rich.text import Text

    from fossilray.core.text import strip_control_characters
    from fossilray.core.text_table import TextTable

    where = f"{report.place} {strip_control_characters(report.url)}"
    if report.sound:
        depth = (
            "everything read" if report.deep or report.place == "label set" else "sizes and records compared"
        )
        return Group(Text(f"sound: {depth}", style="bold green"), Text(where))
    table = TextTable("kind", "finding")
    for finding in report.findings[:_MOST_LISTED]:
        table.add_row(finding.kind, finding.message)
    verdict = Text(f"damaged: {len(report.findings):,} findings", style="bold red")
    more = len(report.findings) - _MOST_LISTED
    return Group(verdict, Text(where), table, *([Text(f"… and {more:,} more")] if more > 0 else []))
