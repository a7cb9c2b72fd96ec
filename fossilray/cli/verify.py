"""The check of a compacted dataset, an index or a label set: each damaged file is found by name."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fossilray.core.folder_kinds import FolderKind, kind_of_folder
from fossilray.store.files.base import Files
from fossilray.store.maintenance.slide_check import VerifyFinding

if TYPE_CHECKING:
    from rich.console import Group

_MAX_LISTED = 50


@dataclass(frozen=True)
class FolderReport:
    """The result of the check of a folder."""

    url: str
    kind: FolderKind
    deep: bool
    findings: tuple[VerifyFinding, ...]
    """Damage, by path."""
    seconds: float

    @property
    def sound(self) -> bool:
        """Whether no damage was found."""
        return not self.findings


def folder_kind(files: Files) -> FolderKind | None:
    """Return the kind of a folder that is not a run directory; None: a run, or a folder that fossilray did not write.

    Raises:
        StoreError: the folder cannot be listed.
    """
    kind = kind_of_folder(files.names(""))
    return None if kind is None or kind.name == "run" else kind


def check_folder(files: Files, kind: FolderKind, *, deep: bool = False) -> FolderReport:
    """Compare the files of a dataset, an index or a label set with their records; nothing is changed.

    deep: read everything and compare checksums. A label set is small and always read whole.

    Raises:
        StoreUnreachable: the store does not respond.
    """
    from fossilray.analysis.search.index_check import check_index
    from fossilray.labels.label_set import LabelSet
    from fossilray.store.maintenance.dataset_check import check_dataset

    started_s = time.monotonic()
    if kind.name == "dataset":
        findings = list(check_dataset(files, deep=deep))
    elif kind.name == "index":
        findings = list(check_index(files, deep=deep))
    else:
        damage = LabelSet(Path(files.root)).damage()
        findings = [VerifyFinding("", path, "labels", message) for path, message in damage]
    findings.sort(key=lambda finding: (finding.path, finding.message))
    return FolderReport(files.url, kind, deep, tuple(findings), time.monotonic() - started_s)


def render_report(report: FolderReport) -> Group:
    """Return the result and the first findings, for a rich console."""
    from rich.console import Group
    from rich.text import Text

    from fossilray.core.text import strip_control_characters
    from fossilray.core.text_table import TextTable

    where = f"{report.kind.name} {strip_control_characters(report.url)}"
    if report.sound:
        is_read = report.deep or report.kind.name == "label set"
        depth = "everything read" if is_read else "sizes and records compared"
        return Group(Text(f"sound: {depth}", style="bold green"), Text(where))
    table = TextTable("kind", "finding")
    for finding in report.findings[:_MAX_LISTED]:
        table.add_row(finding.kind, finding.message)
    result = Text(f"damaged: {len(report.findings):,} findings", style="bold red")
    more = len(report.findings) - _MAX_LISTED
    return Group(result, Text(where), table, *([Text(f"… and {more:,} more")] if more > 0 else []))
