"""The run directory: its record, catalog, committed slides and summaries, and the rules by which they change.

There are no locks: a commit is one create-if-absent, and all files written before it have their attempt's random name.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Protocol, final

import fsspec
import pyarrow as pa

from fossilray.core.config import StoreConfig
from fossilray.core.errors import (
    AttemptExpired,
    DamagedFile,
    LinkInTheWay,
    RunMismatch,
    RunNotFound,
    StoreAccessDenied,
    StoreError,
)
from fossilray.core.records import ArrayFiles, Attempt, CatalogRow, SlideSummary
from fossilray.core.schemas import SCHEMA_VERSION
from fossilray.store.files.base import Files
from fossilray.store.files.conditional_create import check_conditional_create
from fossilray.store.files.local import LocalFiles
from fossilray.store.files.open import open_files
from fossilray.store.run import catalog as frozen_catalog
from fossilray.store.run import summaries
from fossilray.store.run.attempts import AttemptLog, AttemptRecords
from fossilray.store.run.committed_slides import CommittedSlides, RunSlides
from fossilray.store.run.layout import (
    PENDING,
    RUN_JSON,
    arrays_path,
    objects_path,
    pending_path,
    picture_path,
    trace_path,
)
from fossilray.store.run.left_out import LeftOut
from fossilray.store.run.objects_file import Footer, encode_objects, read_footer, read_stored_footer
from fossilray.store.run.run_record import RunRecord
from fossilray.store.samples.corrections import Corrections, correct_table, merge_rounds
from fossilray.store.samples.rounds import SampleRounds


class CompactedSlides(CommittedSlides, Protocol):
    """What `RunStore` reads from a compacted dataset in place of a run directory's own files."""

    @property
    def schema_version(self) -> int:
        """Schema version of the dataset's files."""
        ...

    @property
    def source(self) -> RunStore:
        """The run that the dataset was made of, which keeps arrays and pictures."""
        ...

    def attempts(self) -> AttemptRecords:
        """The failures of the slides that are not in the dataset."""
        ...


