"""An index on a disk or in an object store: what lies where, and how a shard comes into it.

INDEX/
  index.json                 what it indexes and how, written once
  coder-<sha256>.faiss       axes, centres and ranges
  shards/<key>.json          its creation commits a shard: the slides it holds, and where its files are
  data/<random>/             offsets, positions, codes: a shard's entries by list; maker.json until it is committed
  plans/<key>.json           slides of a shard that is being made
  attempts/  drivers/        failures and heartbeats, as a run has them
Nothing is overwritten, so a search during a build sees whole shards.
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
_LEFTOVER_AGE = timedelta(days=2)
# What only builds name so; anything else in these folders is a person's.
_DATA = re.compile(r"data/[0-9a-f]{16}")
_PLAN = re.compile(r"plans/shard-[0-9a-f]{24}\.json")


class IndexStore:
    """One index; cheap to open."""

    def __init__(self, files: Files, record: IndexRecord) -> None:
        self.files = files
        if isinstance(files, LocalFiles):
            files.mark = INDEX_JSON
        self.record = record
        self.attempts = AttemptLog(files, self.committed)
        """Failures and heartbeats of builds; shards stand for slides."""

    @staticmethod
    def find(url: str, access: StoreConfig | None = None) -> IndexStore | None:
        """The index at a place; None if there is none.

        Raises:
            StoreError: the place cannot be read, or holds an index of another version.
        """
        files = open_files(url, access or StoreConfig())
        try:
            return IndexStore(files, IndexRecord.from_json(files.read(INDEX_JSON), url=files.url))
        except FileNotFoundError:
            return None

    @staticmethod
    def open(url: str, access: StoreConfig | None = None) -> IndexStore:
        """The index at a place.

        Raises:
            RunNotFound: there is none.
            StoreError: the place cannot be read, or holds an index of another version.
        """
        found = IndexStore.find(url, access)
        if found is None:
            raise RunNotFound(
                f"{url} holds no index (no {INDEX_JSON}); check the path, or build one with `fossilray index build`"
            )
        return found

    @staticmethod
    def create(
        url: str, record: IndexRecord, coder: VectorQuantizer, access: StoreConfig | None = None
    ) -> IndexStore:
        """A new index, or the one that somebody else made there a moment ago, which then stands.

        Raises:
            ConditionalCreateUnsupported: the store would let two workers commit one shard.
        """
        files = open_files(url, access or StoreConfig())
        check_conditional_create(files)
        files.write(coder_path(record.coder_sha256), coder.to_bytes())
        if files.create(INDEX_JSON, record.to_json()):
            return IndexStore(files, record)
        return IndexStore.open(url, access)

    @property
    def url(self) -> str:
        """The folder with its protocol; a plain absolute path on a disk."""
        return self.files.url

    def coder(self) -> VectorQuantizer:
        """The coder of all its shards.

        Raises:
            StoreError: it is gone or damaged.
        """
        path = coder_path(self.record.coder_sha256)
        try:
            content = self.files.read(path)
        except FileNotFoundError:
            raise StoreError(f"{self.url}/{path} is gone; build the index anew in another place") from None
        if digest_of(content) != self.record.coder_sha256:
            raise StoreError(
                f"{self.url}/{path} is not what was written; build the index anew in another place"
            )
        return VectorQuantizer.from_bytes(
            content,
            name=self.record.coder,
            dimension=int(self.record.backbone["dimension"]),
            lists=self.record.lists,
            place=f"{self.url}/{path}",
        )

    def shards(self) -> list[ShardRecord]:
        """All committed shards, by key.

        Raises:
            StoreError: a record is damaged, or of another coder.
        """
        paths = [path for path in self.files.find("shards") if path.endswith(".json")]
        found = [
            ShardRecord.from_json(content, name=f"{self.url}/{path}")
            for path, content in zip(paths, read_many(self.files, paths), strict=True)
        ]
        for one in found:
            if one.coder_sha256 != self.record.coder_sha256:
                raise StoreError(
                    f"{self.url}/shards/{one.key}.json is of another coder than the index, so its codes mean nothing "
                    "here; delete it and start `fossilray index build` again"
                )
        return found

    def committed(self) -> set[str]:
        """Keys of all committed shards."""
        return set(self.committed_files())

    def committed_files(self) -> dict[str, str]:
        """The record of each committed shard, relative to the index, by key."""
        paths = [path for path in self.files.find("shards") if path.endswith(".json")]
        return {path.rpartition("/")[2].removesuffix(".json"): path for path in paths}

    def plan(self, slides: Sequence[IndexedSlide]) -> str:
        """Write down which slides a shard shall hold; its key."""
        key = shard_key(slides)
        self.files.write(
            plan_path(key), json.dumps([asdict(slide) for slide in slides], ensure_ascii=False).encode()
        )
        return key

    def planned(self, key: str) -> tuple[IndexedSlide, ...]:
        """What `plan` wrote.

        Raises:
            StoreError: it is gone.
        """
        try:
            return slides_from(self.files.read(plan_path(key)), name=f"{self.url}/{plan_path(key)}")
        except FileNotFoundError:
            raise StoreError(
                f"{self.url}/{plan_path(key)} is gone; start `fossilray index build` again"
            ) from None

    def new_data(self) -> str:
        """A folder for the files of a shard that nobody else writes to, with a note of who does."""
        folder = f"data/{secrets.token_hex(8)}"
        self.files.write(f"{folder}/{_MAKER_JSON}", describe_maker())
        return folder

    def commit(self, shard: ShardRecord) -> bool:
        """Commit a shard whose files are written; False if somebody else's was first, which then stands."""
        path, content = f"shards/{shard.key}.json", shard.to_json()
        # An answer that got lost makes our own commit look like somebody else's.
        if self.files.create(path, content) or self.files.read(path) == content:
            self.files.delete(f"{shard.data}/{_MAKER_JSON}")
            return True
        self.files.delete(shard.data)
        return False

    def sweep(self) -> None:
        """Delete plans, and what builds left of shards that were killed on this machine, or anywhere days ago."""
        if isinstance(self.files, LocalFiles):
            for folder in self.files.names("data"):
                self.files.tidy_folder(f"data/{folder}")
        before = self.files.clock() - _LEFTOVER_AGE
        entries = self.files.entries("data")
        notes = [entry.path for entry in entries if entry.path.endswith(f"/{_MAKER_JSON}")]
        ended = {path for path, note in read_present(self.files, notes).items() if has_ended(note)}
        # Listed after it is known who is dead, for a dead process commits no more.
        kept = {shard.data for shard in self.shards()}
        left = {
            folder
            for entry in entries
            if (folder := entry.path.rpartition("/")[0]) not in kept
            and (entry.modified < before or entry.path in ended)
        }
        plans = self.files.find("plans")
        links = {
            path.partition("/")[0]: path for folder in ("data", "plans") for path in self.files.links(folder)
        }
        # A folder that holds a link is not as builds leave it.
        gone = [folder for folder in sorted(left) if _DATA.fullmatch(folder) and "data" not in links]
        if "data" not in links:
            folders = {path: path.rpartition("/")[0] for path in sorted(ended)}
            gone += [path for path, folder in folders.items() if folder in kept and _DATA.fullmatch(folder)]
        gone += [plan for plan in plans if _PLAN.fullmatch(plan) and "plans" not in links]
        for path in gone:
            self.files.delete(path)


def coder_path(sha256: str) -> str:
    """Where the coder of this digest lies."""
    return f"coder-{sha256[:16]}.faiss"


def plan_path(key: str) -> str:
    """Where the slides of a shard to be are written down."""
    return f"plans/{key}.json"


def digest_of(content: bytes) -> str:
    """sha256 of some bytes."""
    return hashlib.sha256(content).hexdigest()
