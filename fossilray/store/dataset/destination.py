"""The place where a dataset is made: taken, watched, and announced in one act."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass

from fossilray.core.errors import StoreError, UsageError
from fossilray.core.records import utc_now
from fossilray.store.dataset.dataset_store import (
    DATASET_JSON,
    EMBEDDINGS,
    UNFINISHED_JSON,
    DatasetRecord,
)
from fossilray.store.dataset.unfinished_dataset import check_unfinished, remove_spares, remove_unfinished
from fossilray.store.files.base import CLAIMS, PROBE_FILES, TEMPORARY, Files
from fossilray.store.files.claims import Claim
from fossilray.store.files.conditional_create import check_conditional_create
from fossilray.store.run.layout import OBJECTS


@dataclass(frozen=True)
class DatasetDestination:
    """Where a dataset is made: ours until another process's token stands there."""

    files: Files
    token: bytes
    claim: Claim

    @staticmethod
    def check_free(files: Files) -> bool:
        """Whether an unfinished try left something there.

        Raises:
            UsageError: the place holds a finished dataset, or something that is none.
        """
        there = set(files.names("")) - {TEMPORARY, PROBE_FILES, CLAIMS}
        if DATASET_JSON in there:
            raise UsageError(
                f"{files.url} holds a finished dataset; choose another place, or delete that one first"
            )
        if there and UNFINISHED_JSON not in there:
            raise UsageError(
                f"{files.url} is not empty and holds no unfinished dataset; choose a new place with --to"
            )
        if there:
            check_unfinished(files)
        return bool(there)

    @staticmethod
    def take(files: Files, source: str, claim: Claim) -> DatasetDestination:
        """Make the place ours and remove what an unfinished try left there.

        Raises:
            UsageError: it holds a finished dataset, or something that is none.
            ConditionalCreateUnsupported: the store could not announce a dataset in one act.
        """
        is_begun = DatasetDestination.check_free(files)
        if not files.single_writer:
            check_conditional_create(files)
        stated = {"token": secrets.token_hex(8), "source": source, "began_at": utc_now()}
        place = DatasetDestination(files, json.dumps(stated, indent=2).encode() + b"\n", claim)
        files.write(UNFINISHED_JSON, place.token)
        if is_begun:
            remove_unfinished(files)
            files.abort_uploads(files.clock())
        return place

    def check(self) -> None:
        """Make sure that no other process has taken the place."""
        self.claim.check()
        try:
            ours = self.files.read(UNFINISHED_JSON) == self.token
        except FileNotFoundError:
            ours = False
        if not ours:
            raise UsageError(
                f"{self.files.url} was taken over by another `fossilray compact`; let that one finish, or use "
                "another place"
            )

    def announce(self, record: DatasetRecord) -> None:
        """Make the dataset visible as one, if all its files are there as they were written."""
        expected = {file.path: file.bytes for file in record.files}
        found = {
            entry.path: entry.bytes
            for folder in (OBJECTS, EMBEDDINGS)
            for entry in self.files.entries(folder)
        }
        differing = sorted(
            path
            for path in found.keys() | {path for path in expected if path.startswith((OBJECTS, EMBEDDINGS))}
            if found.get(path) != expected.get(path)
        )
        if differing:
            raise StoreError(
                f"{self.files.url}/{differing[0]} and {len(differing) - 1} more files changed while the dataset was "
                "made; check that no other process writes there, and start the same command again"
            )
        self.check()
        content = record.to_json()
        # An answer that got lost makes our own dataset look like another process's.
        if not self.files.create(DATASET_JSON, content) and self.files.read(DATASET_JSON) != content:
            raise UsageError(
                f"{self.files.url} was finished by another `fossilray compact` meanwhile; use that dataset, or "
                "another place"
            )

    @staticmethod
    def announced(files: Files, source: str, *, embeddings: bool) -> DatasetRecord | None:
        """The dataset of this run that a try announced just before it was cut short; None where there is none."""
        if not {DATASET_JSON, UNFINISHED_JSON} <= set(files.names("")):
            return None
        record = DatasetRecord.from_json(files.read(DATASET_JSON), url=files.url)
        is_asked = record.source == source and (record.embedding_dimension is not None) == embeddings
        return record if is_asked else None

    @staticmethod
    def tidy(files: Files) -> None:
        """Delete what only the making of a dataset needed; the sign that it was going on comes last."""
        remove_spares(files)
        if not files.links(CLAIMS):
            files.delete(CLAIMS)
        files.delete(UNFINISHED_JSON)