@final
class RunStore:
    """One run directory, or a compacted dataset of one; cheap to open, safe to share between threads."""

    def __init__(self, files: Files, *, dataset: CompactedSlides | None = None) -> None:
        """dataset: the tables of a compacted dataset, which are read instead of objects/, slides/ and attempts/."""
        self.files = files
        self._dataset = dataset
        self._run: RunRecord | None = None
        self.left_out = LeftOut()
        """Damaged files that readers of this object passed over."""
        self.lost: frozenset[str] = frozenset()
        """Slides that were committed and whose objects files are gone, as the last `summaries_table` found."""
        self._slides: CommittedSlides = dataset or RunSlides(files, self.left_out)
        self.attempts = AttemptLog(
            files, self.committed, left_out=self.left_out, read=dataset.attempts if dataset else None
        )
        """Attempts at slides that are not committed, and heartbeats of drivers."""
        self.sample_rounds = SampleRounds(
            files, newer=dataset.source.files if dataset else None, unread=self.left_out.add
        )
        """Corrections to the slides' wells, depths and samples that people made after the run was frozen."""
        self._unconfirmed: set[str] = set()
        """Attempts whose commit was requested and not confirmed: it may have succeeded, so their arrays are kept."""

    @staticmethod
    def open(url: str, config: StoreConfig | None = None) -> RunStore:
        """The run directory at a local path or an s3:// address; nothing is read or written yet.

        Raises:
            StoreError: the protocol is unknown, its package is not installed, or the URL holds credentials.
        """
        return RunStore(open_files(url, config or StoreConfig()))

    def expect_run(self) -> None:
        """From now on treat a missing run.json as a disk or a share that is not mounted."""
        if isinstance(self.files, LocalFiles):
            self.files.mark = RUN_JSON

    @property
    def url(self) -> str:
        """The directory with its protocol; a plain absolute path on a disk."""
        return self.files.url

    @property
    def root(self) -> str:
        """The directory as `filesystem` names it."""
        return self.files.root

    @property
    def filesystem(self) -> fsspec.AbstractFileSystem:
        return self.files.filesystem

    @property
    def single_writer(self) -> bool:
        """Whether the driver alone commits, and workers only submit."""
        return self.files.single_writer

    @property
    def is_dataset(self) -> bool:
        """Whether this is a compacted dataset, which is only read."""
        return self._dataset is not None

    @property
    def source_run(self) -> RunStore:
        """The run that holds the arrays: the one that a dataset was made of, or the run itself."""
        return self if self._dataset is None else self._dataset.source

    def objects_glob(self) -> str:
        """The glob that shows every committed slide, for DuckDB."""
        return f"{self.url}/objects/*/*.parquet"

    @property
    def has_old_objects(self) -> bool:
        """Whether objects files may lack `NEW_OBJECT_COLUMNS`: the run was started by an older version."""
        try:
            version = (
                self.read_run().schema_version if self._dataset is None else self._dataset.schema_version
            )
        except StoreError:
            return True
        return version < SCHEMA_VERSION

    # The run and its catalog

    def create_or_check(self, run: RunRecord) -> None:
        """Start a run in this directory, or require that the one in it gives the same results.

        Raises:
            RunMismatch: the run here differs; the message lists each field.
            ConditionalCreateUnsupported: the store would let two workers commit one slide.
            StoreError: the directory cannot be written.
        """
        check_conditional_create(self.files)
        if not self.files.create(RUN_JSON, run.to_json()):
            differences = self.read_run().differences(run)
            if differences:
                raise RunMismatch(
                    f"{self.url} was started with other settings, so its results would not match: "
                    + "; ".join(differences)
                    + "; use the same settings or another run directory"
                )

    def read_run(self) -> RunRecord:
        """The record of the run.

        Raises:
            RunNotFound: no run was started here.
        """
        if self._run is None:
            try:
                self._run = RunRecord.from_json(self.files.read(RUN_JSON), url=self.url)
            except FileNotFoundError:
                raise RunNotFound(
                    f"{self.url} holds no run (no run.json); check the path, or start one with `fossilray process`"
                ) from None
        return self._run

    def freeze_catalog(self, rows: Sequence[CatalogRow]) -> list[CatalogRow]:
        """Add slides that the catalog lacks, and return all its rows as first written, by slide_id.

        A field that is None in the new row takes the frozen value.

        Raises:
            CatalogError: a slide is listed twice, has an unsafe name, or differs from its frozen row.
        """
        return frozen_catalog.freeze_catalog(self.files, rows, self.sample_corrections().value)

    def expect_catalog(self, rows: Sequence[CatalogRow]) -> list[CatalogRow]:
        """The rows as `freeze_catalog` would return them, those of other slides left out; nothing is written.

        Raises:
            CatalogError: as freeze_catalog.
        """
        return frozen_catalog.expect_catalog(self.files, rows, self.sample_corrections().value)

    def read_catalog(self) -> list[CatalogRow]:
        """The rows of the frozen catalog by slide_id; empty before the first job."""
        return frozen_catalog.read_catalog(self.files)

    def readable_catalog(self) -> list[CatalogRow] | None:
        """`read_catalog`; None where a part of it is damaged, which is then among `left_out`."""
        try:
            return self.read_catalog()
        except DamagedFile as error:
            self.left_out.add(error)
            return None

    # One slide

    def commit_slide(
        self, table: pa.Table, summary: SlideSummary, files: ArrayFiles, *, attempt: Attempt | None = None
    ) -> bool:
        """Commit the slide; False if another attempt was committed first.

        table: OBJECTS_SCHEMA, in row order. The arrays of an attempt that was too late are deleted.

        Raises:
            AttemptExpired: `attempt` is past its deadline; nothing was committed.
            RunNotFound: no run was started here.
        """
        path = objects_path(summary.slide_id, summary.well)
        content = self._encoded(table, summary, files, attempt)
        return self._commit(path, content, summary.slide_id, summary.attempt)

    def submit_slide(
        self, table: pa.Table, summary: SlideSummary, files: ArrayFiles, *, attempt: Attempt | None = None
    ) -> None:
        """Submit the slide to the driver, which alone commits; otherwise like `commit_slide`.

        Raises:
            AttemptExpired: `attempt` is past its deadline; nothing was submitted.
            RunNotFound: no run was started here.
        """
        content = self._encoded(table, summary, files, attempt)
        self.files.write(pending_path(summary.slide_id, summary.attempt), content)

    def submitted(self) -> list[tuple[str, str]]:
        """(slide_id, attempt) of slides that workers submitted and no driver has committed or refused yet."""
        paths = [PurePosixPath(path) for path in self.files.find(PENDING)]
        return [(path.parent.name, path.stem) for path in paths if path.suffix == ".parquet"]

    def commit_submitted(self, slide_id: str, well: str, attempt: str) -> bool:
        """Commit a slide that a worker submitted; False if another attempt was committed first.

        Only one process at a time may do this in a run. A repeated call gives the same result.

        Raises:
            StoreError: nothing was submitted under this name, or it is of another attempt.
        """
        pending, path = pending_path(slide_id, attempt), objects_path(slide_id, well)
        try:
            content = self.files.read(pending)
        except FileNotFoundError:
            return self._was_committed(path, slide_id, attempt)
        submitted = read_footer(lambda size: content[-size:], name=f"{self.url}/{pending}").summary
        if (submitted.slide_id, submitted.well, submitted.attempt) != (slide_id, well, attempt):
            raise StoreError(
                f"{self.url}/{pending} holds slide {submitted.slide_id} of well {submitted.well}, attempt "
                f"{submitted.attempt}; delete it and start the same command again"
            )
        won = self._commit(path, content, slide_id, attempt)
        if won:
            self.files.delete(pending)
        return won

    def delete_attempt(self, slide_id: str, attempt: str) -> None:
        """Delete the arrays of an attempt that will not be committed, and its submitted objects file.

        Nothing is deleted while it is unknown whether the attempt was committed. Where the worker's role may not
        delete, or a link is in the way, they are left to `fossilray gc`.
        """
        arrays = arrays_path(slide_id, attempt)
        if attempt in self._unconfirmed:
            return
        with suppress(StoreAccessDenied, LinkInTheWay):
            self.files.delete(arrays)
            if self.single_writer:
                self.files.delete(pending_path(slide_id, attempt))

    def write_picture(self, slide_id: str, jpeg: bytes) -> None:
        """Write a slide's overview picture."""
        self.files.write(picture_path(slide_id), jpeg)

    def picture(self, slide_id: str) -> bytes | None:
        """A slide's overview picture as JPEG; None if it has none."""
        try:
            return self.source_run.files.read(picture_path(slide_id))
        except FileNotFoundError:
            return None

    def write_trace(self, slide_id: str, attempt: str, timeline: bytes) -> None:
        """Write the trace of an attempt's threads."""
        self.files.write(trace_path(slide_id, attempt), timeline)

    # All slides

    def committed(self) -> set[str]:
        """slide_ids of all committed slides, over all wells, from one listing."""
        return self._slides.committed()

    def committed_files(self) -> dict[str, str]:
        """The objects file of each committed slide, relative to the run directory, by slide_id.

        A file of a dataset holds many slides, and slides without objects have none there.
        """
        return self._slides.committed_files()

    def footer(self, slide_id: str) -> Footer | None:
        """Summary, array checksums and provenance of a slide; None if it is not committed."""
        return self._slides.footer(slide_id)

    def append_summaries(self, rows: Sequence[SlideSummary]) -> None:
        """Write summaries of committed slides to a new part of slides/, so that readers need no footers."""
        summaries.append_summaries(self.files, rows)

    def summaries(self) -> list[SlideSummary]:
        """Return one summary of every committed slide, by slide_id: from slides/, else from its own footer."""
        return [SlideSummary(**row) for row in self.summaries_table().to_pylist()]

    def summaries_table(self) -> pa.Table:
        """`stored_summaries_table` with the wells, depths and samples of the newest round of corrections."""
        return correct_table(self.stored_summaries_table(), self.sample_corrections())

    def sample_corrections(self) -> Corrections:
        """Wells, depths and samples of slides as the rounds of corrections have them; empty if there are none."""
        return merge_rounds(self.sample_rounds.all())

    def stored_summaries_table(self) -> pa.Table:
        """`summaries` as SLIDES_SCHEMA, as committed; slides of damaged footers, or without a file, are left out."""
        table, self.lost = self._slides.summaries_table()
        if self.lost:
            self.left_out.add(summaries.describe_lost(self.url, self.lost))
        return table

    def append_missing_summaries(self) -> int:
        """Append the summaries of committed slides that slides/ lacks, and return their number."""
        return summaries.append_missing_summaries(self.files, self.committed_files(), self.left_out)

    def drop_summaries(self, slide_ids: Collection[str]) -> None:
        """Write slides/ again without these slides, which are to be withdrawn."""
        summaries.drop_summaries(self.files, frozenset(slide_ids), self.left_out)

    def rebuild_summaries(self) -> int:
        """Write slides/ again from the footers of all committed slides, and return their number."""
        self.tidy()
        return self._slides.rebuild_summaries()

    def tidy(self) -> None:
        """Delete half-written files of ended processes on a disk; an object store shows none."""
        if isinstance(self.files, LocalFiles):
            self.files.tidy()

    # Helpers

    def _encoded(
        self, table: pa.Table, summary: SlideSummary, files: ArrayFiles, attempt: Attempt | None
    ) -> bytes:
        content = encode_objects(table, summary, files, run_digest=self.read_run().digest)
        if attempt is not None and datetime.now(UTC) > datetime.fromisoformat(attempt.deadline_at):
            raise AttemptExpired(
                f"{summary.slide_id}: attempt {summary.attempt} ended after its deadline {attempt.deadline_at}; "
                "raise workers.deadline_minutes if slides need longer"
            )
        return content

    def _commit(self, path: str, content: bytes, slide_id: str, attempt: str) -> bool:
        self._unconfirmed.add(attempt)
        # After a lost response a retry reports that the file exists; its footer names the attempt.
        won = self.files.create(path, content) or read_stored_footer(self.files, path).attempt == attempt
        self._unconfirmed.discard(attempt)
        if won:
            return True
        self.delete_attempt(slide_id, attempt)
        return False

    def _was_committed(self, path: str, slide_id: str, attempt: str) -> bool:
        try:
            won = read_stored_footer(self.files, path).attempt == attempt
        except FileNotFoundError:
            raise StoreError(
                f"{self.url}/{pending_path(slide_id, attempt)} is gone and {slide_id} is not committed; start "
                "the same command again"
            ) from None
        if not won:
            self.delete_attempt(slide_id, attempt)
        return won
