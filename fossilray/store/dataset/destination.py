"""The folder that a dataset is written to: claimed first, published by one create at the end."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass

from fossilray.core.errors import StoreError, UsageError
from fossilray.core.records import utc_now
from fossilray.store.dataset.dataset_store import (
    DATASET_JSON,
    EMBEDDINGS_FOLDER,
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
    """A folder claimed for a dataset, until another process writes its own token there."""

    files: Files
    token: bytes
    claim: Claim

    @staticmethod
    def check_free(files: Files) -> bool:
        """Return whether the folder holds an unfinished dataset; it is empty otherwise.

        Raises:
            UsageError: the folder holds a finished dataset, or files of another kind.
        """
        names = set(files.names("")) - {TEMPORARY, PROBE_FILES, CLAIMS}
        if DATASET_JSON in names:
            raise UsageError(
                f"{files.url} holds a finished dataset; choose another folder, or delete that dataset first"
            )
        if names and UNFINISHED_JSON not in names:
            raise UsageError(
                f"{files.url} is not empty and holds no unfinished dataset; choose a new folder with --to"
            )
        if names:
            check_unfinished(files)
        return bool(names)

    @staticmethod
    def claim_folder(files: Files, source: str, claim: Claim) -> DatasetDestination:
        """Claim the folder and remove an unfinished dataset from it.

        Raises:
            UsageError: the folder holds a finished dataset, or files of another kind.
            ConditionalCreateUnsupported: the store could not publish a dataset by one create.
        """
        is_begun = DatasetDestination.check_free(files)
        if not files.single_writer:
            check_conditional_create(files)
        stated = {"token": secrets.token_hex(8), "source": source, "began_at": utc_now()}
        destination = DatasetDestination(files, json.dumps(stated, indent=2).encode() + b"\n", claim)
        files.write(UNFINISHED_JSON, destination.token)
        if is_begun:
            remove_unfinished(files)
            files.abort_uploads(files.clock())
        return destination

    def require_claim(self) -> None:
        """Require that no other process has claimed the folder."""
        self.claim.check()
        try:
            ours = self.files.read(UNFINISHED_JSON) == self.token
        except FileNotFoundError:
            ours = False
        if not ours:
            raise UsageError(
                f"{self.files.url} was taken over by another `fossilray compact`; let that one finish, or use "
                "another folder"
            )

    def publish(self, record: DatasetRecord) -> None:
        """Publish the dataset, if the store has all its files as they were written."""
        expected = {file.path: file.bytes for file in record.files}
        stored = {
            entry.path: entry.bytes
            for folder in (OBJECTS, EMBEDDINGS_FOLDER)
            for entry in self.files.entries(folder)
        }
        differing = sorted(
            path
            for path in stored.keys()
            | {path for path in expected if path.startswith((OBJECTS, EMBEDDINGS_FOLDER))}
            if stored.get(path) != expected.get(path)
        )
        if differing:
            raise StoreError(
                f"{self.files.url}/{differing[0]} and {len(differing) - 1} more files changed while the dataset was "
                "made; check that no other process writes there, and start the same command again"
            )
        self.require_claim()
        content = record.to_json()
        # After a lost response a retry reports that the file exists; its content distinguishes the two.
        if not self.files.create(DATASET_JSON, content) and self.files.read(DATASET_JSON) != content:
            raise UsageError(
                f"{self.files.url} was finished by another `fossilray compact` meanwhile; use that dataset, or "
                "another folder"
            )

    @staticmethod
    def published(files: Files, source: str, *, embeddings: bool) -> DatasetRecord | None:
        """Return the dataset of this run that a killed process had already published; None if it is missing."""
        if not {DATASET_JSON, UNFINISHED_JSON} <= set(files.names("")):
            return None
        record = DatasetRecord.from_json(files.read(DATASET_JSON), url=files.url)
        is_same = record.source == source and (record.embedding_dimension is not None) == embeddings
        return record if is_same else None

    @staticmethod
    def tidy(files: Files) -> None:
        """Delete the files that only the writing needed; the mark of an unfinished dataset is deleted last."""
        remove_spares(files)
        if not files.links(CLAIMS):
            files.delete(CLAIMS)
        files.delete(UNFINISHED_JSON)
