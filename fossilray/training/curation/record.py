"""What a curation records."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from fossilray.core.config import CurationConfig


@dataclass(frozen=True)
class CuratedCluster:
    """One cluster and what becomes of it."""

    cluster: int
    family: int
    objects: int
    reason: str | None
    """The rule by which it is left out; None: it is kept."""
    weight: float
    """Of each of its crops; 0 where it is left out."""
    met: dict[str, float]
    """Share of its objects that meet each rule, where any does."""
    longest_um: float
    opacity: float
    """Means over its objects."""


@dataclass(frozen=True)
class CuratedRun:
    """A run that was curated, and what tells whether it is still the same."""

    url: str
    digest: str
    slides: int
    objects: int


@dataclass(frozen=True)
class CurationRecord:
    """What the table's footer holds under `fossilray`."""

    schema_version: int
    fossilray: str
    runs: tuple[CuratedRun, ...]
    backbone: tuple[str, ...]
    """Name and sha256 of what made the embeddings."""
    config: CurationConfig
    objects: int
    kept: int
    without_pixels: int
    without_vector: int
    clusters: tuple[CuratedCluster, ...]
    """Those that have any object."""

    def to_json(self) -> bytes:
        return json.dumps(
            {**asdict(self), "config": self.config.model_dump(mode="json")},
            sort_keys=True,
            ensure_ascii=False,
        ).encode()
