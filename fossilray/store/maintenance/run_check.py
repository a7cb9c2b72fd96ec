"""Checks that the listing, the catalog and the gathered summaries of a run agree on the committed slides."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from fossilray.core.errors import CatalogError, RunMismatch, StoreError, StoreUnreachable, UsageError
from fossilray.core.records import READABLE_VERSIONS, SlideSummary
from fossilray.core.schemas import SCHEMA_VERSION, SLIDES_SCHEMA
from fossilray.store.dataset.dataset_store import DATASET_JSON
from fossilray.store.maintenance.slide_check import VerifyFinding
from fossilray.store.run.layout import OBJECTS, slide_of
from fossilray.store.run.run_record import RunRecord
from fossilray.store.run.run_store import RunStore
from fossilray.store.run.summaries import gathered_summaries

_COMMIT = re.compile(rf"{OBJECTS}/well=[^/]+/[^/]+\.parquet")


def require_run(store: RunStore) -> RunRecord:
    """Return the record of a run that may be verified and cleaned of garbage.

    Raises:
        RunNotFound: the folder holds no run.
        RunMismatch: another version of fossilray made it.
        UsageError: it is a compacted dataset.
    """
    run = store.read_run()
    if DATASET_JSON in store.files.names(""):
        raise UsageError(
            f"{store.url} is a compacted dataset, which was compared with its run when it was made; name the run"
        )
    if run.schema_version not in READABLE_VERSIONS:
        raise RunMismatch(
            f"{store.url} is of schema version {run.schema_version}, this fossilray reads {SCHEMA_VERSION}; "
            "install the version that run.json names"
        )
    return run


def list_commits(store: RunStore) -> tuple[dict[str, str], list[VerifyFinding]]:
    """Return the objects file of every committed slide by slide_id, and findings about other files in objects/."""
    commits: dict[str, str] = {}
    findings = []
    for path in store.files.find(OBJECTS):
        slide_id = slide_of(path)
        if not _COMMIT.fullmatch(path):
            message = f"{path} is no slide's objects file; move it out of objects/, where readers take all for slides"
            findings.append(VerifyFinding("", path, "stray", message))
        elif slide_id in commits:
            message = (
                f"{path} is a second commit of a slide that {commits[slide_id]} holds too; keep the one whose well "
                "the catalog names and move the other out of objects/"
            )
            findings.append(VerifyFinding(slide_id, path, "twice", message))
        else:
            commits[slide_id] = path
    return commits, findings


def compare_catalog(store: RunStore, commits: Mapping[str, str]) -> list[VerifyFinding]:
    """Return findings about committed slides that are not in the run's catalog."""
    try:
        known = {row.slide_id for row in store.read_catalog()}
    except StoreUnreachable:
        raise
    except (StoreError, CatalogError) as error:
        return [VerifyFinding("", "catalog.parquet", "catalog", str(error))]
    return [
        VerifyFinding(
            slide_id,
            path,
            "unknown",
            f"{path} is of a slide that the run's catalog does not know; add the slide to the run, or move the file "
            "out of objects/",
        )
        for slide_id, path in commits.items()
        if slide_id not in known
    ]


class GatheredSummaries:
    """The summaries in slides/, compared with footers one by one."""

    def __init__(self, store: RunStore) -> None:
        self._damage = ""
        try:
            self._table = gathered_summaries(store.files)
        except StoreUnreachable:
            raise
        except StoreError as error:
            self._damage = str(error)
            self._table = SLIDES_SCHEMA.empty_table()
        # Of a slide that is in several parts the last row counts.
        self._row_of = {slide_id: row for row, slide_id in enumerate(self._table["slide_id"].to_pylist())}
        self._absent = 0
        self._other = 0

    def lost(self, commits: Iterable[str]) -> list[VerifyFinding]:
        """Return findings about slides whose commit has disappeared."""
        return [
            VerifyFinding(
                slide_id,
                "slides/",
                "lost",
                f"slide {slide_id} was committed and its objects file is gone; start the same command again, which "
                "processes it again",
            )
            for slide_id in sorted(self._row_of.keys() - set(commits))
        ]

    def compare(self, summary: SlideSummary) -> None:
        """Note a slide whose summary in slides/ differs from its footer's."""
        row = self._row_of.get(summary.slide_id)
        if row is None:
            self._absent += 1
        elif SlideSummary(**self._table.slice(row, 1).to_pylist()[0]) != summary:
            self._other += 1

    def out_of_date(self) -> list[VerifyFinding]:
        """Return one finding if slides/ lags behind the footers compared so far."""
        if self._damage:
            return [VerifyFinding("", "slides/", "summaries", self._damage)]
        if not self._absent + self._other:
            return []
        message = (
            f"slides/ lacks {self._absent:,} committed slides and differs from the footers of {self._other:,}; "
            "`fossilray verify RUN --rebuild` writes it again"
        )
        return [VerifyFinding("", "slides/", "summaries", message)]
