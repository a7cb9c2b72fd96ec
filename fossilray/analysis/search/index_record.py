"""Records of an index and of its shards."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fossilray.analysis.search.quantizer import QuantizerTrial
from fossilray.core.formats import FileRole, build_record, parse_json, parse_record
from fossilray.store.run.json_record import JsonRecord

INDEX_SCHEMA_VERSION = 1
MAX_DIMENSIONS = 65_536
MAX_CROP_PX = 4096
MAX_LISTS = 2**24
_DATA = re.compile(r"data/[0-9a-f]{16}")


@dataclass(frozen=True)
class IndexRecord(JsonRecord):
    """The record of an index, index.json. Names of fields are keys of the file."""

    backbone: dict[str, Any]
    """Name, sha256 and dimension of the backbone."""
    crops: dict[str, Any]
    """size_px and fit of the crops, by which query images are prepared."""
    coder: str
    """Name of the quantizer, one of QUANTIZERS."""
    coder_sha256: str
    lists: int
    taught_on: int
    """Number of vectors that the quantizer was trained on."""
    trials: tuple[QuantizerTrial, ...] = ()
    """Comparison by which the quantizer was chosen; empty if it was given."""
    schema_version: int = INDEX_SCHEMA_VERSION
    fossilray: str = ""
    created_at: str = ""
    """UTC, ISO 8601."""

    @staticmethod
    def from_json(text: bytes, *, url: str) -> IndexRecord:
        """Parse an index.json.

        Raises:
            StoreError: the file is damaged, or of another version.
        """
        role = FileRole(
            f"{url}/index.json", "the record of an index", "build the index again in another folder"
        )
        record = IndexRecord.parse(text, role)
        if record.schema_version != INDEX_SCHEMA_VERSION:
            raise role.damaged(
                f"it is of version {record.schema_version}, this fossilray reads {INDEX_SCHEMA_VERSION}"
            )
        dimension, side = record.backbone.get("dimension"), record.crops.get("size_px")
        if not isinstance(dimension, int) or not 1 <= dimension <= MAX_DIMENSIONS:
            raise role.damaged(f"it states vectors of {dimension!r:.40} dimensions")
        if not isinstance(side, int) or not 1 <= side <= MAX_CROP_PX:
            raise role.damaged(f"it states crops of {side!r:.40} px")
        if not 1 <= record.lists <= MAX_LISTS:
            raise role.damaged(f"it states {record.lists:,} lists")
        return record


@dataclass(frozen=True)
class IndexedSlide:
    """A slide in an index, or in the plan of a shard. Names of fields are keys of the files."""

    run: str
    """URL of the run directory."""
    embeddings: str | None
    """Name of the embeddings, of `fossilray embed`; None: the run's own."""
    slide_id: str
    well: str
    measured_depth_m: float | None
    attempt: str
    """The attempt whose objects are indexed; their arrays have its name."""
    objects: int

    @property
    def key(self) -> tuple[str, str]:
        """Run and slide_id, which identify a slide among several runs."""
        return self.run, self.slide_id

    def __str__(self) -> str:
        return f"{self.slide_id} ({self.run})"


@dataclass(frozen=True)
class ShardRecord:
    """The record of a shard, shards/<key>.json, whose creation commits the shard."""

    key: str
    data: str
    """Folder of its files, relative to the index."""
    coder_sha256: str
    slides: tuple[IndexedSlide, ...]
    """In the order of positions: first the objects of the first slide by object_id, then those of the next."""
    entries: int
    """Vectors in the shard; objects without pixels, or with a vector of length 0, have none."""
    size_bytes: int
    sha256: tuple[str, ...] = ()
    """Digests of its files offsets, positions and codes; empty in shards made before 2026-12."""

    @property
    def objects(self) -> int:
        """Objects of its slides, which is the number of positions."""
        return sum(slide.objects for slide in self.slides)

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), ensure_ascii=False).encode() + b"\n"

    @staticmethod
    def from_json(text: bytes, *, name: str) -> ShardRecord:
        """Parse the record of a committed shard. `name` is the path of the file.

        Raises:
            StoreError: the file is damaged.
        """
        role = FileRole(
            name, "the record of a shard of an index", "delete it and start `fossilray index build` again"
        )
        record = parse_record(ShardRecord, text, role)
        if not _DATA.fullmatch(record.data) or record.key != name.rpartition("/")[2].removesuffix(".json"):
            raise role.damaged(f"it names the shard {record.key:.60} in {record.data:.60}")
        if not 0 <= record.entries <= record.objects or any(slide.objects < 0 for slide in record.slides):
            raise role.damaged(f"it counts {record.entries:,} entries for {record.objects:,} objects")
        return record


def slides_from(text: bytes, *, name: str) -> tuple[IndexedSlide, ...]:
    """Parse the plan of a shard. `name` is the path of the file.

    Raises:
        DamagedFile: the file is not a plan.
    """
    role = FileRole(name, "the plan of a shard of an index", "start `fossilray index build` again")
    slides = parse_json(text, role)
    if not isinstance(slides, list):
        raise role.damaged("it is not a list of slides")
    return tuple(build_record(IndexedSlide, slide, role) for slide in slides)


def shard_key(slides: Sequence[IndexedSlide]) -> str:
    """Return the key of a shard of these slides. Equal slides have equal keys, so that a shard is committed once."""
    content = json.dumps([asdict(slide) for slide in slides], sort_keys=True)
    return f"shard-{hashlib.sha256(content.encode()).hexdigest()[:24]}"
