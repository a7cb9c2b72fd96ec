"""What an index says of itself: which vectors, coded how, and which slides each of its shards holds."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fossilray.analysis.search.quantizer import QuantizerTrial
from fossilray.core.formats import FileRole, build_record, parse_json, parse_record

INDEX_VERSION = 1
MOST_DIMENSIONS = 65_536
MOST_CROP_PX = 4096
MOST_LISTS = 2**24
_DATA = re.compile(r"data/[0-9a-f]{16}")


@dataclass(frozen=True)
class IndexRecord:
    """index.json, written once."""

    backbone: dict[str, Any]
    """Name, sha256 and dimension of what made the vectors."""
    crops: dict[str, Any]
    """size_px and fit of the crops that it saw, for images that are asked about."""
    coder: str
    """Its name in `coder.CODERS`."""
    coder_sha256: str
    lists: int
    taught_on: int
    """Vectors, of all wells alike."""
    trials: tuple[QuantizerTrial, ...] = ()
    """By which the coder was chosen; none where it was named."""
    schema_version: int = INDEX_VERSION
    fossilray: str = ""
    created_at: str = ""
    """UTC, ISO 8601."""

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False).encode() + b"\n"

    @staticmethod
    def from_json(text: bytes, *, url: str) -> IndexRecord:
        """The record in an index.json.

        Raises:
            StoreError: the file is not one that this fossilray wrote.
        """
        role = FileRole(
            f"{url}/index.json", "the record of an index", "build the index again in another place"
        )
        record = parse_record(IndexRecord, text, role)
        if record.schema_version != INDEX_VERSION:
            raise role.damaged(
                f"it is of version {record.schema_version}, this fossilray reads {INDEX_VERSION}"
            )
        dimension, side = record.backbone.get("dimension"), record.crops.get("size_px")
        if not isinstance(dimension, int) or not 1 <= dimension <= MOST_DIMENSIONS:
            raise role.damaged(f"it states vectors of {dimension!r:.40} numbers")
        if not isinstance(side, int) or not 1 <= side <= MOST_CROP_PX:
            raise role.damaged(f"it states crops of {side!r:.40} px")
        if not 1 <= record.lists <= MOST_LISTS:
            raise role.damaged(f"it states {record.lists:,} lists")
        return record


@dataclass(frozen=True)
class IndexedSlide:
    """A slide whose vectors an index holds, or shall hold."""

    run: str
    """Address of the run directory."""
    embeddings: str | None
    """Name of the vectors, of `fossilray embed`; None: the run's own."""
    slide_id: str
    well: str
    measured_depth_m: float | None
    attempt: str
    """Which attempt at the slide made the objects; arrays bear its name."""
    objects: int

    @property
    def key(self) -> tuple[str, str]:
        """What names a slide among several runs."""
        return self.run, self.slide_id

    def __str__(self) -> str:
        return f"{self.slide_id} ({self.run})"


@dataclass(frozen=True)
class ShardRecord:
    """shards/<key>.json, whose creation is the commit of the shard."""

    key: str
    data: str
    """Folder of its files, relative to the index."""
    coder_sha256: str
    slides: tuple[IndexedSlide, ...]
    """In the order of their positions: the objects of the first come first, by object_id."""
    entries: int
    """Vectors that are in it; objects without pixels or direction are not."""
    size_bytes: int
    sha256: tuple[str, ...] = ()
    """Of its files offsets, positions and codes; none in shards made before they were kept."""

    @property
    def objects(self) -> int:
        """Positions that its slides take."""
        return sum(slide.objects for slide in self.slides)

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), ensure_ascii=False).encode() + b"\n"

    @staticmethod
    def from_json(text: bytes, *, name: str) -> ShardRecord:
        """The record of a committed shard.

        Raises:
            StoreError: the file is not one that this fossilray wrote.
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
    """The slides in the plan of a shard.

    Raises:
        DamagedFile: it is none.
    """
    role = FileRole(name, "the plan of a shard of an index", "start `fossilray index build` again")
    stated = parse_json(text, role)
    if not isinstance(stated, list):
        raise role.damaged("it is no list of slides")
    return tuple(build_record(IndexedSlide, one, role) for one in stated)


def shard_key(slides: Sequence[IndexedSlide]) -> str:
    """A name for what these slides are, so that the same work done twice is committed once."""
    named = json.dumps([asdict(slide) for slide in slides], sort_keys=True)
    return f"shard-{hashlib.sha256(named.encode()).hexdigest()[:24]}"
