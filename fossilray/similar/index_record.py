"""What an index says of itself: which vectors, coded how, and which slides each of its shards holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fossilray.errors import StoreError
from fossilray.similar.coder import Trial

INDEX_VERSION = 1


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
    trials: tuple[Trial, ...] = ()
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
        try:
            stated = json.loads(text)
            if stated["schema_version"] != INDEX_VERSION:
                raise ValueError(f"version {stated['schema_version']}")
            return IndexRecord(**{**stated, "trials": tuple(Trial(**one) for one in stated["trials"])})
        except (ValueError, TypeError, KeyError) as error:
            raise StoreError(
                f"{url}/index.json is not one that this fossilray reads ({error}); build the index in another place"
            ) from None


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
        try:
            stated = json.loads(text)
            return ShardRecord(**{**stated, "slides": slides_from(stated["slides"])})
        except (ValueError, TypeError, KeyError) as error:
            raise StoreError(
                f"{name} is no shard of an index ({error}); delete it and start `fossilray index build` again"
            ) from None


def slides_from(stated: Sequence[dict[str, Any]]) -> tuple[IndexedSlide, ...]:
    """Slides as JSON had them."""
    return tuple(IndexedSlide(**one) for one in stated)


def shard_key(slides: Sequence[IndexedSlide]) -> str:
    """A name for what these slides are, so that the same work done twice is committed once."""
    named = json.dumps([asdict(slide) for slide in slides], sort_keys=True)
    return f"shard-{hashlib.sha256(named.encode()).hexdigest()[:24]}"
