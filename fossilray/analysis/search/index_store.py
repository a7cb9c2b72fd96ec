"""Similarity index on a disk or in an object store: its layout, and the commit of shards.

INDEX/
  index.json                 record of the index, written once
  coder-<sha256>.faiss       the trained quantizer: axes, centres and ranges
  shards/<key>.json          record of a shard: its slides and the folder of its files; creating it commits the shard
  data/<random>/             offsets, positions, codes of a shard; maker.json until the shard is committed
  plans/<key>.json           slides of a shard that is being built
  attempts/  drivers/        failures and heartbeats, as in a run
Files are never overwritten, so that a search during a build sees whole shards.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta

from fossilray.analysis.search.index_record import (
    IndexedSlide,
    IndexRecord,
    ShardRecord,
    shard_key,
    slides_from,
)
from fossilray.analysis.search.quantizer import VectorQuantizer
from fossilray.core.config import StoreConfig
from fossilray.core.errors import RunNotFound, StoreError
from fossilray.store.files.base import Files, read_many, read_present
from fossilray.store.files.conditional_create import check_conditional_create
from fossilray.store.files.local import LocalFiles
from fossilray.store.files.open import open_files
from fossilray.store.files.process_note import describe_maker, has_ended
from fossilray.store.run.attempts import AttemptLog

INDEX_JSON = "index.json"
_MAKER_JSON = "maker.json"
_ORPHAN_AGE = timedelta(days=2)
# Names that builds give. Other entries of these folders are not deleted.
_DATA = re.compile(r"data/[0-9a-f]{16}")
_PLAN = re.compile(r"plans/shard-[0-9a-f]{24}\.json")


class IndexStore:
    """An index. Opening it reads only its record."""

    def __init__(self, files: Files, record: IndexRecord) -> None:
        self.files = files
        if isinstance(files, LocalFiles):
            files.mark = INDEX_JSON
        self.record = record
        self.attempts = AttemptLog(files, self.committed)
        """Failures and heartbeats of builds, by shard."""

    @staticmethod
    def find(url: str, access: StoreConfig | None = None) -> IndexStore | None:
        """Open the index at a URL; None if it is missing.

        Raises:
            StoreError: the folder cannot be read, or holds an index of another version.
        """
        files = open_files(url, access or StoreConfig())
        try:
            return IndexStore(files, IndexRecord.from_json(files.read(INDEX_JSON), url=files.url))
        except FileNotFoundError:
            return None

    @staticmethod
    def open(url: str, access: StoreConfig | None = None) -> IndexStore:
        """Open the index at a URL.

        Raises:
            RunNotFound: there is no index.
            StoreError: the folder cannot be read, or holds an index of another version.
        """
        index = IndexStore.find(url, access)
        if index is None:
            raise RunNotFound(
                f"{url} holds no index (no {INDEX_JSON}); check the path, or build one with `fossilray index build`"
            )
        return index

    @staticmethod
    def create(
        url: str, record: IndexRecord, quantizer: VectorQuantizer, access: StoreConfig | None = None
    ) -> IndexStore:
        """Create an index, or open the one that another process created there first.

        Raises:
            ConditionalCreateUnsupported: the store cannot create objects conditionally, so that two workers could
                commit one shard.
        """
        files = open_files(url, access or StoreConfig())
        check_conditional_create(files)
        files.write(quantizer_path(record.coder_sha256), quantizer.to_bytes())
        if files.create(INDEX_JSON, record.to_json()):
            return IndexStore(files, record)
        return IndexStore.open(url, access)

    @property
    def url(self) -> str:
        """URL of the folder; an absolute path on a local disk."""
        return self.files.url

    def load_quantizer(self) -> VectorQuantizer:
        """Load the quantizer of all shards.

        Raises:
            StoreError: its file is missing or damaged.
        """
        path = quantizer_path(self.record.coder_sha256)
        try:
            content = self.files.read(path)
        except FileNotFoundError:
            raise StoreError(
                f"{self.url}/{path} is missing; build the index again in another folder"
            ) from None
        if digest_of(content) != self.record.coder_sha256:
            raise StoreError(
                f"{self.url}/{path} differs from what was written; build the index again in another folder"
            )
        return VectorQuantizer.from_bytes(
            content,
            name=self.record.coder,
            dimension=int(self.record.backbone["dimension"]),
            lists=self.record.lists,
            path=f"{self.url}/{path}",
        )

    def shards(self) -> list[ShardRecord]:
        """Read the records of all committed shards, by key.

        Raises:
            StoreError: a record is damaged, or of another quantizer.
        """
        paths = [path for path in self.files.find("shards") if path.endswith(".json")]
        shards = [
            ShardRecord.from_json(content, name=f"{self.url}/{path}")
            for path, content in zip(paths, read_many(self.files, paths), strict=True)
        ]
        for shard in shards:
            if shard.coder_sha256 != self.record.coder_sha256:
                raise StoreError(
                    f"{self.url}/shards/{shard.key}.json is of another quantizer than the index, so its codes cannot "
                    "be searched; delete it and start `fossilray index build` again"
                )
        return shards

    def committed(self) -> set[str]:
        """Keys of all committed shards."""
        return set(self.committed_files())

    def committed_files(self) -> dict[str, str]:
        """The record of each committed shard, relative to the index, by key."""
        paths = [path for path in self.files.find("shards") if path.endswith(".json")]
        return {path.rpartition("/")[2].removesuffix(".json"): path for path in paths}

    def write_plan(self, slides: Sequence[IndexedSlide]) -> str:
        """Write the plan of a shard and return its key."""
        key = shard_key(slides)
        self.files.write(
            plan_path(key), json.dumps([asdict(slide) for slide in slides], ensure_ascii=False).encode()
        )
        return key

    def read_plan(self, key: str) -> tuple[IndexedSlide, ...]:
        """Read the slides in the plan of a shard.

        Raises:
            StoreError: the plan is missing or damaged.
        """
        try:
            return slides_from(self.files.read(plan_path(key)), name=f"{self.url}/{plan_path(key)}")
        except FileNotFoundError:
            raise StoreError(
                f"{self.url}/{plan_path(key)} is missing; start `fossilray index build` again"
            ) from None

    def create_data_folder(self) -> str:
        """Create a folder of unique name for the files of a shard, with a file that names this process."""
        folder = f"data/{secrets.token_hex(8)}"
        self.files.write(f"{folder}/{_MAKER_JSON}", describe_maker())
        return folder

    def commit(self, shard: ShardRecord) -> bool:
        """Commit a shard whose files are written; False if another process committed it first."""
        path, content = f"shards/{shard.key}.json", shard.to_json()
        # After a lost response the retry finds the record that this process created.
        if self.files.create(path, content) or self.files.read(path) == content:
            self.files.delete(f"{shard.data}/{_MAKER_JSON}")
            return True
        self.files.delete(shard.data)
        return False

    def collect_garbage(self) -> None:
        """Delete plans, and data of shards whose build has ended on this machine or is more than two days old."""
        if isinstance(self.files, LocalFiles):
            for folder in self.files.names("data"):
                self.files.tidy_folder(f"data/{folder}")
        before = self.files.clock() - _ORPHAN_AGE
        entries = self.files.entries("data")
        notes = [entry.path for entry in entries if entry.path.endswith(f"/{_MAKER_JSON}")]
        ended = {path for path, note in read_present(self.files, notes).items() if has_ended(note)}
        # Shards are listed after ended processes are known, because those commit no more.
        committed = {shard.data for shard in self.shards()}
        orphans = {
            folder
            for entry in entries
            if (folder := entry.path.rpartition("/")[0]) not in committed
            and (entry.modified < before or entry.path in ended)
        }
        plans = self.files.find("plans")
        links = {
            path.partition("/")[0]: path for folder in ("data", "plans") for path in self.files.links(folder)
        }
        # Builds make no links; a folder with one is left alone.
        garbage = [folder for folder in sorted(orphans) if _DATA.fullmatch(folder) and "data" not in links]
        if "data" not in links:
            folders = {path: path.rpartition("/")[0] for path in sorted(ended)}
            garbage += [
                path for path, folder in folders.items() if folder in committed and _DATA.fullmatch(folder)
            ]
        garbage += [plan for plan in plans if _PLAN.fullmatch(plan) and "plans" not in links]
        for path in garbage:
            self.files.delete(path)


def quantizer_path(sha256: str) -> str:
    """Return the path of a quantizer within the index."""
    return f"coder-{sha256[:16]}.faiss"


def plan_path(key: str) -> str:
    """Return the path of a shard's plan within the index."""
    return f"plans/{key}.json"


def digest_of(content: bytes) -> str:
    """Return the SHA-256 of bytes as hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
